package keyring_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const day = 24 * time.Hour

var (
	pasted  = keyring.Policy{Period: 90 * day, Window: 15 * time.Minute, RetireAfter: day, Publishing: keyring.Manual}
	fetched = keyring.Policy{Period: 90 * day, Window: 15 * time.Minute, RetireAfter: day, Publishing: keyring.JWKSURL}
	pushed  = keyring.Policy{Period: 90 * day, Window: 15 * time.Minute, RetireAfter: day, Publishing: keyring.PlatformAPI}
)

// activeAnd returns a ring with the key "a", active since noon, and the key k if it
// is not nil.
func activeAnd(k *keyring.Key) *keyring.Ring {
	a := fake("a")
	a.State, a.ActivatedAt, a.Accepted = keyring.Active, noon, "here"
	r := &keyring.Ring{Keys: []*keyring.Key{a}}
	if k != nil {
		r.Keys = append(r.Keys, k)
	}
	return r
}

func key(id keyring.ID, change func(*keyring.Key)) *keyring.Key {
	k := fake(id)
	k.State = keyring.Pending
	change(k)
	return k
}

// Two steps are the same if they have the same action for the same key, or make the same update of
// the same list.
func TestSameStep(t *testing.T) {
	prove := func(k *keyring.Key) keyring.Step { return keyring.Step{Action: keyring.Prove, Key: k} }
	publish := func(r *keyring.Ring) keyring.Step { return r.Next(pushed, noon) }
	other, another := fake("a"), published()
	other.N = "another"
	another.Publication.To = "another"
	grown := published()
	grown.Keys = append(grown.Keys, fake("b"))
	clean := published()
	clean.Gone = nil
	replaced := published()
	replaced.Get("p").N = "another"
	for name, test := range map[string]struct {
		one, other keyring.Step
		same       bool
	}{
		"the same key":          {prove(fake("a")), prove(fake("a")), true},
		"another key":           {prove(fake("a")), prove(fake("b")), false},
		"another under that ID": {prove(fake("a")), prove(other), false},
		"another action":        {prove(fake("a")), keyring.Step{Action: keyring.Drop, Key: fake("a")}, false},
		"no key in one":         {prove(fake("a")), keyring.Step{Action: keyring.Prove}, false},
		"no key in both":        {keyring.Step{Action: keyring.Add}, keyring.Step{Action: keyring.Add}, true},
		"another without a key": {keyring.Step{Action: keyring.Add}, keyring.Step{Action: keyring.Publish}, false},
		"the same set":          {publish(published()), publish(published()), true},
		"to another list":       {publish(published()), publish(another), false},
		"a key more":            {publish(published()), publish(grown), false},
		"a key is another":      {publish(published()), publish(replaced), false},
		"nothing to take off":   {publish(published()), publish(clean), false},
	} {
		if test.one.Same(test.other) != test.same || test.other.Same(test.one) != test.same {
			t.Errorf("%s: want %v", name, test.same)
		}
	}
}

// listedAt returns a ring whose list at Redox must be read again at noon plus next. The ring's
// pending key is published since noon plus since, or not at all if since is zero. If change is not
// nil, it changes the pending key.
func listedAt(change func(*keyring.Key), since, next time.Duration) *keyring.Ring {
	r := published()
	r.Publication.NextAt = noon.Add(next)
	if change != nil {
		change(r.Get("p"))
	}
	if since > 0 {
		r.Get("p").PublishedAt = noon.Add(since)
	}
	return r
}

var handOnly = keyring.Policy{RetireAfter: time.Hour, Publishing: keyring.Manual}

// retired returns a ring whose key "r" was replaced at noon. "r" was accepted with the
// given settings, and the active key with the settings "here".
func retired(accepted string) *keyring.Ring {
	return activeAnd(key("r", func(k *keyring.Key) {
		k.State, k.RetiredAt, k.Accepted = keyring.Retiring, noon, accepted
	}))
}

// unaccepted returns a ring as an older version stored it: its active key has no stored
// acceptance. k is as in activeAnd.
func unaccepted(k *keyring.Key) *keyring.Ring {
	r := activeAnd(k)
	r.Get("a").Accepted = ""
	return r
}

// refusedAt returns a ring with one key, which Redox refused at noon.
func refusedAt(id keyring.ID) *keyring.Ring {
	k := fake(id)
	r := &keyring.Ring{}
	if _, _, err := r.Add(k, noon); err != nil {
		panic(err)
	}
	k.Proofs.Refused("no", noon)
	return r
}

func dump(r *keyring.Ring) string {
	var all []string
	for _, k := range r.Keys {
		all = append(all, fmt.Sprintf("%+v", *k))
	}
	return strings.Join(all, "\n")
}

// Next returns the right step for rings in many states.
func TestNext(t *testing.T) {
	full := ring(t, "1", "2", "3", "4", "5", "6", "7", "8")
	for _, k := range full.Keys {
		k.Accept("here")
	}
	rotating := func(k *keyring.Key) { k.Rotating = true }
	for name, test := range map[string]struct {
		ring   *keyring.Ring
		policy keyring.Policy
		after  time.Duration // the time, after noon
		want   string        // action, key, and for how long after noon to wait
	}{
		"empty":     {&keyring.Ring{}, pasted, 0, "wait"},
		"no period": {activeAnd(nil), keyring.Policy{Publishing: keyring.Manual}, 1000 * day, "wait"},
		"not due":   {activeAnd(nil), pasted, 90*day - 1, "wait until 2160h0m0s"},
		"due":       {activeAnd(nil), pasted, 90 * day, "add"},
		"due, and full": {full, keyring.Policy{Period: time.Hour, RetireAfter: 99 * day,
			Publishing: keyring.Manual}, day, "wait until 2376h0m0s"},
		"pending by hand, not due": {activeAnd(key("p", func(*keyring.Key) {})), pasted, day, "wait until 2160h0m0s"},
		"pending by hand, no period": {activeAnd(key("p", func(*keyring.Key) {})),
			keyring.Policy{Publishing: keyring.Manual}, 1000 * day, "wait"},
		"pending by hand, due": {activeAnd(key("p", func(*keyring.Key) {})), pasted, 90 * day, "prove p"},
		"rotating, pasted":     {activeAnd(key("p", rotating)), pasted, 0, "prove p"},
		"rotating, refused, too early": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.Proofs.NextAt = true,
				noon.Add(time.Hour)
		})), pasted, time.Hour - 1, "wait until 1h0m0s"},
		"rotating, refused, again": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.Proofs.NextAt = true,
				noon.Add(time.Hour)
		})), pasted, time.Hour, "prove p"},
		"rotating, fetched, in the window": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.PublishedAt = true,
				noon
		})), fetched, 15*time.Minute - 1, "wait until 15m0s"},
		"rotating, fetched, after it": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.PublishedAt = true,
				noon
		})), fetched, 15 * time.Minute, "prove p"},
		"rotating, pasted, in the window": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.PublishedAt = true,
				noon
		})), pasted, 0, "prove p"},
		"rotating, refused before the window ended": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.PublishedAt, k.Proofs.NextAt = true, noon, noon.Add(time.Minute)
		})), fetched, 2 * time.Minute, "wait until 15m0s"},
		"pushed, list not looked at":   {published(), pushed, 0, "publish"},
		"pushed, ring without a key":   {&keyring.Ring{Publication: &keyring.Publication{}}, pushed, 0, "wait"},
		"pushed, refused":              {listedAt(nil, 0, time.Minute), pushed, 0, "wait until 1m0s"},
		"pushed, refused, again":       {listedAt(nil, 0, time.Minute), pushed, time.Minute, "publish"},
		"pushed, rotating, not listed": {listedAt(rotating, 0, time.Hour), pushed, time.Minute, "wait until 1h0m0s"},
		"pushed, rotating, in the window": {listedAt(rotating, 1, time.Hour), pushed, 15 * time.Minute,
			"wait until 15m0.000000001s"},
		"pushed, rotating, after it":        {listedAt(rotating, 1, time.Hour), pushed, 15*time.Minute + 1, "prove p"},
		"pushed, rotating, list due":        {listedAt(rotating, 1, time.Hour), pushed, time.Hour, "publish"},
		"retiring, early":                   {retired("here"), pasted, day - 1, "wait until 24h0m0s"},
		"retiring, ended":                   {retired("here"), pasted, day, "drop r"},
		"retiring, ended, no period":        {retired("here"), handOnly, time.Hour, "drop r"},
		"retiring, accepted elsewhere":      {retired("elsewhere"), handOnly, 1000 * day, "wait"},
		"retiring, never accepted":          {retired(""), handOnly, 1000 * day, "wait"},
		"retiring, elsewhere, and due":      {retired("elsewhere"), pasted, 90 * day, "add"},
		"the first key":                     {ring(t, "a"), handOnly, 0, "accept a"},
		"the first key, refused, too early": {refusedAt("a"), handOnly, time.Minute - 1, "wait until 1m0s"},
		"the first key, refused, again":     {refusedAt("a"), handOnly, time.Minute, "accept a"},
		"of before, no period":              {unaccepted(nil), handOnly, 0, "wait"},
		"of before, with a period":          {unaccepted(nil), pasted, 0, "accept a"},
		"of before, one retiring":           {unaccepted(retired("here").Get("r")), handOnly, 0, "accept a"},
	} {
		t.Run(name, func(t *testing.T) {
			before := dump(test.ring)
			got := test.ring.Next(test.policy, noon.Add(test.after))
			text := string(got.Action)
			if got.Key != nil {
				text += " " + string(got.Key.ID)
			}
			if !got.At.IsZero() {
				text += " until " + got.At.Sub(noon).String()
			}
			if text != test.want {
				t.Errorf("next: %s, want %s", text, test.want)
			}
			if dump(test.ring) != before {
				t.Error("asking changed the ring")
			}
		})
	}
}

func TestSettle(t *testing.T) {
	later := noon.Add(time.Hour)
	for name, test := range map[string]struct {
		policy keyring.Policy
		key    *keyring.Key
		change bool
		check  func(*keyring.Key) bool
	}{
		"published by being fetched": {fetched, key("p", func(*keyring.Key) {}), true,
			func(k *keyring.Key) bool { return k.PublishedAt.Equal(later) }},
		"published before": {fetched, key("p", func(k *keyring.Key) { k.PublishedAt = noon }), false,
			func(k *keyring.Key) bool { return k.PublishedAt.Equal(noon) }},
		"no longer fetched": {pasted, key("p", func(k *keyring.Key) { k.PublishedAt = noon }), true,
			func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
		"pasted": {pasted, key("p", func(*keyring.Key) {}), false,
			func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
		"published in the future": {fetched, key("p", func(k *keyring.Key) { k.PublishedAt = later.Add(1) }), true,
			func(k *keyring.Key) bool { return k.PublishedAt.Equal(later) }},
		"retired in the future": {pasted, key("p", func(k *keyring.Key) {
			k.State, k.RetiredAt = keyring.Retiring,
				later.Add(day)
		}), true,
			func(k *keyring.Key) bool { return k.RetiredAt.Equal(later) }},
		"made in the future": {pasted, key("p", func(k *keyring.Key) { k.CreatedAt = later.Add(day) }), true,
			func(k *keyring.Key) bool { return k.CreatedAt.Equal(later) }},
		"next proof too far": {pasted, key("p", func(k *keyring.Key) { k.Proofs.NextAt = later.Add(day) }), true,
			func(k *keyring.Key) bool { return k.Proofs.NextAt.Equal(later.Add(time.Hour)) }},
		"next proof in reach": {pasted, key("p", func(k *keyring.Key) { k.Proofs.NextAt = later.Add(time.Hour) }),
			false, func(k *keyring.Key) bool { return k.Proofs.NextAt.Equal(later.Add(time.Hour)) }},
		"last proof in the future": {pasted, key("p", func(k *keyring.Key) { k.Proofs.LastAt = later.Add(1) }), true,
			func(k *keyring.Key) bool { return k.Proofs.LastAt.Equal(later) }},
		"pushed, was fetched": {pushed, key("p", func(k *keyring.Key) { k.PublishedAt = noon }), true,
			func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
		"a retiring key fetch": {fetched, key("p",
			func(k *keyring.Key) {
				k.State, k.RetiredAt = keyring.Retiring,
					noon
			}), false, func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
	} {
		t.Run(name, func(t *testing.T) {
			r := activeAnd(test.key)
			if changed := r.Settle(test.policy, later); changed != test.change || !test.check(test.key) {
				t.Errorf("changed %v, key %+v", changed, test.key)
			}
			if r.Settle(test.policy, later) {
				t.Error("the second time, too")
			}
		})
	}
}

// If the way to publish changes, an earlier publication of the pending key no longer counts.
func TestSettleWays(t *testing.T) {
	r := published()
	r.Get("p").PublishedAt, r.Publication.NextAt = noon, noon.Add(2*day)
	if !r.Settle(pushed, noon) || !r.Publication.NextAt.Equal(noon.Add(time.Hour)) || !r.Get("p").PublishedAt.Equal(noon) {
		t.Errorf("still pushed: %+v", r.Publication)
	}
	r.Publication.ReadAt = noon.Add(day) // by a clock that ran ahead
	if !r.Settle(pushed, noon) || !r.Publication.ReadAt.Equal(noon) {
		t.Errorf("listed in the future: %+v", r.Publication)
	}
	if !r.Settle(fetched, noon.Add(time.Hour)) || r.Publication != nil ||
		!r.Get("p").PublishedAt.Equal(noon.Add(time.Hour)) {
		t.Errorf("fetched now: %+v", r.Get("p"))
	}
	if !r.Settle(pushed, noon) || r.Publication == nil || !r.Get("p").PublishedAt.IsZero() {
		t.Errorf("pushed again: %+v", r.Get("p"))
	}
	r.Get("p").PublishedAt = noon
	if !r.Settle(pasted, noon) || r.Publication != nil || !r.Get("p").PublishedAt.IsZero() {
		t.Errorf("pasted now: %+v", r.Get("p"))
	}
}

// The pause doubles after each refused proof, up to an hour. After a proof without an
// answer it is a minute. Activating the key deletes the record of its proofs.
func TestProofs(t *testing.T) {
	r := activeAnd(key("p", func(k *keyring.Key) { k.Rotating = true }))
	k := r.Get("p")
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		k.Proofs.Refused("no", noon)
		if wait := k.Proofs.NextAt.Sub(noon); wait != want*time.Minute || k.Proofs.Refusals != i+1 ||
			k.Proofs.Failure != "no" || k.Proofs.LastAt != noon {
			t.Errorf("after refusal %d: %v, %+v", i+1, wait, k)
		}
	}
	k.Proofs.Unanswered("silence", noon.Add(day))
	if k.Proofs.NextAt != noon.Add(day+time.Minute) || k.Proofs.Refusals != 9 || k.Proofs.Failure != "silence" {
		t.Errorf("without an answer: %+v", k)
	}
	if err := r.Activate("p", noon.Add(2*day)); err != nil {
		t.Fatal(err)
	}
	if k.Rotating || k.Proofs != (keyring.Attempts{}) || !k.PublishedAt.IsZero() {
		t.Errorf("activated: %+v", k)
	}
}

func TestRotate(t *testing.T) {
	r := activeAnd(nil)
	if _, err := r.Rotate(); err == nil || !strings.Contains(err.Error(), "no pending key") {
		t.Errorf("without a pending key: %v", err)
	}
	r = activeAnd(key("p", func(*keyring.Key) {}))
	if k, err := r.Rotate(); err != nil || k.ID != "p" || !k.Rotating {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := r.Rotate(); err == nil || !strings.Contains(err.Error(), "a rotation to key p is under way already") {
		t.Errorf("a second time: %v", err)
	}
}
