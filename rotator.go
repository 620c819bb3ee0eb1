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

// rotator carries rotations on: one goroutine for each client, as each may
// wait for a Redox of its own, and one that knows which clients there are.
// Vault starts it when the mount is ready, and again each minute in case it
// ended; Clean stops it. What it does next stands in storage, so it may be
// stopped anywhere.
type rotator struct {
	running sync.Mutex // held to start or stop it; guards the two below
	cancel  context.CancelFunc
	done    chan struct{} // closed when all goroutines have ended

	generating chan struct{} // has room for one that generates a key

	mu     sync.Mutex      // guards the three below; nothing waits under it
	bell   bell            // of the one that knows the clients
	bells  map[string]bell // of the clients
	doubts map[string]bool // clients whose active key Redox did not know
}

// bell holds one ring at most: look now.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// wait returns after d, when the bell rings, or when ctx ends.
func (b bell) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-b:
	}
}

// lookAgain is when to look at the clients and their rings again at the latest:
// after trouble with storage, and because a clock may have been set.
const lookAgain = time.Minute

func newRotator() *rotator {
	return &rotator{generating: make(chan struct{}, 1), bell: newBell(), bells: map[string]bell{}, doubts: map[string]bool{}}
}

// wake makes a running rotator look at all rings.
func (r *rotator) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bell.ring()
	for _, b := range r.bells {
		b.ring()
	}
}

// doubt has the rotator see whether Redox still lists the keys of a client.
func (r *rotator) doubt(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubts[client] = true
	if b := r.bells[client]; b != nil {
		b.ring()
	}
}

func (r *rotator) takeDoubt(client string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	doubted := r.doubts[client]
	delete(r.doubts, client)
	return doubted
}

// join gives a client its bell; leave takes it away, unless another has joined
// for that client since.
func (r *rotator) join(client string) bell {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := newBell()
	r.bells[client] = b
	return b
}

func (r *rotator) leave(client string, b bell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bells[client] == b {
		delete(r.bells, client)
	}
}

// start begins the rotator, unless it runs.
func (r *rotator) start(run func(context.Context)) {
	r.running.Lock()
	defer r.running.Unlock()
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
	r.running.Lock()
	defer r.running.Unlock()
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
}

// startRotation is what Vault calls when the mount is ready, and each minute.
func (b *backend) startRotation(s logical.Storage) {
	b.rotation.start(func(ctx context.Context) { b.rotateForever(ctx, s) })
}

// rotateForever keeps a goroutine for each client there is.
func (b *backend) rotateForever(ctx context.Context, s logical.Storage) {
	var all sync.WaitGroup
	defer all.Wait()
	stops := map[string]context.CancelFunc{}
	for ctx.Err() == nil {
		b.safely(ctx, "", func() (time.Time, error) {
			names, err := store.List(ctx, s, clientsPrefix)
			if err != nil {
				return time.Time{}, err
			}
			there := map[string]bool{}
			for _, name := range names {
				there[strings.TrimSuffix(name, "/")] = true
			}
			// A read that began before its client was deleted may have left these.
			b.tokens.keep(there)
			b.pool.keep(there)
			for client, stop := range stops {
				if !there[client] {
					stop()
					delete(stops, client)
				}
			}
			for client := range there {
				if stops[client] != nil {
					continue
				}
				ctx, stop := context.WithCancel(ctx)
				stops[client] = stop
				all.Go(func() { b.rotateClient(ctx, s, client) })
			}
			return time.Time{}, nil
		})
		b.rotation.bell.wait(ctx, lookAgain)
	}
}

// rotateClient carries on the rotations of one client.
func (b *backend) rotateClient(ctx context.Context, s logical.Storage, client string) {
	bell := b.rotation.join(client)
	defer b.rotation.leave(client, bell)
	for ctx.Err() == nil {
		wait := lookAgain
		if look := b.rotateSafely(ctx, s, client); !look.IsZero() {
			wait = min(wait, max(look.Sub(b.now()), 0))
		}
		bell.wait(ctx, wait)
	}
}

// rotateSafely is rotateOne, but comes back in a minute after an error or a
// panic.
func (b *backend) rotateSafely(ctx context.Context, s logical.Storage, client string) (look time.Time) {
	return b.safely(ctx, client, func() (time.Time, error) { return b.rotateOne(ctx, s, client) })
}

// safely logs an error of step, or a panic, whose value may be a secret, and
// then says to look again in a minute.
func (b *backend) safely(ctx context.Context, client string, step func() (time.Time, error)) (look time.Time) {
	defer func() {
		if p := recover(); p != nil {
			b.Logger().Error("panic in a rotation: please report this", "mount", b.logbook.mountPoint(), "client", client, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			look = b.now().Add(lookAgain)
		}
	}()
	look, err := step()
	if err != nil && ctx.Err() == nil {
		b.Logger().Error("rotation: tried again in a minute", "mount", b.logbook.mountPoint(), "client", client, "error", err)
		look = b.now().Add(lookAgain)
	}
	return look
}
