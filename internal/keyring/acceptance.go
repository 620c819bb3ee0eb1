package keyring

import "time"

// A key's acceptance is where Redox first issued a token for it: a fingerprint of
// the settings that a token request depends on. It is stored once and guards the
// key: whoever can write the settings can have another key accepted elsewhere, and
// must not get this one deleted by it.

// Accept notes that Redox issued a token for a request that k signed, with settings
// of the fingerprint where. Only the first time counts.
func (k *Key) Accept(where string) {
	if k.Accepted == "" {
		k.Accepted = where
	}
	if k.State == Active {
		k.Proofs = Attempts{}
	}
}

// Keeps reports whether the retiring key k is kept until somebody deletes it: the
// active key was not accepted where k was.
func (r *Ring) Keeps(k *Key) bool {
	active := r.Active()
	return active == nil || k.Accepted == "" || k.Accepted != active.Accepted
}

// Kept returns the retiring keys whose time is over at now and that are kept all
// the same, oldest first.
func (r *Ring) Kept(p Policy, now time.Time) []*Key {
	var kept []*Key
	for _, k := range r.In(Retiring) {
		if r.Keeps(k) && !now.Before(k.RetiredAt.Add(p.RetireAfter)) {
			kept = append(kept, k)
		}
	}
	return kept
}

// NewestAccepted returns the retiring key that signed last of those that were
// accepted with settings of the fingerprint where, nil when there is none.
func (r *Ring) NewestAccepted(where string) *Key {
	var newest *Key
	for _, k := range r.In(Retiring) {
		if k.Accepted == where && (newest == nil || k.RetiredAt.After(newest.RetiredAt)) {
			newest = k
		}
	}
	return newest
}

// unaccepted returns the active key when the engine has to find out by itself
// whether Redox accepts it, else nil. It has to for a ring's first key, which has
// a time for the request from the start, and where the answer decides on another
// key: before a rotation, and while a key is retiring.
func (r *Ring) unaccepted(p Policy) *Key {
	k := r.Active()
	if k == nil || k.Accepted != "" {
		return nil
	}
	if k.Proofs.NextAt.IsZero() && p.Period == 0 && len(r.In(Retiring)) == 0 {
		return nil
	}
	return k
}
