package tokencache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeToken lives for the duration life after it was fetched. Its margin is a minute,
// or a fifth of its life if that is less.
type fakeToken struct {
	number  int
	fetched time.Time
	life    time.Duration
}

func (f fakeToken) Left(now time.Time) time.Duration { return f.fetched.Add(f.life).Sub(now) }
func (f fakeToken) Margin() time.Duration            { return min(time.Minute, f.life/5) }

var (
	errPassing = errors.New("passes by itself")
	errLasting = errors.New("lasts")
)

// world is a cache in a synctest bubble, and the server that issues its tokens. A
// token lives 300 s, and its margin is the last 60 of them.
type world struct {
	t     *testing.T
	cache *Cache[fakeToken]

	mu    sync.Mutex
	takes time.Duration // how long a call takes
	err   error         // the error of calls from now on
	calls int
	again []bool // the argument again of each call
}

func inWorld(t *testing.T, do func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t}
		w.cache = New[fakeToken](Options{Now: time.Now, Passing: func(err error) bool { return errors.Is(err, errPassing) }})
		defer w.cache.Close()
		do(w)
	})
}

func (w *world) fetch(ctx context.Context, again bool) (fakeToken, error) {
	w.mu.Lock()
	w.calls++
	w.again = append(w.again, again)
	got, err, takes := fakeToken{number: w.calls, fetched: time.Now(), life: 300 * time.Second}, w.err, w.takes
	w.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return fakeToken{}, ctx.Err()
	}
	if err != nil {
		return fakeToken{}, err
	}
	return got, nil
}

func (w *world) get() (Got[fakeToken], error) {
	return w.cache.Get(context.Background(), "key", "fingerprint", w.fetch)
}

// after waits for d, reads a token, and waits for a call that this may have started.
// It checks the token's number and how many calls there were.
func (w *world) after(d time.Duration, token, calls int) Got[fakeToken] {
	w.t.Helper()
	time.Sleep(d)
	got, err := w.get()
	if err != nil {
		w.t.Fatal(err)
	}
	w.cache.Wait()
	if got.Token.number != token || w.calls != calls {
		w.t.Errorf("token %d after %d calls, want token %d after %d", got.Token.number, w.calls, token, calls)
	}
	return got
}

// A read shortly before a token's margin returns that token, and starts a call for the
// next one. No reader waits for that call.
func TestRefreshAhead(t *testing.T) {
	inWorld(t, func(w *world) {
		if first := w.after(0, 1, 1); !first.Fetched || first.Trouble != nil {
			t.Errorf("%+v", first)
		}
		if kept := w.after(225*time.Second-1, 1, 1); kept.Fetched {
			t.Errorf("%+v", kept)
		}
		if ahead := w.after(1, 1, 2); ahead.Fetched { // of 300 s, 75 are left
			t.Errorf("%+v", ahead)
		}
		w.after(0, 2, 2)
		// If nobody reads the token shortly before its margin, the first reader in the margin waits.
		w.takes = time.Second
		start := time.Now()
		if late := w.after(240*time.Second, 3, 3); !late.Fetched || time.Since(start) != 241*time.Second {
			t.Errorf("%+v after %v", late, time.Since(start))
		}
	})
}

// Readers that need a token at the same time share one call, and Fetched is true for only
// one of them. Another key has a token and a call of its own.
func TestOneCallForManyReaders(t *testing.T) {
	inWorld(t, func(w *world) {
		w.takes = time.Second
		fetched := make(chan bool, 64)
		for range 64 {
			go func() {
				got, err := w.get()
				if err != nil || got.Token.number != 1 {
					t.Errorf("%+v, %v", got, err)
				}
				fetched <- got.Fetched
			}()
		}
		n := 0
		for range 64 {
			if <-fetched {
				n++
			}
		}
		if n != 1 || w.calls != 1 {
			t.Errorf("%d readers fetched it in %d calls", n, w.calls)
		}
		if other, err := w.cache.Get(w.t.Context(), "other", "fingerprint", w.fetch); err != nil ||
			other.Token.number != 2 || w.cache.Len() != 2 {
			t.Errorf("%+v, %v, %d entries", other, err, w.cache.Len())
		}
	})
}

// While calls fail with a temporary error, reads return the token until its last second. In its
// margin, they also return the error. For a twelfth of the margin after a failure no call starts,
// and no reader waits. In the token's last second each read starts a call and returns its error.
func TestOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		w.after(0, 1, 1)
		w.err = errPassing
		for _, read := range []struct {
			left    time.Duration
			calls   int
			trouble bool
		}{
			{74 * time.Second, 2, false}, {70 * time.Second, 2, false}, {69*time.Second + 1, 2, false},
			{69 * time.Second, 3, false},
			{60 * time.Second, 4, true}, {56 * time.Second, 4, true}, {55 * time.Second, 5, true}, {time.Second, 6, true},
		} {
			got := w.after(w.left()-read.left, 1, read.calls)
			if got.Fetched || errors.Is(got.Trouble, errPassing) != read.trouble {
				t.Errorf("with %v left: %+v", read.left, got)
			}
		}
		time.Sleep(time.Nanosecond)
		for calls := 7; calls <= 8; calls++ {
			if got, err := w.get(); !errors.Is(err, errPassing) || got.Fetched || w.calls != calls {
				t.Errorf("with less than a second left: %+v, %v, %d calls", got, err, w.calls)
			}
		}
		w.err = nil
		if got := w.after(0, 9, 9); !got.Fetched || got.Trouble != nil {
			t.Errorf("after the outage: %+v", got)
		}
		w.after(300*time.Second, 10, 10)
		want := []bool{false, false, true, true, true, true, true, true, true, false}
		for i, again := range w.again {
			if again != want[i] {
				t.Errorf("call %d is told that the one before it failed: %v", i+1, again)
			}
		}
	})
}

// left returns how much longer the cached token lives.
func (w *world) left() time.Duration { return w.cache.entries["key"].token.Left(time.Now()) }

// After an outage, a reader near the token's end gets a new token, and no error. If the
// token ends during a call that fails, the reader gets the error.
func TestTroubleInTheMargin(t *testing.T) {
	inWorld(t, func(w *world) {
		w.after(0, 1, 1)
		w.err = errPassing
		w.after(226*time.Second, 1, 2)
		w.err = nil
		w.after(73*time.Second, 3, 3) // the token had a second left
		w.err = errPassing
		w.takes = 2 * time.Second
		time.Sleep(298 * time.Second)
		if got, err := w.get(); !errors.Is(err, errPassing) || got.Token.number != 0 {
			t.Errorf("the token ended while its reader waited: %+v, %v", got, err)
		}
	})
}

// While calls fail with a permanent error, each read of a token in its margin starts a call and
// returns its error. Before the margin a read returns the token, and no call starts for a twelfth
// of the margin after a failure.
func TestLastingError(t *testing.T) {
	inWorld(t, func(w *world) {
		w.after(0, 1, 1)
		w.err = errLasting
		w.after(226*time.Second, 1, 2)
		w.after(0, 1, 2)
		time.Sleep(14 * time.Second)
		for calls := 3; calls <= 4; calls++ {
			if got, err := w.get(); !errors.Is(err, errLasting) || got.Token.number != 0 || w.calls != calls {
				t.Errorf("%+v, %v, %d calls", got, err, w.calls)
			}
		}
		w.err = nil
		w.after(0, 5, 5)
	})
}

// If the reader that started a call gives up, the call goes on, and a later reader gets its token.
func TestReaderGivesUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.takes = time.Minute
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		if got, err := w.cache.Get(ctx, "key", "fingerprint", w.fetch); !errors.Is(err, ErrGaveUp) || got.Token.number != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if got := w.after(0, 1, 1); got.Fetched {
			t.Error("the second reader takes the first one's call for its own")
		}
	})
}

// After the fingerprint has changed, Get returns neither the old token nor one from a call that
// started before the change.
func TestFingerprint(t *testing.T) {
	inWorld(t, func(w *world) {
		w.takes = time.Second
		go func() { _, _ = w.get() }()
		synctest.Wait()
		for range 2 {
			got, err := w.cache.Get(w.t.Context(), "key", "another", w.fetch)
			if err != nil || got.Token.number != 2 {
				t.Errorf("%+v, %v", got, err)
			}
		}
		if w.calls != 2 || w.cache.Len() != 1 {
			t.Errorf("%d calls, %d entries", w.calls, w.cache.Len())
		}
		w.after(0, 3, 3)
	})
}

// A reader that waits while its key is dropped still gets the token of its call. The next reader
// gets a new one. Keep drops all keys that it is not given.
func TestDropAndKeep(t *testing.T) {
	inWorld(t, func(w *world) {
		w.takes = time.Second
		waiting := make(chan Got[fakeToken])
		go func() {
			got, err := w.get()
			if err != nil {
				t.Error(err)
			}
			waiting <- got
		}()
		synctest.Wait()
		w.cache.Drop("key")
		if n := w.cache.Len(); n != 0 {
			t.Errorf("%d entries", n)
		}
		if got := <-waiting; got.Token.number != 1 {
			t.Errorf("%+v", got)
		}
		w.after(0, 2, 2)
		w.cache.Keep(map[string]bool{"key": true, "other": true})
		w.after(0, 2, 2)
		w.cache.Keep(map[string]bool{"other": true})
		w.after(0, 3, 3)
	})
}

// Close cancels the calls and waits for them. Afterwards no call begins, and the cache is empty.
func TestClose(t *testing.T) {
	inWorld(t, func(w *world) {
		w.after(0, 1, 1)
		waiting := make(chan error, 1)
		go func() {
			_, err := w.cache.Get(context.Background(), "other", "fingerprint",
				func(ctx context.Context, _ bool) (fakeToken, error) {
					<-ctx.Done()
					time.Sleep(time.Second)
					return fakeToken{}, ctx.Err()
				})
			waiting <- err
		}()
		synctest.Wait()
		start := time.Now()
		w.cache.Close()
		if took := time.Since(start); took != time.Second {
			t.Errorf("it closed after %v", took)
		}
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := w.get(); !errors.Is(err, ErrClosed) || w.calls != 1 || w.cache.Len() != 0 {
			t.Errorf("%v, %d calls, %d tokens", err, w.calls, w.cache.Len())
		}
	})
}

// Before the margin, NextIn sends readers back after the margin has begun, or in the last second of
// a short token, spread over a sixth of the margin. In the margin, it sends them back after at most
// a twelfth of the margin or half of what is left, whichever is less, but at least a second.
func TestNextIn(t *testing.T) {
	now := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	for _, life := range []time.Duration{1, 2, 4, 5, 10, 30, 300, 3600} {
		life *= time.Second
		token := fakeToken{fetched: now, life: life}
		margin := token.Margin()
		ages := []time.Duration{life - margin}
		for age := time.Duration(0); age < life; age += life / 64 {
			ages = append(ages, age)
		}
		for _, age := range ages {
			seen := map[time.Duration]bool{}
			for range 200 {
				in := time.Duration(NextIn(token, now.Add(age))) * time.Second
				seen[in] = true
				left := life - age
				switch {
				case in < time.Second:
					t.Fatalf("life %v, age %v: in %v", life, age, in)
				case left > margin && (left-in > max(margin, time.Second) || left-in <= margin-margin/6-time.Second):
					t.Fatalf("life %v, age %v: in %v, when %v are left", life, age, in, left-in)
				case left <= margin && in > max(min(margin/12, left/2), time.Second):
					t.Fatalf("life %v, age %v: in %v, in the margin", life, age, in)
				}
			}
			if want := int(margin/6/time.Second) + 1; life-age > margin && len(seen) != want {
				t.Fatalf("life %v, age %v: %d different, want %d", life, age, len(seen), want)
			}
		}
	}
}
