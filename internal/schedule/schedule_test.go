package schedule

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a schedule in a synctest bubble, and its clients.
type world struct {
	*Schedule
	t *testing.T

	mu      sync.Mutex
	clients []string
	err     error                                                   // that reading the list returns
	step    map[string]func(ctx context.Context) (time.Time, error) // a client without one has nothing to do
	lists   []time.Duration                                         // when the list was read, since begun
	steps   map[string][]time.Duration                              // when a client's steps began, since begun
	begun   time.Time                                               // when the test began
}

func inWorld(t *testing.T, clients []string, do func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Schedule: New(time.Now), t: t, clients: clients, begun: time.Now()}
		w.step, w.steps = map[string]func(context.Context) (time.Time, error){}, map[string][]time.Duration{}
		defer w.Stop()
		do(w)
	})
}

// work returns the work of the schedule.
func (w *world) work() Work {
	return Work{
		List: func(context.Context) ([]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lists = append(w.lists, time.Since(w.begun))
			return slices.Clone(w.clients), w.err
		},
		Step: func(ctx context.Context, client string) (time.Time, error) {
			w.mu.Lock()
			w.steps[client] = append(w.steps[client], time.Since(w.begun))
			step := w.step[client]
			w.mu.Unlock()
			if step == nil {
				return time.Time{}, nil
			}
			return step(ctx)
		},
	}
}

// set runs change while it holds the lock.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// after waits for d, and then until all goroutines wait.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// saw checks when the list was read and when each client's steps began.
func (w *world) saw(lists []time.Duration, steps map[string][]time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.lists, lists) {
		w.t.Errorf("the list was read at %v, want %v", w.lists, lists)
	}
	for client, want := range steps {
		if !slices.Equal(w.steps[client], want) {
			w.t.Errorf("steps of %s began at %v, want %v", client, w.steps[client], want)
		}
	}
}

var errTest = errors.New("it fails")

const second, minute = time.Second, time.Minute

// A step runs when it is due, and at least once a minute. After an error it runs in a
// minute, and the time that was returned with the error is ignored.
func TestWhenStepsRun(t *testing.T) {
	inWorld(t, []string{"idle", "due", "later", "failing", "past"}, func(w *world) {
		in := func(d time.Duration, err error) func(context.Context) (time.Time, error) {
			return func(context.Context) (time.Time, error) { return time.Now().Add(d), err }
		}
		w.step["due"], w.step["later"], w.step["failing"] = in(40*second, nil), in(time.Hour, nil), in(second, errTest)
		past := false
		w.step["past"] = func(context.Context) (time.Time, error) {
			if past = !past; past {
				return time.Now().Add(-time.Hour), nil
			}
			return time.Time{}, nil
		}
		w.Start(w.work())
		w.after(2*minute + second)
		w.saw([]time.Duration{0, minute, 2 * minute}, map[string][]time.Duration{
			"idle": {0, minute, 2 * minute}, "due": {0, 40 * second, 80 * second, 2 * minute}, "later": {0, minute, 2 * minute},
			"failing": {0, minute, 2 * minute}, "past": {0, 0, minute, minute, 2 * minute, 2 * minute},
		})
	})
}

// One worker runs a client's steps, one after the other, and does not delay other
// workers. If a client is woken several times during a step, only one more step
// follows.
func TestSlowStep(t *testing.T) {
	inWorld(t, []string{"slow", "quick"}, func(w *world) {
		w.step["slow"] = func(context.Context) (time.Time, error) {
			time.Sleep(100 * second)
			return time.Time{}, nil
		}
		w.Start(w.work())
		w.after(90 * second)
		for range 9 {
			w.Wake("slow")
		}
		if n := w.Workers(); n != 2 {
			t.Errorf("%d workers", n)
		}
		w.after(171 * second)
		everyMinute := []time.Duration{0, minute, 2 * minute, 3 * minute, 4 * minute}
		w.saw(everyMinute, map[string][]time.Duration{"slow": {0, 100 * second, 260 * second}, "quick": everyMinute})
	})
}

// Wake makes a client's next step run at once. For a client without a worker it makes
// the list be read, and so does Relist.
func TestWake(t *testing.T) {
	inWorld(t, []string{"old"}, func(w *world) {
		w.Start(w.work())
		w.after(10 * second)
		w.Wake("old")
		w.after(0)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"old": {0, 10 * second}})
		w.set(func() { w.clients = []string{"old", "new"} })
		w.after(10 * second)
		w.Wake("new")
		w.after(10 * second)
		w.Relist()
		w.after(0)
		w.saw([]time.Duration{0, 20 * second, 30 * second}, map[string][]time.Duration{
			"old": {0, 10 * second}, "new": {20 * second},
		})
	})
}

// A client that is not in the list loses its worker, and the context of its step
// ends. When it is in the list again it gets another worker. If the list cannot be
// read, nothing changes.
func TestClientsComeAndGo(t *testing.T) {
	inWorld(t, []string{"stays", "goes"}, func(w *world) {
		ended := 0
		w.step["goes"] = func(ctx context.Context) (time.Time, error) {
			<-ctx.Done()
			ended++
			return time.Time{}, ctx.Err()
		}
		workers := func(want int) {
			t.Helper()
			w.Relist()
			w.after(0)
			if n := w.Workers(); n != want {
				t.Errorf("%d workers, want %d", n, want)
			}
		}
		w.Start(w.work())
		workers(2)
		w.set(func() { w.err, w.clients = errTest, nil })
		workers(2)
		w.set(func() { w.err, w.clients = nil, []string{"stays"} })
		workers(1)
		if ended != 1 {
			t.Errorf("%d steps ended", ended)
		}
		w.set(func() { w.clients = []string{"stays", "goes"} })
		workers(2)
		w.saw(make([]time.Duration, len(w.lists)), map[string][]time.Duration{"stays": {0}, "goes": {0, 0}})
	})
}

// Start does nothing while the work runs. Stop ends each step and waits for it, and
// may be called before Start. Afterwards Start works again.
func TestStartAndStop(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(w *world) {
		w.Stop()
		w.step["a"] = func(ctx context.Context) (time.Time, error) {
			<-ctx.Done()
			time.Sleep(5 * second) // must end before Stop returns
			return time.Time{}, nil
		}
		for round := range 2 {
			for range 3 {
				w.Start(w.work())
				w.after(0)
			}
			start := time.Now()
			w.Stop()
			w.Stop()
			if took := time.Since(start); took != 5*second || w.Workers() != 0 {
				t.Errorf("round %d: it stopped after %v with %d workers", round, took, w.Workers())
			}
		}
		w.Wake("a")
		w.Relist()
		w.after(10 * minute)
		w.saw([]time.Duration{0, 5 * second}, map[string][]time.Duration{"a": {0, 5 * second}, "b": {0, 5 * second}})
	})
}

// Stop ends a read of the list that waits for storage. Meanwhile Wake and Workers do
// not wait for a lock.
func TestStopDuringAList(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		work := w.work()
		work.List = func(ctx context.Context) ([]string, error) {
			<-ctx.Done()
			return []string{"a"}, nil
		}
		w.Start(work)
		w.after(0)
		w.Wake("a")
		w.Relist()
		w.Stop()
		w.saw(nil, map[string][]time.Duration{"a": nil})
	})
}
