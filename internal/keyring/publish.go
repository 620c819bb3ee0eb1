package keyring

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Publication is how far Redox's own list of an API key's public keys has
// those of the ring, where the engine keeps it up to date.
type Publication struct {
	Attempts

	To      string    `json:"to"`                // whose list by whose authority, opaque; when it changes, all begins anew
	Proved  bool      `json:"proved,omitzero"`   // a token request signed with the ring's active key succeeded there
	ReadAt  time.Time `json:"read_at,omitzero"`  // when Redox last showed a list as it should be
	Foreign []ID      `json:"foreign,omitempty"` // keys it showed that are not of the ring
}

// Public is a public RSA key under its ID, in the encoding of a JWK.
type Public struct {
	ID ID     `json:"kid"`
	N  string `json:"n"`
	E  string `json:"e"`
}

func (k *Key) public() Public { return Public{ID: k.ID, N: k.N, E: k.E} }

// The engine looks at Redox's list this often even when nothing has changed
// here, as somebody may have changed it there.
const lookAgain = time.Hour

// recheckAgain is the least time between a look at Redox's list and a recheck.
const recheckAgain = 10 * time.Second

// maxNoted caps how many foreign keys and how many deleted keys are noted: both
// grow by what others do.
const maxNoted = 32

// added and removed make the list out of date, where the engine keeps it.
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

// PublishTo sets where the engine publishes the keys: to names, opaquely, the API
// key whose list it is and the platform client by whose authority. It reports
// whether that changed the ring. After a change, each key counts as not published
// and not proved there. Deleted keys stay noted, to be taken off: the new list may
// be the old one. PublishTo does nothing when the engine does not publish keys.
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

// Recheck makes the next look at Redox's list due, unless the last one was just now
// or has failed. It reports whether that changed the ring.
func (r *Ring) Recheck(now time.Time) (changed bool) {
	p := r.Publication
	if p == nil || p.NextAt.IsZero() || p.Failure != "" || now.Before(p.LastAt.Add(recheckAgain)) {
		return false
	}
	p.NextAt = time.Time{}
	return true
}

// Retry makes the next look due after one that failed: somebody may have mended the
// reason. It reports whether that changed the ring.
func (r *Ring) Retry() (changed bool) {
	p := r.Publication
	if p == nil || p.NextAt.IsZero() || p.Failure == "" {
		return false
	}
	p.NextAt = time.Time{}
	return true
}

// fingerprint returns all that shapes an update of Redox's list: whose list it is,
// the keys that belong there, and the deleted ones that do not.
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

// Merge returns the list that Redox should have, given the one it has: missing keys
// of the ring are added, deleted ones left out, and all others stay as they are.
// changed is false when the list needs no update. It is an error when the list has
// a different key with the ID of a key of the ring.
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
		case k != nil:
			return nil, nil, false, ruleError("Redox lists another key under the ID %s: remove that one in the dashboard, or "+
				"delete key %s here", k.ID, k.ID)
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
	return merged, added, changed, nil
}

// Sent notes that the keys in added were missing and are in an update: however
// that went, from now on they count as published only when Redox lists them.
func (r *Ring) Sent(added []ID) {
	for _, id := range added {
		if k := r.Get(id); k != nil {
			k.PublishedAt = time.Time{}
		}
	}
}

// Listed notes what Redox lists after the update, or when it needed none. A
// pending key counts as published from the first time that it is there.
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
		p.Refused("Redox took the update and lists the deleted key "+string(r.Gone[0].ID)+" still: remove it in the "+
			"dashboard", now)
	default:
		p.ReadAt, p.Attempts = now, Attempts{LastAt: now, NextAt: now.Add(lookAgain)}
	}
}

// parsePublic returns the ID and the numbers of a public key. Missing ones are empty.
func parsePublic(raw json.RawMessage) Public {
	var p Public
	if err := json.Unmarshal(raw, &p); err != nil {
		return Public{} // nobody's, and left as it is
	}
	return p
}

func (p Public) same(other Public) bool {
	return p.ID == other.ID && number(p.N) == number(other.N) && number(p.E) == number(other.E)
}

// gone returns the deleted key that is listed, nil for none.
func (r *Ring) gone(listed Public) *Public {
	for i := range r.Gone {
		if listed.same(r.Gone[i]) {
			return &r.Gone[i]
		}
	}
	return nil
}

// number decodes a base64url number to its bytes, without base64 padding and
// without leading zero bytes. Text that is no number is returned as it is.
func number(text string) string {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return text
	}
	return strings.TrimLeft(string(raw), "\x00")
}
