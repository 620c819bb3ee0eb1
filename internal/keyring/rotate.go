package keyring

import "time"

// Policy says how a ring rotates. Its times are of the client's config.
type Policy struct {
	Period      time.Duration // how long a key signs before the next one is made; 0: until somebody asks
	Window      time.Duration // least time between publishing a key and proving it
	RetireAfter time.Duration // how long a replaced key stays published
	Fetched     bool          // Redox fetches the set from here. Else somebody pastes it, and only a proof tells when.
}

// Action is what has to happen next in a rotation.
type Action string

// The actions. All but Wait are for the caller to carry out; each ends with
// one write of the ring.
const (
	Wait  Action = "wait"
	Add   Action = "add"   // generate a key and put it into the ring, rotating
	Prove Action = "prove" // request a token with the key, then call Activate, Refused or Unanswered
	Drop  Action = "drop"  // delete the key
)

// Step is the next thing to do with a ring.
type Step struct {
	Action Action
	Key    *Key      // of Prove and Drop
	At     time.Time // of Wait: when to look again; zero when time alone changes nothing
}

// Same tells whether both ask for the same thing to be done with the same key.
func (s Step) Same(other Step) bool {
	if s.Key == nil || other.Key == nil {
		return s.Action == other.Action && s.Key == other.Key
	}
	return s.Action == other.Action && s.Key.ID == other.Key.ID && s.Key.samePair(other.Key)
}

// The time between two proofs that Redox refuses doubles from the first value
// to the second. One that was not answered costs the first.
const (
	retryFirst = time.Minute
	retryLast  = time.Hour
)

// Next returns the next step of the ring at time now. It changes nothing:
// asked again, it says the same, so a step that was cut off is simply done
// again. The ring went through [Ring.Settle].
func (r *Ring) Next(p Policy, now time.Time) Step {
	var look time.Time
	for _, k := range r.In(Retiring) {
		end := k.RetiredAt.Add(p.RetireAfter)
		if !now.Before(end) {
			return Step{Action: Drop, Key: k}
		}
		look = earlier(look, end)
	}
	due := r.Due(p)
	overdue := !due.IsZero() && !now.Before(due)
	k := r.Pending()
	switch {
	case k != nil && (k.Rotating || overdue):
		from := k.ProvableFrom(p)
		if !now.Before(from) {
			return Step{Action: Prove, Key: k}
		}
		return Step{Action: Wait, At: earlier(look, from)}
	case overdue && len(r.Keys) < MaxKeys:
		return Step{Action: Add}
	case overdue:
		return Step{Action: Wait, At: look}
	}
	return Step{Action: Wait, At: earlier(look, due)}
}

// Due returns when the next rotation begins by itself; zero for never.
func (r *Ring) Due(p Policy) time.Time {
	active := r.Active()
	if active == nil || p.Period == 0 {
		return time.Time{}
	}
	return active.ActivatedAt.Add(p.Period)
}

// ProvableFrom returns from when the pending key k may be tried at Redox.
func (k *Key) ProvableFrom(p Policy) time.Time {
	from := k.NextProofAt
	if published := k.PublishedAt.Add(p.Window); p.Fetched && published.After(from) {
		from = published
	}
	return from
}

// Settle makes the ring fit the policy and the clock, and tells whether that
// changed it: with Fetched a pending key counts as published from now on, and
// without no longer; a time in the future, from a clock that ran ahead, is now.
func (r *Ring) Settle(p Policy, now time.Time) (changed bool) {
	now = now.UTC()
	if k := r.Pending(); k != nil && p.Fetched == k.PublishedAt.IsZero() {
		k.PublishedAt, changed = time.Time{}, true
		if p.Fetched {
			k.PublishedAt = now
		}
	}
	for _, k := range r.Keys {
		for _, t := range []*time.Time{&k.CreatedAt, &k.PublishedAt, &k.ActivatedAt, &k.RetiredAt} {
			if t.After(now) {
				*t, changed = now, true
			}
		}
		if most := now.Add(retryLast); k.NextProofAt.After(most) {
			k.NextProofAt, changed = most, true
		}
	}
	return changed
}

// Rotate marks the pending key to become active by itself, once Redox takes
// it. The caller has added one when there was none.
func (r *Ring) Rotate() (*Key, error) {
	k := r.Pending()
	switch {
	case k == nil:
		return nil, broken("there is no pending key to rotate to")
	case k.Rotating:
		return nil, broken("a rotation to key %s is under way already: see it in keys, or delete that key to end it", k.ID)
	}
	k.Rotating = true
	return k, nil
}

// Refused notes that Redox refused the proof of key id, and why; the next one
// waits, longer each time.
func (r *Ring) Refused(id ID, reason string, now time.Time) {
	if k := r.Get(id); k != nil {
		wait := retryLast
		if k.Refusals < 6 {
			wait = retryFirst << k.Refusals
		}
		k.Refusals++
		k.note(reason, now, wait)
	}
}

// Unanswered notes that a proof of key id failed without a word from Redox.
func (r *Ring) Unanswered(id ID, reason string, now time.Time) {
	if k := r.Get(id); k != nil {
		k.note(reason, now, retryFirst)
	}
}

func (k *Key) note(reason string, now time.Time, wait time.Duration) {
	k.LastProofAt, k.LastProof, k.NextProofAt = now.UTC(), reason, now.UTC().Add(wait)
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
