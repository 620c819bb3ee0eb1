package keyring_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const day = 24 * time.Hour

var (
	pasted  = keyring.Policy{Period: 90 * day, Window: 15 * time.Minute, RetireAfter: day}
	fetched = keyring.Policy{Period: 90 * day, Window: 15 * time.Minute, RetireAfter: day, Fetched: true}
)

// activeAnd returns a ring whose key "a" signs since noon, and one more key.
func activeAnd(k *keyring.Key) *keyring.Ring {
	a := fake("a")
	a.State, a.ActivatedAt = keyring.Active, noon
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

func dump(r *keyring.Ring) string {
	var all []string
	for _, k := range r.Keys {
		all = append(all, fmt.Sprintf("%+v", *k))
	}
	return strings.Join(all, "\n")
}

// Every state of a ring, and what is to be done in it.
func TestNext(t *testing.T) {
	full := ring(t, "1", "2", "3", "4", "5", "6", "7", "8")
	rotating := func(k *keyring.Key) { k.Rotating = true }
	for name, test := range map[string]struct {
		ring   *keyring.Ring
		policy keyring.Policy
		after  time.Duration // noon
		want   string        // action, key, and when to look again after noon
	}{
		"empty":                            {&keyring.Ring{}, pasted, 0, "wait"},
		"no period":                        {activeAnd(nil), keyring.Policy{}, 1000 * day, "wait"},
		"not due":                          {activeAnd(nil), pasted, 90*day - 1, "wait until 2160h0m0s"},
		"due":                              {activeAnd(nil), pasted, 90 * day, "add"},
		"due, and full":                    {full, keyring.Policy{Period: time.Hour, RetireAfter: 99 * day}, day, "wait until 2376h0m0s"},
		"pending by hand, not due":         {activeAnd(key("p", func(*keyring.Key) {})), pasted, day, "wait until 2160h0m0s"},
		"pending by hand, no period":       {activeAnd(key("p", func(*keyring.Key) {})), keyring.Policy{}, 1000 * day, "wait"},
		"pending by hand, due":             {activeAnd(key("p", func(*keyring.Key) {})), pasted, 90 * day, "prove p"},
		"rotating, pasted":                 {activeAnd(key("p", rotating)), pasted, 0, "prove p"},
		"rotating, refused, too early":     {activeAnd(key("p", func(k *keyring.Key) { k.Rotating, k.NextProofAt = true, noon.Add(time.Hour) })), pasted, time.Hour - 1, "wait until 1h0m0s"},
		"rotating, refused, again":         {activeAnd(key("p", func(k *keyring.Key) { k.Rotating, k.NextProofAt = true, noon.Add(time.Hour) })), pasted, time.Hour, "prove p"},
		"rotating, fetched, in the window": {activeAnd(key("p", func(k *keyring.Key) { k.Rotating, k.PublishedAt = true, noon })), fetched, 15*time.Minute - 1, "wait until 15m0s"},
		"rotating, fetched, after it":      {activeAnd(key("p", func(k *keyring.Key) { k.Rotating, k.PublishedAt = true, noon })), fetched, 15 * time.Minute, "prove p"},
		"rotating, pasted, in the window":  {activeAnd(key("p", func(k *keyring.Key) { k.Rotating, k.PublishedAt = true, noon })), pasted, 0, "prove p"},
		"rotating, refused before the window ended": {activeAnd(key("p", func(k *keyring.Key) {
			k.Rotating, k.PublishedAt, k.NextProofAt = true, noon, noon.Add(time.Minute)
		})), fetched, 2 * time.Minute, "wait until 15m0s"},
		"retiring, early": {activeAnd(key("r", func(k *keyring.Key) { k.State, k.RetiredAt = keyring.Retiring, noon })), pasted, day - 1, "wait until 24h0m0s"},
		"retiring, ended": {activeAnd(key("r", func(k *keyring.Key) { k.State, k.RetiredAt = keyring.Retiring, noon })), pasted, day, "drop r"},
		"retiring, ended, no period": {activeAnd(key("r", func(k *keyring.Key) { k.State, k.RetiredAt = keyring.Retiring, noon })),
			keyring.Policy{RetireAfter: time.Hour}, time.Hour, "drop r"},
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
		"published by being fetched": {fetched, key("p", func(*keyring.Key) {}), true, func(k *keyring.Key) bool { return k.PublishedAt.Equal(later) }},
		"published before":           {fetched, key("p", func(k *keyring.Key) { k.PublishedAt = noon }), false, func(k *keyring.Key) bool { return k.PublishedAt.Equal(noon) }},
		"no longer fetched":          {pasted, key("p", func(k *keyring.Key) { k.PublishedAt = noon }), true, func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
		"pasted":                     {pasted, key("p", func(*keyring.Key) {}), false, func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
		"published in the future":    {fetched, key("p", func(k *keyring.Key) { k.PublishedAt = later.Add(1) }), true, func(k *keyring.Key) bool { return k.PublishedAt.Equal(later) }},
		"retired in the future": {pasted, key("p", func(k *keyring.Key) { k.State, k.RetiredAt = keyring.Retiring, later.Add(day) }), true,
			func(k *keyring.Key) bool { return k.RetiredAt.Equal(later) }},
		"made in the future":   {pasted, key("p", func(k *keyring.Key) { k.CreatedAt = later.Add(day) }), true, func(k *keyring.Key) bool { return k.CreatedAt.Equal(later) }},
		"next proof too far":   {pasted, key("p", func(k *keyring.Key) { k.NextProofAt = later.Add(day) }), true, func(k *keyring.Key) bool { return k.NextProofAt.Equal(later.Add(time.Hour)) }},
		"next proof in reach":  {pasted, key("p", func(k *keyring.Key) { k.NextProofAt = later.Add(time.Hour) }), false, func(k *keyring.Key) bool { return k.NextProofAt.Equal(later.Add(time.Hour)) }},
		"a retiring key fetch": {fetched, key("p", func(k *keyring.Key) { k.State, k.RetiredAt = keyring.Retiring, noon }), false, func(k *keyring.Key) bool { return k.PublishedAt.IsZero() }},
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

// Proofs that are refused come at growing distances, others do not.
func TestProofs(t *testing.T) {
	r := activeAnd(key("p", func(k *keyring.Key) { k.Rotating = true }))
	k := r.Get("p")
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		r.Refused("p", "no", noon)
		if wait := k.NextProofAt.Sub(noon); wait != want*time.Minute || k.Refusals != i+1 || k.LastProof != "no" || k.LastProofAt != noon {
			t.Errorf("after refusal %d: %v, %+v", i+1, wait, k)
		}
	}
	r.Unanswered("p", "silence", noon.Add(day))
	if k.NextProofAt != noon.Add(day+time.Minute) || k.Refusals != 9 || k.LastProof != "silence" {
		t.Errorf("without an answer: %+v", k)
	}
	r.Refused("gone", "no", noon)
	r.Unanswered("gone", "no", noon)
	if err := r.Activate("p", noon.Add(2*day)); err != nil {
		t.Fatal(err)
	}
	if k.Rotating || k.Refusals != 0 || k.LastProof != "" || !k.NextProofAt.IsZero() || !k.LastProofAt.IsZero() || !k.PublishedAt.IsZero() {
		t.Errorf("activated: %+v", k)
	}
	if r.NewestRetiring().ID != "a" || activeAnd(nil).NewestRetiring() != nil {
		t.Errorf("newest retiring: %v", r.NewestRetiring())
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

// prove has Redox refuse, be silent, or take the key.
func prove(t *testing.T, r *keyring.Ring, id keyring.ID, luck int, now time.Time) (taken bool) {
	t.Helper()
	switch luck {
	case 0:
		r.Refused(id, "no", now)
	case 1:
		r.Unanswered(id, "silence", now)
	default:
		if err := r.Activate(id, now); err != nil {
			t.Fatal(err)
		}
		return true
	}
	return false
}

// Driven by a policy, whatever Redox says and however the clock jumps: exactly
// one key signs; a key is proved only when its window is over; a replaced key
// stays as long as it must; the ring never overflows; and it does not stop.
func TestRotationWalk(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		p := keyring.Policy{
			Window: time.Duration(random.IntN(60)) * time.Minute, RetireAfter: 5*time.Minute + time.Duration(random.IntN(100))*time.Minute, Fetched: random.IntN(2) == 0,
		}
		p.Period = max(p.Window+time.Minute, (p.RetireAfter+p.Window)/6)
		now, next, rotations := noon, 0, 0
		r := &keyring.Ring{}
		add := func(rotating bool) {
			k := fake(keyring.ID(fmt.Sprint("k", next)))
			next++
			if _, _, err := r.Add(k, now); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			k.Rotating = rotating
			r.Settle(p, now)
		}
		add(false)
		for step := range 600 {
			s := r.Next(p, now)
			switch s.Action {
			case keyring.Add:
				add(true)
			case keyring.Drop:
				if now.Sub(s.Key.RetiredAt) < p.RetireAfter {
					t.Fatalf("seed %d, step %d: %s leaves after %v", seed, step, s.Key.ID, now.Sub(s.Key.RetiredAt))
				}
				if err := r.Remove(s.Key.ID, false); err != nil {
					t.Fatal(err)
				}
			case keyring.Prove:
				if p.Fetched && now.Sub(s.Key.PublishedAt) < p.Window {
					t.Fatalf("seed %d, step %d: %s signs after %v", seed, step, s.Key.ID, now.Sub(s.Key.PublishedAt))
				}
				if prove(t, r, s.Key.ID, random.IntN(3), now) {
					rotations++
				}
			case keyring.Wait:
				if !s.At.After(now) {
					t.Fatalf("seed %d, step %d: waits for %v at %v: %s", seed, step, s.At, now, states(r))
				}
				now = s.At
				if random.IntN(10) == 0 {
					now = now.Add(time.Duration(random.IntN(100)) * time.Minute)
				}
			}
			if active, pending := len(r.In(keyring.Active)), len(r.In(keyring.Pending)); active != 1 || pending > 1 || len(r.Keys) > keyring.MaxKeys {
				t.Fatalf("seed %d, step %d: the ring holds %s", seed, step, states(r))
			}
		}
		if rotations < 10 {
			t.Errorf("seed %d: %d rotations in 600 steps", seed, rotations)
		}
	}
}
