package keyring

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// listing is one list of keys that Redox may have, and what a ring must make of it.
type listing struct {
	list, merged []json.RawMessage
	added        []ID     // the keys of the ring that are not in it
	foreign      []ID     // the IDs of the keys of others in it
	unwanted     []Public // the deleted keys in it
	conflict     bool     // another key in it has the ID of a key of the ring
}

// add adds the key p to the list. If stays is false, Merge must remove it.
func (l *listing) add(p Public, stays bool) {
	l.list = append(l.list, raw(p))
	if stays {
		l.merged = append(l.merged, raw(p))
	}
}

// listings returns lists that Redox may have, one for each combination of these: for each key of the
// ring, the list has this key, none, or another one with its ID; for each deleted key, the list has
// it or not. Each list begins and ends with an entry of somebody else.
func listings(r *Ring) (all []*listing) {
	odd := json.RawMessage(`{"kid":7}`)
	choices := 1
	for range r.Keys {
		choices *= 3
	}
	for range r.Gone {
		choices *= 2
	}
	for choice := range choices {
		l := &listing{list: []json.RawMessage{odd}, merged: []json.RawMessage{odd}}
		for _, k := range r.Keys {
			switch choice % 3 {
			case 0:
				l.added = append(l.added, k.ID)
			case 1:
				l.add(Public{k.ID, k.N + "=", k.E}, true) // the same number, with padding
			case 2:
				l.add(Public{k.ID, "another", k.E}, true)
				l.conflict, l.added, l.foreign = true, append(l.added, k.ID), append(l.foreign, k.ID)
			}
			choice /= 3
		}
		for _, gone := range r.Gone {
			if choice%2 == 1 {
				l.add(gone, false)
				l.unwanted = append(l.unwanted, gone)
			}
			choice /= 2
		}
		l.add(foreign, true)
		l.foreign = append(l.foreign, foreign.ID)
		for _, id := range l.added {
			k := r.Get(id)
			text, err := json.Marshal(k.JWK())
			if err != nil {
				panic(err)
			}
			l.merged = append(l.merged, text)
		}
		all = append(all, l)
	}
	return all
}

// TestExploreLists merges rings of up to three keys and up to two deleted keys into each list that
// listings returns. A deleted key may have the ID of a key of the ring. Merge must remove the
// deleted keys and no others, and what Listed records must be true.
func TestExploreLists(t *testing.T) {
	tried := 0
	for keys := range 4 {
		for gone := range 16 {
			for _, l := range listings(listedRing(keys, gone)) {
				tried++
				checkListing(t, keys, gone, l)
			}
		}
	}
	t.Logf("%d lists", tried)
}

// listedRing returns a ring with that many keys. The first is active, and the last of two or more is
// pending. The lower two bits of gone say which of two deleted keys there are. The upper two say
// which of these have an ID of the ring: that of its first or of its second key, if there is one.
func listedRing(keys, gone int) *Ring {
	r := &Ring{Publication: &Publication{To: here}}
	for i := range keys {
		k := &Key{ID: ID(names[i]), State: Retiring, N: moduli[i], E: "AQAB"}
		switch i {
		case 0:
			k.State = Active
		case keys - 1:
			k.State, k.PublishedAt = Pending, start.Add(-tick)
		}
		r.Keys = append(r.Keys, k)
	}
	for i := range 2 {
		if gone>>i&1 == 0 {
			continue
		}
		p := deleted[i]
		if gone>>(2+i)&1 == 1 && i < keys {
			p.ID = r.Keys[i].ID
		}
		r.Gone = append(r.Gone, p)
	}
	return r
}

func checkListing(t *testing.T, keys, gone int, l *listing) {
	t.Helper()
	r := listedRing(keys, gone)
	merged, added, changed, err := r.Merge(l.list)
	switch {
	case !sameRing(r, listedRing(keys, gone)):
		t.Fatalf("merging into %s changes the ring", l.list)
	case l.conflict != (err != nil), err != nil && (changed || merged != nil), !slices.Equal(added, l.added):
		t.Fatalf("merging into %s: added %v, %v", l.list, added, err)
	case err == nil && (fmt.Sprintf("%s", merged) != fmt.Sprintf("%s", l.merged) ||
		changed != (len(l.added)+len(l.unwanted) > 0)):
		t.Fatalf("%s becomes %s, changed %v, added %v", l.list, merged, changed, added)
	}
	r.Listed(l.list, start)
	p := r.Publication
	if !slices.Equal(p.Foreign, l.foreign) || !slices.Equal(r.Gone, l.unwanted) {
		t.Fatalf("%s has keys of others %v and deleted keys %v", l.list, p.Foreign, r.Gone)
	}
	complete := len(l.added) == 0 && !l.conflict && len(l.unwanted) == 0
	if complete != (p.Failure == "") || complete != p.ReadAt.Equal(start) || p.LastAt != start {
		t.Fatalf("of %s it says: %+v", l.list, p)
	}
	if k := r.Pending(); k != nil {
		there := !slices.Contains(l.added, k.ID)
		if there == k.PublishedAt.IsZero() || there && k.PublishedAt.Equal(start) {
			t.Fatalf("in %s the pending key counts as published since %v", l.list, k.PublishedAt)
		}
	}
	if err != nil {
		return
	}
	r.Sent(added)
	r.Listed(merged, start)
	if k := r.Pending(); k != nil && slices.Contains(added, k.ID) != k.PublishedAt.Equal(start) {
		t.Fatalf("in %s the pending key counts as published since %v", merged, k.PublishedAt)
	}
	if p.Failure != "" || len(r.Gone) > 0 || !slices.Equal(p.Foreign, l.foreign) {
		t.Fatalf("of %s it says: %+v, deleted keys %v", merged, p, r.Gone)
	}
}
