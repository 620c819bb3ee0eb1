package redox

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// rotateOne takes one client's ring one step on, in one write at most. It
// returns when to look again: at once after a step, and zero when nothing waits
// for a time.
func (b *backend) rotateOne(ctx context.Context, s logical.Storage, client string) (look time.Time, err error) {
	if !b.WriteSafeReplicationState() {
		return time.Time{}, nil // another node does it
	}
	r := &request{Request: &logical.Request{Storage: s, MountPoint: b.logbook.mountPoint()}, client: client}
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

// nextStep settles the ring and says what is next; without a config, or without
// a key, nothing is.
func (b *backend) nextStep(ctx context.Context, r *request) (*config, *keyring.Ring, keyring.Step, error) {
	doubt := b.rotation.takeDoubt(r.client)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	c, ring, changed, err := settled(ctx, r, now)
	if err != nil || c == nil || len(ring.Keys) == 0 {
		return nil, nil, keyring.Step{}, err
	}
	changed = doubt && ring.Doubt(now) || changed
	if changed {
		if err := b.putRing(ctx, r, ring); err != nil {
			return nil, nil, keyring.Step{}, err
		}
	}
	return c, ring, ring.Next(c.policy(), now), nil
}

// settled reads a client's config, nil when there is none, and its ring, which
// it makes fit the config and the time now.
func settled(ctx context.Context, r *request, now time.Time) (c *config, ring *keyring.Ring, changed bool, err error) {
	c, ring, err = stored(ctx, r)
	if err != nil || c == nil {
		return nil, nil, false, err
	}
	to, err := aim(ctx, r, c)
	if err != nil {
		return nil, nil, false, err
	}
	changed = ring.Settle(c.policy(), now)
	return c, ring, ring.Aim(to) || changed, nil
}

// prepare does what of a step is slow, without the lock, and returns what is
// then to be done with the ring.
func (b *backend) prepare(ctx context.Context, r *request, c *config, ring *keyring.Ring, step keyring.Step) (func(*keyring.Ring, time.Time) error, error) {
	switch step.Action {
	case keyring.Add:
		k, err := b.generateSuccessor(ctx, ring.Active())
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
	case keyring.Publish:
		return b.publish(ctx, r, c, ring), ctx.Err()
	}
	_, err := b.prove(ctx, r, c, step.Key)
	return func(ring *keyring.Ring, now time.Time) error { return proved(ring, step.Key.ID, err, now) }, ctx.Err()
}

// generateSuccessor makes one key at a time, so that many rings that are due at
// once leave the processor to reads.
func (b *backend) generateSuccessor(ctx context.Context, active *keyring.Key) (*keyring.Key, error) {
	select {
	case b.rotation.generating <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-b.rotation.generating }()
	return keyring.Generate(successorBits(active.Bits), b.now())
}

// proved notes how the proof of a key went: at best it signs from now on.
func proved(ring *keyring.Ring, id keyring.ID, err error, now time.Time) error {
	if err == nil {
		return ring.Activate(id, now)
	}
	return noteFailure(&ring.Get(id).Proofs, err, now)
}

// finish writes the outcome of a step, unless somebody has changed since what
// it was decided by; then the next look decides anew.
func (b *backend) finish(ctx context.Context, r *request, decided *config, step keyring.Step, do func(*keyring.Ring, time.Time) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	c, ring, _, err := settled(ctx, r, now)
	if err != nil || c == nil {
		return err
	}
	if !c.sameIdentity(decided) || !ring.Next(c.policy(), now).Same(step) {
		return nil
	}
	if err := do(ring, now); err != nil {
		return err
	}
	ring.Settle(c.policy(), now)
	if err := b.putRing(ctx, r, ring); err != nil {
		return err
	}
	if step.Action == keyring.Drop {
		b.pool.forget(r.client) // its memory may hold the key
	}
	b.report(r, step, ring)
	return nil
}

// report logs what a step has made of the ring, now that it is stored.
func (b *backend) report(r *request, step keyring.Step, ring *keyring.Ring) {
	log := b.log(r)
	switch step.Action {
	case keyring.Add:
		log.Info("rotation begins", "key_id", ring.Pending().ID, "replaces", ring.Active().ID)
	case keyring.Drop:
		log.Info("rotation ends: the retired key is deleted", "key_id", step.Key.ID)
	case keyring.Publish:
		if p := ring.Publication; p.Failure != "" {
			log.Warn("the public keys at Redox are not up to date", "reason", p.Failure, "refusals", p.Refusals, "next_at", p.NextAt)
		}
	case keyring.Prove:
		k := ring.Get(step.Key.ID)
		if k.State == keyring.Active {
			log.Info("signing key changed", "key_id", k.ID, "proved", true)
			return
		}
		log.Warn("rotation waits: the new key is not proved, the old one goes on signing", "key_id", k.ID,
			"reason", k.Proofs.Failure, "refusals", k.Proofs.Refusals, "next_proof_at", k.Proofs.NextAt)
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
