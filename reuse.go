package redox

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A token that is handed out again is renewed a part of its margin before that
// begins, so that readers need not wait for the next one. After a failure it
// rests for a part of the margin while it is good still.
const (
	aheadPart = 4  // 15 s of a minute
	restPart  = 12 // 5 s
)

// shelf keeps the tokens of clients with reuse_tokens, in memory alone.
type shelf struct {
	all sync.WaitGroup // requests under way

	mu      sync.Mutex // guards the three below, and what is in a slot; nothing waits under it
	slots   map[string]*slot
	flights map[*flight]bool
	closed  bool
}

// slot is a client's place on the shelf.
type slot struct {
	shape   string  // of the view that the token is for
	token   *issued // nil for none
	failure error   // of the last request, nil when it succeeded
	failed  time.Time
	flight  *flight // nil when no request is under way
}

// flight is one request, and what all who wait for it get.
type flight struct {
	cancel context.CancelFunc
	landed chan struct{} // closed when the two below are there
	taken  atomic.Bool   // one of those who waited for it counts it
	token  *issued
	err    error
}

// renewal requests a token; news tells whether the request before succeeded.
type renewal func(ctx context.Context, news bool) (*issued, error)

func newShelf() *shelf { return &shelf{slots: map[string]*slot{}, flights: map[*flight]bool{}} }

// reused returns the client's token in memory while it has more life than its
// margin, else a new one. All who need that at the same time share one request,
// which does not end with the reader who caused it. While Redox cannot be had,
// a token is handed out to its last second, and trouble says why. asked is true
// for one of those who waited for a token, so that a request counts once.
func (b *backend) reused(ctx context.Context, r *request, v *view) (t *issued, asked bool, trouble, err error) {
	t, f, trouble := b.tokens.take(r.client, v.shape, b.now, func(ctx context.Context, news bool) (*issued, error) {
		return b.renew(ctx, r, v, news)
	})
	if f == nil {
		return t, false, trouble, nil
	}
	select {
	case <-f.landed:
	case <-ctx.Done():
		return nil, false, nil, &upstreamError{Kind: timedOut, What: "the request was given up while it waited for a token"}
	}
	if t != nil && passes(f.err) && t.good(b.now()) {
		return t, false, f.err, nil
	}
	return f.token, f.err == nil && f.taken.CompareAndSwap(false, true), nil, f.err
}

// renew issues a token for the shelf. It runs in a goroutine of its own, whose
// panic would end the process, and maybe with nobody who waits for it: so an
// error is logged, if the request before did not fail as well.
func (b *backend) renew(ctx context.Context, r *request, v *view, news bool) (t *issued, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, b.recovered(r.Request, p)
		}
	}()
	if t, err = b.issue(ctx, r, v.config, v.ring); err != nil && news {
		b.log(r).Warn("there is no new token to hand out again", "error", err)
	}
	return t, err
}

// passes tells of an error, or of none, whether it is one that passes by itself.
func passes(err error) bool {
	var up *upstreamError
	return errors.As(err, &up)
}

// good tells whether a reader can do anything with the token.
func (t *issued) good(now time.Time) bool { return t.left(now) >= time.Second }

// take returns the token in the client's slot if that is good, and begins the
// request for the next one when it is due. f is what to wait for, nil when the
// token is to be used as it is; trouble is why that is one in its margin: that
// there is no other has just been seen.
func (s *shelf) take(client, shape string, clock func() time.Time, ask renewal) (t *issued, f *flight, trouble error) {
	now := clock()
	begin := func(at *slot) *flight { return s.askLocked(at, clock, ask) }
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.slots[client]
	if at == nil || at.shape != shape {
		at = &slot{shape: shape}
		s.slots[client] = at
	}
	if at.token == nil || !at.token.good(now) {
		return nil, begin(at), nil
	}
	left, margin := at.token.left(now), at.token.margin()
	rested := at.failure == nil || now.Sub(at.failed).Abs() >= margin/restPart
	switch {
	case left > margin:
		if rested && left <= margin+margin/aheadPart {
			begin(at)
		}
		return at.token, nil, nil
	case passes(at.failure) && !rested:
		return at.token, nil, at.failure
	}
	return at.token, begin(at), nil
}

// askLocked begins the request for a slot's next token, unless one is under
// way, and returns it.
func (s *shelf) askLocked(at *slot, clock func() time.Time, ask renewal) *flight {
	if at.flight != nil {
		return at.flight
	}
	// Not a reader's context, as many wait for it: ask has a limit of its own.
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{cancel: cancel, landed: make(chan struct{})}
	if s.closed {
		cancel()
		f.err = &upstreamError{Kind: overloaded, What: "the engine is being stopped or reloaded: try again"}
		close(f.landed)
		return f
	}
	at.flight, s.flights[f] = f, true
	news := at.failure == nil
	s.all.Go(func() {
		defer close(f.landed)
		defer cancel()
		f.token, f.err = ask(ctx, news)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.flights, f)
		at.flight = nil
		if at.failure = f.err; f.err == nil {
			at.token = f.token
		} else {
			at.failed = clock()
		}
	})
	return f
}

// keep forgets the tokens of all but these clients.
func (s *shelf) keep(clients map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.slots, func(client string, _ *slot) bool { return !clients[client] })
}

// drop forgets a client's token. Who waits for one already still gets that.
func (s *shelf) drop(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.slots, client)
}

// close ends all requests and waits until they have.
func (s *shelf) close() {
	s.mu.Lock()
	s.closed = true
	for f := range s.flights {
		f.cancel()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// nextIn returns after how many seconds the next token is handed out in place
// of one with so much left, so that a reader who obeys does not come in vain. A
// sixth of the margin is added at random: readers who share a token would else
// all come in the same second.
func (t *issued) nextIn(now time.Time) int64 {
	left, margin := t.left(now), t.margin()
	if left <= margin {
		return max(1, int64(min(margin/restPart, left/2)/time.Second))
	}
	wait := int64((left - margin + time.Second - 1) / time.Second)
	wait = min(wait, max(1, int64(left/time.Second)))        // of a life of two or three seconds
	return wait + rand.Int64N(int64(margin/6/time.Second)+1) //nolint:gosec // spreads load, guards nothing
}
