package keyring

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Publication records whether Redox's list has the keys of the ring. It exists only
// if the engine keeps that list up to date.
type Publication struct {
	Attempts

	To      string    `json:"to"`                // the argument of the last PublishTo
	Proved  bool      `json:"proved,omitzero"`   // since To was set, Redox issued a token for an active key
	ReadAt  time.Time `json:"read_at,omitzero"`  // the last read of Redox's list that found it up to date
	Foreign []ID      `json:"foreign,omitempty"` // IDs of keys of others in that list, at most maxNoted
}

// PublicationBy returns Publication if p publishes through the Platform API, else nil. After a
// change of the config, Publication stays as it was until Settle.
func (r *Ring) PublicationBy(p Policy) *Publication {
	if p.Publishing != PlatformAPI {
		return nil
	}
	return r.Publication
}

// Public is a public RSA key with its ID, encoded as in a JWK.
type Public struct {
	ID ID     `json:"kid"`
	N  string `json:"n"`
	E  string `json:"e"`
}

func (k *Key) public() Public { return Public{ID: k.ID, N: k.N, E: k.E} }

// lookAgain is the pause until the engine reads Redox's list again although the ring has not
// changed: somebody may have changed the list.
const lookAgain = time.Hour

// recheckAgain is the shortest time from a read of Redox's list to a read that Recheck asks for.
const recheckAgain = 10 * time.Second

// maxNoted limits how many keys of others and how many deleted keys are stored, because both numbers
// depend on what Redox lists. For the deleted keys see [Ring.manyGone]; only [Ring.Drop] exceeds
// this limit.
const maxNoted = 32

// added and removed update Gone, and make the next update of Redox's list due at once. If
// the engine does not keep that list up to date, removed does nothing, and added only
// takes k out of Gone.
func (r *Ring) added(k *Key) {
	r.Gone = slices.DeleteFunc(r.Gone, func(gone Public) bool { return gone == k.public() })
	if r.Publication != nil {
		r.Publication.NextAt = time.Time{}
	}
}

func (r *Ring) removed(k *Key) {
	if r.Publication != nil {
		r.Gone, r.Publication.NextAt = append(r.Gone, k.public()), time.Time{}
	}
}

// PublishTo sets where the engine publishes the keys, and reports whether that changed the ring. The
// argument is a digest of the list and of the rights that are used to change it. When the digest
// changes, the pending key no longer counts as published, and the active key must be proved again
// before the next update. The deleted keys stay recorded, because the list may still be the same.
// PublishTo does nothing if the engine does not keep that list up to date.
func (r *Ring) PublishTo(to string) (changed bool) {
	if r.Publication == nil || r.Publication.To == to {
		return false
	}
	r.Publication = &Publication{To: to}
	if k := r.Pending(); k != nil {
		k.PublishedAt = time.Time{}
	}
	return true
}

// Recheck makes the next read of Redox's list due now. It does nothing if the last attempt was
// less than recheckAgain ago or failed. It reports whether it changed the ring.
func (r *Ring) Recheck(now time.Time) (changed bool) {
	p := r.Publication
	if p == nil || p.NextAt.IsZero() || p.Failure != "" || now.Before(p.LastAt.Add(recheckAgain)) {
		return false
	}
	p.NextAt = time.Time{}
	return true
}

// Retry makes the next read of Redox's list due now if the last attempt failed: somebody
// may have fixed the cause. It reports whether it changed the ring.
func (r *Ring) Retry() (changed bool) {
	p := r.Publication
	if p == nil || p.NextAt.IsZero() || p.Failure == "" {
		return false
	}
	p.NextAt = time.Time{}
	return true
}

// fingerprint returns as one text what an update of Redox's list depends on: Publication.To, and the
// IDs and moduli of the ring's keys and of the deleted keys.
func (r *Ring) fingerprint() string {
	var text strings.Builder
	text.WriteString(r.Publication.To)
	for _, k := range r.Keys {
		text.WriteString(" +" + string(k.ID) + " " + k.N)
	}
	for _, gone := range r.Gone {
		text.WriteString(" -" + string(gone.ID) + " " + gone.N)
	}
	return text.String()
}

// Merge returns the list that Redox should have, given the one it has: it adds the
// missing keys of the ring, leaves out the deleted ones, and keeps all others.
// changed is false if the list needs no update. Merge returns an error if another key,
// which is not a deleted one, has the ID of a key of the ring. added has the missing
// keys then, too.
func (r *Ring) Merge(list []json.RawMessage) (merged []json.RawMessage, added []ID, changed bool, err error) {
	missing := map[ID]*Key{}
	for _, k := range r.Keys {
		missing[k.ID] = k
	}
	for _, raw := range list {
		listed := parsePublic(raw)
		k := r.Get(listed.ID)
		switch {
		case k != nil && listed.same(k.public()):
			delete(missing, k.ID)
		case r.gone(listed) != nil:
			changed = true
			continue
		case k != nil && err == nil:
			err = ruleError("Redox lists another key under the ID %s: remove that one in the dashboard, or delete key %s here",
				k.ID, k.ID)
		}
		merged = append(merged, raw)
	}
	for _, k := range r.Keys {
		if missing[k.ID] == nil {
			continue
		}
		raw, err := json.Marshal(k.JWK())
		if err != nil {
			return nil, nil, false, fmt.Errorf("encoding the public half of key %s: %w", k.ID, err)
		}
		merged, added, changed = append(merged, raw), append(added, k.ID), true
	}
	if err != nil {
		return nil, added, false, err
	}
	return merged, added, changed, nil
}

// Sent records that Redox's list lacked the keys in added. They count as not published until Redox
// lists them.
func (r *Ring) Sent(added []ID) {
	for _, id := range added {
		if k := r.Get(id); k != nil {
			k.PublishedAt = time.Time{}
		}
	}
}

// Listed records what Redox lists after an update, or when no update was needed. A pending key
// counts as published since the first call with a list that has it, and as not published after a
// call with a list that lacks it. A missing key, or a deleted key in the list, is recorded as a
// failure.
func (r *Ring) Listed(list []json.RawMessage, now time.Time) {
	now = now.UTC()
	p := r.Publication
	there, unwanted := map[ID]bool{}, map[Public]bool{}
	p.Foreign = nil
	for _, raw := range list {
		listed := parsePublic(raw)
		if k := r.Get(listed.ID); k != nil && listed.same(k.public()) {
			there[k.ID] = true
		} else if gone := r.gone(listed); gone != nil {
			unwanted[*gone] = true
		} else if id, err := ParseID(string(listed.ID)); err == nil && len(p.Foreign) < maxNoted {
			p.Foreign = append(p.Foreign, id)
		}
	}
	r.Gone = slices.DeleteFunc(r.Gone, func(gone Public) bool { return !unwanted[gone] })
	var missing []string
	for _, k := range r.Keys {
		switch {
		case !there[k.ID]:
			k.PublishedAt = time.Time{}
			missing = append(missing, string(k.ID))
		case k.State == Pending && k.PublishedAt.IsZero():
			k.PublishedAt = now
		}
	}
	switch {
	case len(missing) > 0:
		p.Unanswered("Redox took the update and does not list "+strings.Join(missing, ", ")+" yet", now)
	case len(r.Gone) > 0:
		p.Refused("Redox took the update and still lists the deleted key "+string(r.Gone[0].ID)+": remove it in the "+
			"dashboard", now)
	default:
		p.ReadAt, p.Attempts = now, Attempts{LastAt: now, NextAt: now.Add(lookAgain)}
	}
}

// parsePublic returns the ID and the numbers of a public key. One that is missing is empty. If raw
// cannot be decoded, all are empty.
func parsePublic(raw json.RawMessage) Public {
	var p Public
	if err := json.Unmarshal(raw, &p); err != nil {
		return Public{} // not a key of the ring: it stays in the list
	}
	return p
}

func (p Public) same(other Public) bool {
	return p.ID == other.ID && number(p.N) == number(other.N) && number(p.E) == number(other.E)
}

// gone returns the deleted key that is the same as listed, nil if there is none.
func (r *Ring) gone(listed Public) *Public {
	for i := range r.Gone {
		if listed.same(r.Gone[i]) {
			return &r.Gone[i]
		}
	}
	return nil
}

// number decodes a number from base64url. It ignores padding and leading zeros, so that equal
// numbers give equal texts. If it cannot decode the text, it returns the text.
func number(text string) string {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return text
	}
	return strings.TrimLeft(string(raw), "\x00")
}
