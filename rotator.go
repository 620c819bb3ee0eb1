package redox

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// rotator is the goroutine that carries rotations on. Vault starts it when the
// mount is ready, and again each minute in case it ended; Clean stops it. What
// it does next stands in storage, so it may be stopped anywhere.
type rotator struct {
	mu     sync.Mutex // guards the three below
	cancel context.CancelFunc
	done   chan struct{}   // closed when the goroutine has ended
	doubts map[string]bool // clients whose active key Redox did not know

	bell chan struct{} // holds one ring at most: look at the rings now
}

// lookAgain is when to look at the rings again at the latest: after trouble
// with storage, and because a clock may have been set.
const lookAgain = time.Minute

// wake makes a running rotator look at the rings.
func (r *rotator) wake() {
	select {
	case r.bell <- struct{}{}:
	default:
	}
}

// doubt has the rotator see whether Redox still lists the keys of a client.
func (r *rotator) doubt(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubts[client] = true
	r.wake()
}

func (r *rotator) takeDoubt(client string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	doubted := r.doubts[client]
	delete(r.doubts, client)
	return doubted
}

// start begins the rotator, unless it runs.
func (r *rotator) start(run func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil {
		select {
		case <-r.done:
		default:
			return
		}
	}
	// Not a request's context: the work outlives the one that starts it.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.cancel, r.done = cancel, done
	go func() {
		defer close(done)
		run(ctx)
	}()
}

// stop ends the rotator and waits until it has.
func (r *rotator) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
}

// startRotation is what Vault calls when the mount is ready, and each minute.
func (b *backend) startRotation(s logical.Storage) {
	b.rotation.start(func(ctx context.Context) { b.rotateForever(ctx, s) })
}

func (b *backend) rotateForever(ctx context.Context, s logical.Storage) {
	for ctx.Err() == nil {
		wait := lookAgain
		if look := b.rotateAll(ctx, s); !look.IsZero() {
			wait = min(wait, max(look.Sub(b.now()), 0))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-b.rotation.bell:
		}
		timer.Stop()
	}
}

// rotateAll takes each ring one step on, and returns when to look again; zero
// when nothing waits for a time.
func (b *backend) rotateAll(ctx context.Context, s logical.Storage) (look time.Time) {
	if !b.WriteSafeReplicationState() {
		return time.Time{} // another node does it
	}
	var names []string
	look = b.safely(ctx, "", func() (_ time.Time, err error) {
		names, err = store.List(ctx, s, clientsPrefix)
		return time.Time{}, err
	})
	// Side by side, as each may wait for a Redox of its own.
	var mu sync.Mutex // guards look
	var all sync.WaitGroup
	places := make(chan struct{}, rotateAtOnce)
	for _, name := range names {
		client := strings.TrimSuffix(name, "/")
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			at := b.safely(ctx, client, func() (time.Time, error) { return b.rotateOne(ctx, s, client) })
			mu.Lock()
			defer mu.Unlock()
			if !at.IsZero() && (look.IsZero() || at.Before(look)) {
				look = at
			}
		})
	}
	all.Wait()
	return look
}

// rotateAtOnce is how many rings are taken on at once.
const rotateAtOnce = 16

// safely logs an error of step, or a panic, whose value may be a secret, and
// then has it tried again in a minute.
func (b *backend) safely(ctx context.Context, client string, step func() (time.Time, error)) (look time.Time) {
	defer func() {
		if p := recover(); p != nil {
			b.Logger().Error("panic in a rotation: please report this", "client", client, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			look = b.now().Add(lookAgain)
		}
	}()
	look, err := step()
	if err != nil && ctx.Err() == nil {
		b.Logger().Error("rotation: tried again in a minute", "client", client, "error", err)
		look = b.now().Add(lookAgain)
	}
	return look
}
