package redox

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// rotator is the goroutine that carries rotations on. Vault starts it when the
// mount is ready, and again each minute in case it ended; Clean stops it. What
// it does next stands in storage, so it may be stopped anywhere.
type rotator struct {
	mu     sync.Mutex // guards the two below
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

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
	b.rotation.start(func(ctx context.Context) {
		defer func() {
			if p := recover(); p != nil { // the next minute starts it again
				b.Logger().Error("panic in a rotation: please report this", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			}
		}()
		b.rotateForever(ctx, s)
	})
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
	names, err := store.List(ctx, s, clientsPrefix)
	if err != nil {
		b.Logger().Error("rotation: the clients cannot be listed", "error", err)
		return b.now().Add(lookAgain)
	}
	for _, name := range names {
		client := strings.TrimSuffix(name, "/")
		at, err := b.rotateOne(ctx, s, client)
		if err != nil && ctx.Err() == nil {
			b.Logger().Error("rotation: tried again in a minute", "client", client, "error", err)
			at = b.now().Add(lookAgain)
		}
		if !at.IsZero() && (look.IsZero() || at.Before(look)) {
			look = at
		}
	}
	return look
}

// rotateOne takes one client's ring one step on, in one write at most. It
// returns when to look again: at once after a step.
func (b *backend) rotateOne(ctx context.Context, s logical.Storage, client string) (look time.Time, err error) {
	r := &request{Request: &logical.Request{Storage: s}, client: client}
	c, ring, step, err := b.nextStep(ctx, r)
	if err != nil || c == nil {
		return time.Time{}, err
	}
	if step.Action == keyring.Wait {
		return step.At, nil
	}
	finish, err := b.prepare(ctx, r, c, ring, step)
	if err != nil {
		return time.Time{}, err
	}
	return b.now(), b.finish(ctx, r, c, step, finish)
}

// nextStep settles the ring and says what is next; without a config nothing is.
func (b *backend) nextStep(ctx context.Context, r *request) (*config, *keyring.Ring, keyring.Step, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ring, err := stored(ctx, r)
	if err != nil || c == nil {
		return nil, nil, keyring.Step{}, err
	}
	now := b.now()
	if ring.Settle(c.policy(), now) {
		if err := putRing(ctx, r, ring); err != nil {
			return nil, nil, keyring.Step{}, err
		}
	}
	return c, ring, ring.Next(c.policy(), now), nil
}

// prepare does what of a step is slow, without the lock, and returns what is
// then to be done with the ring.
func (b *backend) prepare(ctx context.Context, r *request, c *config, ring *keyring.Ring, step keyring.Step) (func(*keyring.Ring, time.Time) error, error) {
	switch step.Action {
	case keyring.Add:
		k, err := keyring.Generate(successorBits(ring.Active().Bits), b.now())
		if err != nil {
			return nil, err
		}
		return func(ring *keyring.Ring, now time.Time) error {
			if _, _, err := ring.Add(k, now); err != nil {
				return err
			}
			_, err := ring.Rotate()
			return err
		}, nil
	case keyring.Drop:
		return func(ring *keyring.Ring, _ time.Time) error { return ring.Remove(step.Key.ID, false) }, nil
	}
	_, err := b.prove(ctx, r, c, step.Key)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return func(ring *keyring.Ring, now time.Time) error { return proved(ring, step.Key.ID, err, now) }, nil
}

// proved notes how the proof of a key went: at best it signs from now on.
func proved(ring *keyring.Ring, id keyring.ID, err error, now time.Time) error {
	if err == nil {
		return ring.Activate(id, now)
	}
	var t *tokenError
	if !errors.As(err, &t) {
		return err // not a word of Redox's: the key cannot be read, or the like
	}
	// The remedy is left out: it names paths of a mount that may move.
	if reason := t.err.Error(); isRefusal(err) {
		ring.Refused(id, reason, now)
	} else {
		ring.Unanswered(id, reason, now)
	}
	return nil
}

// finish writes the outcome of a step, unless somebody has changed since what
// it was decided by; then the next look decides anew.
func (b *backend) finish(ctx context.Context, r *request, decided *config, step keyring.Step, do func(*keyring.Ring, time.Time) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ring, err := stored(ctx, r)
	if err != nil {
		return err
	}
	now := b.now()
	if c == nil || !c.sameIdentity(decided) || !ring.Next(c.policy(), now).Same(step) {
		return nil
	}
	if err := do(ring, now); err != nil {
		return err
	}
	ring.Settle(c.policy(), now)
	if err := putRing(ctx, r, ring); err != nil {
		return err
	}
	b.report(r, step, ring)
	return nil
}

// report logs what a step has made of the ring, now that it is stored.
func (b *backend) report(r *request, step keyring.Step, ring *keyring.Ring) {
	log := b.Logger().With("client", r.client)
	switch step.Action {
	case keyring.Add:
		log.Info("rotation begins", "key_id", ring.Pending().ID, "replaces", ring.Active().ID)
	case keyring.Drop:
		log.Info("rotation ends: the retired key is deleted", "key_id", step.Key.ID)
	case keyring.Prove:
		k := ring.Get(step.Key.ID)
		if k.State == keyring.Active {
			log.Info("signing key changed", "key_id", k.ID, "proved", true)
			return
		}
		log.Warn("rotation waits: the new key is not proved, the old one goes on signing", "key_id", k.ID,
			"reason", k.LastProof, "refusals", k.Refusals, "next_proof_at", k.NextProofAt)
	}
}

// successorBits is the size of a key that replaces one of the given size,
// which may be any when that was imported.
func successorBits(bits int) int {
	switch {
	case bits <= 2048:
		return 2048
	case bits <= 3072:
		return 3072
	}
	return 4096
}

// stored reads a client's config, nil when there is none, and its ring.
func stored(ctx context.Context, r *request) (*config, *keyring.Ring, error) {
	c, err := store.Get[config](ctx, r.Storage, configKey(r.client))
	if err != nil {
		return nil, nil, err
	}
	ring, err := getRing(ctx, r)
	return c, ring, err
}
