// Package tokencache keeps a token for many readers, and fetches the next one
// in a single call for all of them. It knows nothing of Redox or of Vault: what
// a token is and how one is fetched are its caller's.
package tokencache

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// A token is refreshed a part of its margin before that begins, so that readers
// need not wait for the next one. After a failed call the cache rests for a part
// of the margin while the token is good still.
const (
	aheadPart = 4  // 15 s of a minute
	restPart  = 12 // 5 s
)

// Token is what the cache has to know of a token.
type Token interface {
	comparable // its zero value is no token

	// Left returns how much of its life the token has; negative when it has ended.
	Left(now time.Time) time.Duration
	// Margin returns how long before its end nobody should rely on it any more.
	Margin() time.Duration
}

// Errors of [Cache.Get] that do not come from fetch.
var (
	ErrClosed = errors.New("the token cache is closed")
	ErrGaveUp = errors.New("the reader gave up while it waited for a token")
)

// Fetch requests a token. again is true when the call before this one failed. ctx
// ends when the cache is closed, not when a reader gives up.
type Fetch[T Token] func(ctx context.Context, again bool) (T, error)

// Options are the parts of a [Cache] that its caller has.
type Options struct {
	Now func() time.Time

	// Passing reports whether an error of a call may pass by itself. While calls
	// fail with one, a token is handed out to its last second.
	Passing func(error) bool
}

// Cache has an entry for each key. Many may use it at once.
type Cache[T Token] struct {
	now     func() time.Time
	passing func(error) bool
	ctx     context.Context // of all calls
	cancel  context.CancelFunc
	calls   sync.WaitGroup

	mu      sync.Mutex // guards entries and what is in them; nothing waits under it
	entries map[string]*entry[T]
}

type entry[T Token] struct {
	fingerprint string // of all that shapes the token
	token       T      // zero for none
	err         error  // of the last call, nil when it succeeded
	failedAt    time.Time
	call        *call[T] // nil when none is under way
}

// call is one fetch, and what all who wait for it get.
type call[T Token] struct {
	done  chan struct{} // closed when the two below are there
	token T
	err   error
}

// New returns an empty cache.
func New[T Token](o Options) *Cache[T] {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:gosec // Close cancels it
	return &Cache[T]{now: o.Now, passing: o.Passing, ctx: ctx, cancel: cancel, entries: map[string]*entry[T]{}}
}

// Got is a token, and how it came to be handed out.
type Got[T Token] struct {
	Token   T
	Fetched bool  // this reader's call fetched it; else it was there, or another reader's call fetched it
	Trouble error // why there is no newer token, though this one is in its margin; nil when it is not
}

// Get returns the token of key while that has more life than its margin and the
// fingerprint is the same, else a new one from fetch. All who need that at the
// same time share one call, which does not end with the reader who began it.
// While calls fail with a passing error, Get returns the token to its last second.
// The error is fetch's, [ErrClosed] or [ErrGaveUp].
func (c *Cache[T]) Get(ctx context.Context, key, fingerprint string, fetch Fetch[T]) (Got[T], error) {
	got, waitFor, began, err := c.look(key, fingerprint, fetch)
	if err != nil || waitFor == nil {
		return got, err
	}
	select {
	case <-waitFor.done:
	case <-ctx.Done():
		return Got[T]{}, ErrGaveUp
	}
	var none T
	if got.Token != none && waitFor.err != nil && c.passing(waitFor.err) && c.good(got.Token) {
		return Got[T]{Token: got.Token, Trouble: waitFor.err}, nil
	}
	return Got[T]{Token: waitFor.token, Fetched: began && waitFor.err == nil}, waitFor.err
}

// good reports whether a reader can do anything with the token.
func (c *Cache[T]) good(t T) bool { return t.Left(c.now()) >= time.Second }

// look returns the token in the entry if that is good, and begins the call for
// the next one when it is due. waitFor is the call to wait for, nil when the
// token is to be used as it is. The error is [ErrClosed].
func (c *Cache[T]) look(key, fingerprint string, fetch Fetch[T]) (got Got[T], waitFor *call[T], began bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return Got[T]{}, nil, false, ErrClosed
	}
	e := c.entries[key]
	if e == nil || e.fingerprint != fingerprint {
		e = &entry[T]{fingerprint: fingerprint}
		c.entries[key] = e
	}
	var none T
	if e.token == none || !c.good(e.token) {
		waitFor, began = c.callLocked(e, fetch)
		return Got[T]{}, waitFor, began, nil
	}
	now := c.now()
	left, margin := e.token.Left(now), e.token.Margin()
	rested := e.err == nil || now.Sub(e.failedAt).Abs() >= margin/restPart
	switch {
	case left > margin:
		if rested && left <= margin+margin/aheadPart {
			c.callLocked(e, fetch)
		}
		return Got[T]{Token: e.token}, nil, false, nil
	case !rested && c.passing(e.err):
		return Got[T]{Token: e.token, Trouble: e.err}, nil, false, nil
	}
	waitFor, began = c.callLocked(e, fetch)
	return Got[T]{Token: e.token}, waitFor, began, nil
}

// callLocked begins the call for an entry's next token, unless one is under way,
// and returns it. began is true when it did.
func (c *Cache[T]) callLocked(e *entry[T], fetch Fetch[T]) (f *call[T], began bool) {
	if e.call != nil {
		return e.call, false
	}
	f = &call[T]{done: make(chan struct{})}
	e.call = f
	again := e.err != nil
	c.calls.Go(func() {
		defer close(f.done)
		f.token, f.err = fetch(c.ctx, again)
		c.mu.Lock()
		defer c.mu.Unlock()
		e.call = nil
		if e.err = f.err; f.err == nil {
			e.token = f.token
		} else {
			e.failedAt = c.now()
		}
	})
	return f, true
}

// Keep forgets the tokens of all but these keys.
func (c *Cache[T]) Keep(keys map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.entries, func(key string, _ *entry[T]) bool { return !keys[key] })
}

// Drop forgets the token of key. Who waits for one already still gets that.
func (c *Cache[T]) Drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

// Close ends all calls, waits until they have ended, and forgets all tokens.
// Afterwards no call begins.
func (c *Cache[T]) Close() {
	c.mu.Lock() // no call begins between the two below
	c.cancel()
	c.mu.Unlock()
	c.calls.Wait()
	c.Keep(nil)
}

// Len returns how many entries there are.
func (c *Cache[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// Wait returns when no call is under way.
func (c *Cache[T]) Wait() { c.calls.Wait() }

// NextIn returns after how many seconds the cache hands out the next token in
// place of t, so that a reader who comes then gets it. A sixth of the
// margin is added at random: readers who share a token would else all come in
// the same second.
func NextIn[T Token](t T, now time.Time) int64 {
	left, margin := t.Left(now), t.Margin()
	if left <= margin {
		return max(1, int64(min(margin/restPart, left/2)/time.Second))
	}
	wait := int64((left - margin + time.Second - 1) / time.Second)
	wait = min(wait, max(1, int64(left/time.Second)))        // of a life of two or three seconds
	return wait + rand.Int64N(int64(margin/6/time.Second)+1) //nolint:gosec // spreads load, guards nothing
}
