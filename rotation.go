package redox

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/schedule"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// startRotation starts the work on rotations, unless it is under way already. It is called
// when Vault initializes the mount, and each minute.
func (e *engine) startRotation(s logical.Storage) { e.schedule.Start(e.work(s)) }

func (e *engine) work(s logical.Storage) schedule.Work {
	return schedule.Work{
		List: func(ctx context.Context) (names []string, err error) {
			err = e.safely(ctx, "", func() error {
				names, err = e.listClients(ctx, s)
				return err
			})
			return names, err
		},
		Step: func(ctx context.Context, client string) (next time.Time, err error) {
			err = e.safely(ctx, client, func() error {
				next, err = e.step(ctx, s, client)
				return err
			})
			return next, err
		},
	}
}

// safely runs do, and returns its error or an error that stands for its panic. It logs an
// error, unless ctx has ended. It logs a panic, but not the panic's value, which may be a
// secret. After either, the schedule tries again in a minute.
func (e *engine) safely(ctx context.Context, client string, do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.log.of(client, "").Error("panic in a rotation: please report this",
				"panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = errors.New("panic in a rotation: please report this")
		}
		if client != "" && ctx.Err() == nil {
			e.failures.note(client, err, e.now())
		}
	}()
	err = do()
	if err != nil && ctx.Err() == nil {
		e.log.of(client, "").Error("rotation failed: tried again in a minute", "error", err)
	}
	return err
}

// listClients returns the names of all clients, or none if another node rotates the keys.
// If it reads the names, it also frees memory that is used for deleted clients: a read that
// began before the deletion may have left something.
func (e *engine) listClients(ctx context.Context, s logical.Storage) ([]string, error) {
	if !e.writeSafe() {
		return nil, nil // another node does the work
	}
	names, err := loadClients(ctx, s)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, name := range names {
		there[name] = true
	}
	e.tokens.Keep(there)
	e.connections.keep(there)
	e.rechecks.keep(there)
	e.failures.keep(there)
	e.overviews.keep(there)
	e.log.keep(there)
	return names, nil
}

// step brings a client's ring up to date and does its next step. It returns when to do the
// following one: now if it did a step, zero if there is nothing to wait for.
func (e *engine) step(ctx context.Context, s logical.Storage, client string) (next time.Time, err error) {
	if !e.writeSafe() {
		return time.Time{}, nil // the active node rotates keys
	}
	r := &request{Request: &logical.Request{Storage: s}, client: client, worker: true}
	decided, step, err := e.decide(ctx, r)
	if err != nil || decided == nil {
		return time.Time{}, err
	}
	if step.Action == keyring.Wait {
		return step.At, nil
	}
	apply, err := e.prepare(ctx, r, decided, step)
	if err != nil {
		return time.Time{}, err
	}
	return e.now(), e.finish(ctx, r, decided, step, apply)
}

// decide brings the ring up to date with the config, the time and what requests found out,
// and returns the next step. decided is the state that the step is based on. It is nil if
// there is no config or no key, and then there is no step.
func (e *engine) decide(ctx context.Context, r *request) (decided *state, step keyring.Step, err error) {
	recheck := e.rechecks.take(r.client)
	err = e.update(ctx, r, func(s *state) error {
		e.overviews.note(r.client, s)
		if s.Config == nil || len(s.Ring.Keys) == 0 {
			return nil
		}
		if err := settle(ctx, r, s, e.now()); err != nil {
			return err
		}
		if recheck.mended {
			s.Ring.Retry()
		}
		recheck.accepted.noteIn(s.Ring)
		if recheck.unknownKey {
			s.Ring.Recheck(e.now())
		}
		decided, step = s, s.Ring.Next(s.Config.policy(), e.now())
		return nil
	})
	var unreadable store.UnreadableError
	if errors.As(err, &unreadable) {
		e.overviews.set(r.client, overview{unreadable: true})
	}
	if err != nil && ctx.Err() == nil { // else the client was deleted, or the mount ends
		e.rechecks.add(r.client, recheck)
	}
	return decided, step, err
}

// settle brings the ring up to date with the config and the time.
func settle(ctx context.Context, r *request, s *state, now time.Time) error {
	to, err := publishTo(ctx, r, s.Config)
	s.Ring.Settle(s.Config.policy(), now)
	var unreadable store.UnreadableError
	switch {
	case errors.As(err, &unreadable): // the platform client's config; this client's keys are deleted in time even so
	case err != nil:
		return err
	default:
		s.Ring.PublishTo(to)
	}
	return nil
}

// prepare does the slow part of a step, without the lock, and returns the change
// to apply to the ring.
func (e *engine) prepare(ctx context.Context, r *request, decided *state, step keyring.Step) (change, error) {
	switch step.Action {
	case keyring.Add:
		k, err := e.generate(ctx, r, successorBits(decided.Ring.Active().Bits))
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
		return func(ring *keyring.Ring, _ time.Time) error { ring.Drop(step.Key.ID); return nil }, nil
	case keyring.Publish:
		return e.publish(ctx, r, decided), ctx.Err()
	}
	c, err := e.clientNamed(r, r.client, decided.Config)
	if err != nil {
		return nil, err
	}
	if step.Action == keyring.Accept {
		c.metrics = nil // Redox may not know the key yet, and nobody asked for this request
	}
	_, err = c.prove(ctx, step.Key)
	where := decided.Config.where()
	return func(ring *keyring.Ring, now time.Time) error {
		return noteProof(ring.Get(step.Key.ID), ring, where, err, now)
	}, ctx.Err()
}

// noteProof records in the ring the result of proving k: err, which is nil if Redox
// accepted k. where is the fingerprint of the settings that were used. A proved key
// becomes active. noteProof returns err if [noteFailure] does not record it.
func noteProof(k *keyring.Key, ring *keyring.Ring, where string, err error, now time.Time) error {
	if err != nil {
		return noteFailure(&k.Proofs, err, now)
	}
	k.Accept(where)
	return ring.Activate(k.ID, now)
}

// finish stores the outcome of a step. It drops the outcome if meanwhile another step has
// become the next one, or the fingerprint of the config has changed.
func (e *engine) finish(ctx context.Context, r *request, decided *state, step keyring.Step, apply change) error {
	var done *keyring.Ring
	err := e.update(ctx, r, func(s *state) error {
		if !s.pointsAs(decided.Config) {
			return nil
		}
		now := e.now()
		if err := settle(ctx, r, s, now); err != nil {
			return err
		}
		if !s.Ring.Next(s.Config.policy(), now).Same(step) {
			return nil
		}
		if err := apply(s.Ring, now); err != nil {
			return err
		}
		s.Ring.Settle(s.Config.policy(), now)
		done = s.Ring
		return nil
	})
	if err == nil && done != nil {
		e.report(r, step, done)
	}
	return err
}

// report logs the outcome of a step, once it is stored.
func (e *engine) report(r *request, step keyring.Step, ring *keyring.Ring) {
	log := e.log.of(r.client, "")
	switch step.Action {
	case keyring.Add:
		log.Info("rotation begins", "key_id", ring.Pending().ID, "replaces", ring.Active().ID)
	case keyring.Drop:
		log.Info("rotation ends: the retired key is deleted", "key_id", step.Key.ID)
	case keyring.Publish:
		if p := ring.Publication; p.Failure != "" {
			log.Warn("the public keys at Redox are not up to date",
				"reason", p.Failure, "refusals", p.Refusals, "next_at", p.NextAt)
		}
	case keyring.Accept:
		if k := ring.Get(step.Key.ID); k.Accepted != "" {
			log.Info("Redox accepted the signing key for the first time", "key_id", k.ID)
		} else {
			log.Debug("Redox has not accepted the signing key yet", "key_id", k.ID, "reason", k.Proofs.Failure,
				"next_at", k.Proofs.NextAt)
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

// successorBits returns the size in bits of the next key: bits rounded up to 2048, 3072
// or 4096. Keys that were stored before there were limits can be larger, and a key of 4096
// bits follows them.
func successorBits(bits int) int {
	switch {
	case bits <= 2048:
		return 2048
	case bits <= 3072:
		return 3072
	}
	return 4096
}
