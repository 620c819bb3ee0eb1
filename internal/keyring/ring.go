// Package keyring holds the RSA keys of one Redox OAuth API key. It decides which key signs, which
// one waits, which one retires, and what must be done next.
//
// Time is an argument. The package does not use Vault, storage or HTTP.
package keyring

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// MaxKeys is the largest number of keys in a ring.
const MaxKeys = 8

// Ring is a client's keys, in the order in which they were added. It has exactly one active key
// unless it is empty, and at most one pending key.
type Ring struct {
	Keys        []*Key       `json:"keys"`
	Publication *Publication `json:"publication,omitzero"` // nil unless the engine keeps Redox's list up to date
	Gone        []Public     `json:"gone,omitempty"`       // deleted keys that must be removed from Redox's list
}

// Rule is an error that a person has to resolve. Its text is written for that person.
type Rule string

func (r Rule) Error() string { return string(r) }

func ruleError(format string, args ...any) error { return Rule(fmt.Sprintf(format, args...)) }

// Get returns the key with that ID, nil if there is none.
func (r *Ring) Get(id ID) *Key {
	for _, k := range r.Keys {
		if k.ID == id {
			return k
		}
	}
	return nil
}

// In returns the keys in the given state, in the order of the ring.
func (r *Ring) In(state State) []*Key {
	var found []*Key
	for _, k := range r.Keys {
		if k.State == state {
			found = append(found, k)
		}
	}
	return found
}

// Active returns the active key, nil if the ring is empty.
func (r *Ring) Active() *Key {
	return r.first(Active)
}

// Pending returns the pending key, nil if there is none.
func (r *Ring) Pending() *Key {
	return r.first(Pending)
}

func (r *Ring) first(state State) *Key {
	for _, k := range r.Keys {
		if k.State == state {
			return k
		}
	}
	return nil
}

// CanAdd returns nil if a key can be added to the ring, else an error that says why not. Call it
// before [Generate], which is slow.
func (r *Ring) CanAdd() error {
	if k := r.Pending(); k != nil {
		return ruleError("key %s is pending already: activate or delete it before adding another", k.ID)
	}
	if len(r.Keys) >= MaxKeys {
		return ruleError("the ring is full with %d keys: delete a retiring one first", MaxKeys)
	}
	if len(r.Keys) > 0 {
		return r.manyGone()
	}
	return nil
}

// manyGone returns an error if the engine keeps Redox's list up to date and must still remove at
// least maxNoted deleted keys from it. Then [Ring.Remove] fails, and so does [Ring.CanAdd] unless
// the ring is empty.
func (r *Ring) manyGone() error {
	if r.Publication != nil && len(r.Gone) >= maxNoted {
		return ruleError("%d deleted keys may still be on Redox's list: first fix the problem that publication in keys shows",
			len(r.Gone))
	}
	return nil
}

// Add adds k to the ring, as the active key if it is the first, else as pending. It returns k and
// true. If the same key is in the ring under the same ID, it changes nothing, and returns that key
// and false.
func (r *Ring) Add(k *Key, now time.Time) (in *Key, added bool, err error) {
	for _, old := range r.Keys {
		switch {
		case old.ID == k.ID && old.samePair(k):
			return old, false, nil
		case old.ID == k.ID:
			return nil, false, ruleError("key ID %s is taken by another key", k.ID)
		case old.samePair(k):
			return nil, false, ruleError("this key is in the ring already, as %s: to have it as %s, %s, then import it again",
				old.ID, k.ID, r.wayToDelete(old))
		}
	}
	if err := r.CanAdd(); err != nil {
		return nil, false, err
	}
	k.State = Pending
	if r.Active() == nil {
		k.State, k.ActivatedAt, k.Proofs.NextAt = Active, now.UTC(), now.UTC()
	}
	r.Keys = append(r.Keys, k)
	r.added(k)
	return k, true, nil
}

// wayToDelete returns the words that tell a person how to delete k.
func (r *Ring) wayToDelete(k *Key) string {
	switch {
	case k.State != Active:
		return "delete that one"
	case len(r.Keys) > 1:
		return "activate another key and delete that one"
	}
	return "delete that one with force=true, as it is the only key"
}

// Activate makes the key with that ID the active one; the previous active key retires. It does
// nothing if the key is active already. The caller has proved the key, or was told to skip the
// proof.
func (r *Ring) Activate(id ID, now time.Time) error {
	k := r.Get(id)
	if k == nil {
		return ruleError("there is no key %s", id)
	}
	if k.State == Active {
		return nil
	}
	if old := r.Active(); old != nil {
		old.State, old.RetiredAt, old.Proofs = Retiring, now.UTC(), Attempts{}
	}
	k.State, k.ActivatedAt, k.RetiredAt = Active, now.UTC(), time.Time{}
	k.Rotating, k.PublishedAt, k.Proofs = false, time.Time{}, Attempts{}
	return nil
}

// Remove deletes the key with that ID. It deletes the active key only if the ring has no other key
// and force is true: without an active key no token can be requested. It returns an error if too many
// deleted keys may still be on Redox's list.
func (r *Ring) Remove(id ID, force bool) error {
	for i, k := range r.Keys {
		if k.ID != id {
			continue
		}
		if k.State == Active {
			switch {
			case len(r.Keys) > 1:
				return ruleError("key %s is active: activate another key before deleting it", id)
			case !force:
				return ruleError("key %s is active and the only one, and without it reads of token fail: repeat with "+
					"force=true if that is meant", id)
			}
		}
		if err := r.manyGone(); err != nil {
			return err
		}
		r.removeAt(i)
		return nil
	}
	return ruleError("there is no key %s", id)
}

// Public returns a copy of the ring without the public and private numbers of its keys. The copy has
// no Gone, and of Publication only Attempts.
func (r *Ring) Public() *Ring {
	public := &Ring{}
	for _, k := range r.Keys {
		one := *k
		one.N, one.E, one.PKCS8 = "", "", nil
		public.Keys = append(public.Keys, &one)
	}
	if r.Publication != nil {
		public.Publication = &Publication{Attempts: r.Publication.Attempts}
	}
	return public
}

// Drop deletes the key with that ID if it is retiring. It does so even if too many deleted keys may
// still be on Redox's list, because the private half must not stay.
func (r *Ring) Drop(id ID) {
	i := slices.IndexFunc(r.Keys, func(k *Key) bool { return k.ID == id && k.State == Retiring })
	if i >= 0 {
		r.removeAt(i)
	}
}

func (r *Ring) removeAt(i int) {
	k := r.Keys[i]
	r.Keys = slices.Delete(r.Keys, i, i+1)
	r.removed(k)
}

// JWKS returns the public half of every key as a JWK Set (RFC 7517 section 5):
// the form that Redox's dashboard accepts.
func (r *Ring) JWKS() (string, error) {
	set := struct {
		Keys []JWK `json:"keys"`
	}{Keys: make([]JWK, 0, len(r.Keys))}
	for _, k := range r.Keys {
		set.Keys = append(set.Keys, k.JWK())
	}
	raw, err := json.Marshal(set)
	if err != nil {
		return "", fmt.Errorf("encoding the JWK Set: %w", err)
	}
	return string(raw), nil
}
