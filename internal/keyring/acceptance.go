package keyring

import "time"

// A key's acceptance is a fingerprint of the settings with which Redox first issued a token for the
// key. It is stored once, and never replaced. It protects the old key of a rotation: somebody who
// may write the settings can have the new key proved elsewhere, for example at another host that
// hosts allows. So the engine deletes the old key only if the new one was accepted with the same
// settings.

// Accept records that Redox issued a token for a request that was signed with k. where is the
// fingerprint of the settings of that request. It is stored only if k has no acceptance yet. If k is
// active, Accept also clears k.Proofs.
func (k *Key) Accept(where string) {
	if k.Accepted == "" {
		k.Accepted = where
	}
	if k.State == Active {
		k.Proofs = Attempts{}
	}
}

// Keeps reports whether only a person may delete the retiring key k. That is so
// unless the active key was accepted with the same settings as k.
func (r *Ring) Keeps(k *Key) bool {
	active := r.Active()
	return active == nil || k.Accepted == "" || k.Accepted != active.Accepted
}

// Kept returns the retiring keys that were replaced at least RetireAfter before now, but that only a
// person may delete (see [Ring.Keeps]). They are in the order of the ring.
func (r *Ring) Kept(p Policy, now time.Time) []*Key {
	var kept []*Key
	for _, k := range r.In(Retiring) {
		if r.Keeps(k) && !now.Before(k.RetiredAt.Add(p.RetireAfter)) {
			kept = append(kept, k)
		}
	}
	return kept
}

// NewestAccepted looks at the retiring keys that Redox accepted with the settings whose
// fingerprint is where. It returns the one that was replaced last, nil if there is none.
func (r *Ring) NewestAccepted(where string) *Key {
	var newest *Key
	for _, k := range r.In(Retiring) {
		if k.Accepted == where && (newest == nil || k.RetiredAt.After(newest.RetiredAt)) {
			newest = k
		}
	}
	return newest
}

// unaccepted returns the active key if it has no acceptance and the engine must find out whether
// Redox accepts it, else nil. The engine must if Proofs.NextAt is set, as [Ring.Add] does in a
// ring's first key. It also must if keys rotate automatically or a key is retiring: then it depends
// on the answer whether the engine may delete a key.
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
