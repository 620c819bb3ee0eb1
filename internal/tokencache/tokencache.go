// Package tokencache keeps one token per key for many readers, and fetches the next one in a single
// call for all of them. It knows nothing of Redox or of Vault: the caller defines what a token is
// and how it is fetched.
package tokencache

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// Just before the margin, for a quarter of the margin's length, a read starts the call for the next
// token and does not wait for it. After a failed call, no call starts for a twelfth of the margin,
// unless there is no token, or the token has less than a second left, or it is in its margin and the
// error is permanent.
const (
	aheadPart = 4  // a quarter: 15 s of a minute
	restPart  = 12 // a twelfth: 5 s of a minute
)

// Token is what the cache needs to know about a token.
type Token interface {
	comparable // the zero value means no token

	// Left returns how much longer the token lives; negative if it has ended.
	Left(now time.Time) time.Duration
	// Margin returns how long before the token's end readers should stop using it.
	Margin() time.Duration
}

// Get returns these errors. All its other errors come from fetch.
var (
	ErrClosed = errors.New("the token cache is closed")
	ErrGaveUp = errors.New("the reader gave up while it waited for a token")
)

// Fetch requests a token. again is true if the previous call for the same entry failed. ctx ends
// when the cache is closed, but not when a reader gives up.
type Fetch[T Token] func(ctx context.Context, again bool) (T, error)

// Options configures a [Cache].
type Options struct {
	Now func() time.Time

	// Passing reports whether an error is temporary. While calls fail with temporary
	// errors, Get returns the old token until its last second.
	Passing func(error) bool
}

// Cache has at most one entry for each key. It is safe for concurrent use.
type Cache[T Token] struct {
	now     func() time.Time
	passing func(error) bool
	ctx     context.Context // of all calls of fetch
	cancel  context.CancelFunc
	calls   sync.WaitGroup

	mu      sync.Mutex // guards entries and their fields; no function waits while it holds mu
	entries map[string]*entry[T]
}

type entry[T Token] struct {
	fingerprint string // of everything that affects the token
	token       T      // zero for none
	err         error  // of the last call, nil when it succeeded
	failedAt    time.Time
	call        *call[T] // nil when none is under way
}

// call is one call of fetch, and its result for all readers that wait for it.
type call[T Token] struct {
	done  chan struct{} // closed when token and err are set
	token T
	err   error
}

// New returns an empty cache.
func New[T Token](o Options) *Cache[T] {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:gosec // Close cancels it
	return &Cache[T]{now: o.Now, passing: o.Passing, ctx: ctx, cancel: cancel, entries: map[string]*entry[T]{}}
}

// Got is a token, and where it came from.
type Got[T Token] struct {
	Token   T
	Fetched bool  // this reader started the call that fetched it
	Trouble error // why there is no newer token although this one is in its margin, else nil
}

// Get returns a token for key: the one in the cache if it has not reached its margin and has the
// same fingerprint, else a new one from fetch. Readers that need a new token at the same time share
// one call, which goes on even if the reader that started it gives up. While calls fail with a
// temporary error, Get returns the old token until its last second. The error is fetch's,
// [ErrClosed] or [ErrGaveUp].
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

// good reports whether the token lives for at least another second.
func (c *Cache[T]) good(t T) bool { return t.Left(c.now()) >= time.Second }

// look returns the token in the entry if that is good, and starts the call for the next one if it
// is time. waitFor is the call to wait for, nil if the token is to be used as it is. began reports
// whether look started waitFor. The error is [ErrClosed].
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

// callLocked starts a call for the next token of an entry, and returns it. If one
// runs already, it returns that one, and began is false.
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

// Keep deletes the tokens of all keys that are not in keys.
func (c *Cache[T]) Keep(keys map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.entries, func(key string, _ *entry[T]) bool { return !keys[key] })
}

// Drop deletes the token of key. Readers that already wait for a call still get its result.
func (c *Cache[T]) Drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

// Close cancels all calls, waits until they have ended, and deletes all tokens. Afterwards no call
// begins.
func (c *Cache[T]) Close() {
	c.mu.Lock() // no call may start between cancel and Wait
	c.cancel()
	c.mu.Unlock()
	c.calls.Wait()
	c.Keep(nil)
}

// Len returns the number of entries.
func (c *Cache[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// Wait returns when no call is under way.
func (c *Cache[T]) Wait() { c.calls.Wait() }

// NextIn returns after how many seconds a reader should ask again. Before the margin, that is when
// the margin begins, because a read then gets a newer token. NextIn adds up to a sixth of the
// margin at random: otherwise all readers that share a token would ask in the same second. In the
// margin the pause is short, because the newer token is late.
func NextIn[T Token](t T, now time.Time) int64 {
	left, margin := t.Left(now), t.Margin()
	if left <= margin {
		return max(1, int64(min(margin/restPart, left/2)/time.Second))
	}
	wait := int64((left - margin + time.Second - 1) / time.Second)
	wait = min(wait, max(1, int64(left/time.Second)))        // for a token that lives less than five seconds
	return wait + rand.Int64N(int64(margin/6/time.Second)+1) //nolint:gosec // spreads load, guards nothing
}
