package keyring

import "time"

// Policy says how a ring rotates. The values come from the client's config.
type Policy struct {
	Period      time.Duration // how long a key signs before the next rotation begins; 0: rotations begin only on request
	Window      time.Duration // shortest time from publishing a key to the worker's proof, except with Manual
	RetireAfter time.Duration // how long a replaced key stays in the ring at least, unless somebody deletes it
	Publishing  Publishing    // how Redox learns the public keys
}

// Publishing is how Redox learns the ring's public keys.
type Publishing string

// These are the ways to publish. With Manual, the engine learns that a key was pasted only when
// Redox accepts the key.
const (
	Manual      Publishing = "pasted"  // somebody pastes the JWK Set
	JWKSURL     Publishing = "fetched" // Redox fetches the JWK Set from Vault
	PlatformAPI Publishing = "pushed"  // the engine keeps Redox's list up to date
)

// Action is what must be done next with a ring.
type Action string

// These are the actions. The caller carries out each one except Wait, and then stores the outcome
// with one write.
const (
	Wait  Action = "wait"
	Add   Action = "add"   // generate a key, add it to the ring, and call Rotate
	Prove Action = "prove" // request a token with the key, then call Accept and Activate, or record the failure in Proofs
	Drop  Action = "drop"  // delete the key with Ring.Drop

	// Accept: request a token with the active key, then call Key.Accept, or record the failure in Proofs.
	Accept Action = "accept"

	Publish Action = "publish" // merge the ring into Redox's list, call Sent, then Listed or record the failure
)

// Step is the next thing to do with a ring.
type Step struct {
	Action Action
	Key    *Key      // for Prove, Drop and Accept
	Set    string    // for Publish: the fingerprint of the update
	At     time.Time // for Wait: when to call Next again; zero if time alone changes nothing
}

// Same reports whether both steps are the same action, with the same key or the same
// update.
func (s Step) Same(other Step) bool {
	if s.Key == nil || other.Key == nil {
		return s.Action == other.Action && s.Key == other.Key && s.Set == other.Set
	}
	return s.Action == other.Action && s.Key.ID == other.Key.ID && s.Key.samePair(other.Key)
}

// Next returns the next step for the ring at the time now. It changes nothing, so a step that was
// interrupted is returned again. It does not bring the ring up to date first: [Ring.Settle] and
// [Ring.PublishTo] do.
func (r *Ring) Next(p Policy, now time.Time) Step {
	var look time.Time
	for _, k := range r.In(Retiring) {
		if r.Keeps(k) {
			continue
		}
		end := k.RetiredAt.Add(p.RetireAfter)
		if !now.Before(end) {
			return Step{Action: Drop, Key: k}
		}
		look = earlier(look, end)
	}
	if r.Publication != nil && r.Active() != nil {
		if !now.Before(r.Publication.NextAt) {
			return Step{Action: Publish, Set: r.fingerprint()}
		}
		look = earlier(look, r.Publication.NextAt)
	}
	if k := r.unaccepted(p); k != nil {
		if !now.Before(k.Proofs.NextAt) {
			return Step{Action: Accept, Key: k}
		}
		look = earlier(look, k.Proofs.NextAt)
	}
	due := r.Due(p)
	overdue := !due.IsZero() && !now.Before(due)
	k := r.Pending()
	switch {
	case k != nil && (k.Rotating || overdue):
		if !k.Published(p) {
			return Step{Action: Wait, At: look}
		}
		from := k.ProvableFrom(p)
		if !now.Before(from) {
			return Step{Action: Prove, Key: k}
		}
		return Step{Action: Wait, At: earlier(look, from)}
	case overdue && r.CanAdd() == nil:
		return Step{Action: Add}
	case overdue:
		return Step{Action: Wait, At: look}
	}
	return Step{Action: Wait, At: earlier(look, due)}
}

// Due returns when the next automatic rotation begins, the zero time if none will.
func (r *Ring) Due(p Policy) time.Time {
	active := r.Active()
	if active == nil || p.Period == 0 {
		return time.Time{}
	}
	return active.ActivatedAt.Add(p.Period)
}

// Published reports whether Redox may know the pending key k. If somebody has to paste the keys, it
// returns true: the engine cannot know whether k was pasted, and a proof will show it.
func (k *Key) Published(p Policy) bool { return p.Publishing == Manual || !k.PublishedAt.IsZero() }

// ProvableFrom returns the earliest time for the worker's next proof of the pending key k. The
// caller has checked that k is published.
func (k *Key) ProvableFrom(p Policy) time.Time {
	from := k.Proofs.NextAt
	if published := k.PublishedAt.Add(p.Window); p.Publishing != Manual && published.After(from) {
		from = published
	}
	return from
}

// Settle brings the ring up to date with the policy and the clock, and reports whether that changed
// it. If Redox fetches the JWK Set, a pending key that is not published yet counts as published from
// now on. If the way to publish has changed, an earlier publication of the pending key no longer
// counts. Settle also corrects times that were stored while the clock ran ahead: then no event is
// later than now, and no next attempt more than an hour away.
func (r *Ring) Settle(p Policy, now time.Time) (changed bool) {
	now = now.UTC()
	k := r.Pending()
	if pushed := r.Publication != nil; pushed != (p.Publishing == PlatformAPI) {
		changed, r.Publication = true, nil
		if p.Publishing == PlatformAPI {
			r.Publication = &Publication{}
		}
		if k != nil {
			k.PublishedAt = time.Time{}
		}
	}
	switch {
	case k != nil && p.Publishing == JWKSURL && k.PublishedAt.IsZero():
		k.PublishedAt, changed = now, true
	case k != nil && p.Publishing == Manual && !k.PublishedAt.IsZero():
		k.PublishedAt, changed = time.Time{}, true
	}
	for _, k := range r.Keys {
		for _, t := range []*time.Time{&k.CreatedAt, &k.PublishedAt, &k.ActivatedAt, &k.RetiredAt} {
			if t.After(now) {
				*t, changed = now, true
			}
		}
		changed = k.Proofs.settle(now) || changed
	}
	if p := r.Publication; p != nil {
		if p.ReadAt.After(now) {
			p.ReadAt, changed = now, true
		}
		changed = p.settle(now) || changed
	}
	return changed
}

// Rotate marks the pending key and returns it. The worker proves a marked key, but not before
// publish_window is over, and activates it if Redox accepts it. Rotate fails if the ring has no
// pending key, or has marked it already.
func (r *Ring) Rotate() (*Key, error) {
	k := r.Pending()
	switch {
	case k == nil:
		return nil, ruleError("there is no pending key to rotate to")
	case k.Rotating:
		return nil, ruleError("a rotation to key %s is under way already: see it in keys, or delete that key to end it", k.ID)
	}
	k.Rotating = true
	return k, nil
}

// earlier returns the earlier of two times. A zero time does not count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
