package redox

import (
	"context"
	"sync"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// life is the time of a mount from Factory to Clean. When it ends, the requests under
// way are cancelled, and no other begins.
type life struct {
	ctx    context.Context // ends with it
	cancel context.CancelFunc

	mu       sync.Mutex                    // guards cancels; none is added after the end
	cancels  map[uint64]context.CancelFunc // of the requests under way
	last     uint64
	requests sync.WaitGroup
}

func newLife() *life {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:gosec // end cancels it
	return &life{ctx: ctx, cancel: cancel, cancels: map[uint64]context.CancelFunc{}}
}

// begin returns the context for a request: ctx, but it also ends with the life. The caller
// must call done with id when the request ends. begin fails if the life has ended.
func (l *life) begin(ctx context.Context) (requestCtx context.Context, id uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended() {
		return nil, 0, errEnded()
	}
	l.requests.Add(1)
	l.last++
	ctx, l.cancels[l.last] = context.WithCancel(ctx)
	return ctx, l.last, nil
}

func (l *life) done(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancels[id]()
	delete(l.cancels, id)
	l.requests.Done()
}

// end cancels the requests under way.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel()
	for _, cancel := range l.cancels {
		cancel()
	}
}

// wait returns when the last request has ended.
func (l *life) wait() { l.requests.Wait() }

func (l *life) ended() bool { return l.ctx.Err() != nil }

// errEnded is the error of a request that came after the end of the mount, or failed
// after it.
func errEnded() error {
	return &redoxapi.UpstreamError{
		Kind: redoxapi.Overloaded, What: "the engine is being stopped or reloaded: try again",
	}
}
