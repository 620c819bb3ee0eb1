package keyring_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// walk drives a ring by a policy. Redox's answers and the clock are random.
type walk struct {
	t         *testing.T
	name      string
	random    *rand.Rand
	policy    keyring.Policy
	ring      *keyring.Ring
	now       time.Time
	made      int // number of keys so far
	rotations int
	healthy   bool // Redox does what it is asked, and the clock does not jump

	// Redox's list, and since when each key is in it.
	list  []json.RawMessage
	since map[keyring.ID]time.Time
}

func newWalk(t *testing.T, seed uint64, way keyring.Publishing) *walk {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	p := keyring.Policy{
		Window: time.Duration(random.IntN(60)) * time.Minute, RetireAfter: 5*time.Minute +
			time.Duration(random.IntN(100))*time.Minute, Publishing: way,
	}
	p.Period = max(p.Window+time.Minute, (p.RetireAfter+p.Window)/6)
	w := &walk{t: t, name: fmt.Sprint(way, ", seed ", seed), random: random, policy: p, ring: &keyring.Ring{},
		now: noon, since: map[keyring.ID]time.Time{}}
	w.add(false)
	return w
}

func (w *walk) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf(w.name+": "+format, args...)
}

func (w *walk) add(rotating bool) {
	k := fake(keyring.ID(fmt.Sprint("k", w.made)))
	w.made++
	if _, _, err := w.ring.Add(k, w.now); err != nil {
		w.fail("%v", err)
	}
	k.Rotating = rotating
	w.ring.Settle(w.policy, w.now)
	w.ring.PublishTo("redox")
}

// prove makes a proof that Redox refuses, does not answer, or accepts, at random.
func (w *walk) prove(k *keyring.Key) {
	switch published := w.since[k.ID]; {
	case w.policy.Publishing == keyring.JWKSURL && w.now.Sub(k.PublishedAt) < w.policy.Window:
		w.fail("%s signs after %v", k.ID, w.now.Sub(k.PublishedAt))
	case w.policy.Publishing == keyring.PlatformAPI && (k.PublishedAt.IsZero() || published.IsZero() ||
		w.now.Sub(published) < w.policy.Window):
		w.fail("%s signs %v after Redox listed it", k.ID, w.now.Sub(published))
	}
	mood := w.random.IntN(3)
	if w.healthy {
		mood = 2
	}
	switch mood {
	case 0:
		k.Proofs.Refused("no", w.now)
	case 1:
		k.Proofs.Unanswered("silence", w.now)
	default:
		k.Accept("here")
		if err := w.ring.Activate(k.ID, w.now); err != nil {
			w.fail("%v", err)
		}
		w.rotations++
	}
}

// accept makes a token request with the active key, which Redox refuses or accepts,
// at random.
func (w *walk) accept(k *keyring.Key) {
	if w.random.IntN(2) == 0 {
		k.Proofs.Refused("no", w.now)
		return
	}
	k.Accept("here")
}

// publish makes an update that Redox refuses, does not answer, accepts and loses, or
// stores, at random.
func (w *walk) publish() {
	merged, added, changed, err := w.ring.Merge(w.list)
	if err != nil {
		w.fail("%v", err)
	}
	if others(merged) != others(w.list) {
		w.fail("the keys of others were %s and become %s", others(w.list), others(merged))
	}
	w.ring.Sent(added)
	mood := w.random.IntN(5)
	if w.healthy {
		mood = 3
	}
	switch mood {
	case 0:
		w.ring.Publication.Refused("no", w.now)
		return
	case 1:
		w.ring.Publication.Unanswered("silence", w.now)
		return
	case 2: // lost
	default:
		if changed {
			w.list = merged
		}
	}
	for _, id := range added {
		w.since[id] = w.now
	}
	w.ring.Listed(w.list, w.now)
}

// others returns the IDs of the keys in a list that do not belong to the ring.
func others(list []json.RawMessage) string {
	var ids []string
	for _, raw := range list {
		var k keyring.Public
		if err := json.Unmarshal(raw, &k); err == nil && k.ID[0] == 'x' {
			ids = append(ids, string(k.ID))
		}
	}
	return strings.Join(ids, " ")
}

func (w *walk) wait(until time.Time) {
	if !until.After(w.now) {
		w.fail("waits for %v at %v: %s", until, w.now, states(w.ring))
	}
	w.now = until
	if w.healthy {
		return
	}
	if w.random.IntN(10) == 0 {
		w.now = w.now.Add(time.Duration(w.random.IntN(100)) * time.Minute)
	}
	// Sometimes somebody else changes the list.
	switch w.random.IntN(20) {
	case 0:
		w.list = append(w.list, json.RawMessage(fmt.Sprintf(`{"kid":"x%d","n":"x"}`, w.made)))
	case 1:
		if len(w.list) > 0 {
			at := w.random.IntN(len(w.list))
			w.list = append(w.list[:at:at], w.list[at+1:]...)
			w.ring.Recheck(w.now)
		}
	}
}

// A policy drives the ring, Redox answers at random, and the clock jumps. Always
// exactly one key is active, a key is proved only after its publish window, a
// replaced key stays until retire_after is over, the ring does not grow too large,
// the keys of others stay, and rotations go on.
func TestRotationWalk(t *testing.T) {
	for _, way := range []keyring.Publishing{keyring.Manual, keyring.JWKSURL, keyring.PlatformAPI} {
		for seed := range uint64(60) {
			w := newWalk(t, seed, way)
			for range 600 {
				w.step()
			}
			if w.rotations < 10 {
				t.Errorf("%s: %d rotations in 600 steps", w.name, w.rotations)
			}
		}
	}
}

func (w *walk) step() {
	s := w.ring.Next(w.policy, w.now)
	switch s.Action {
	case keyring.Add:
		w.add(true)
	case keyring.Drop:
		if w.now.Sub(s.Key.RetiredAt) < w.policy.RetireAfter {
			w.fail("%s leaves after %v", s.Key.ID, w.now.Sub(s.Key.RetiredAt))
		}
		if s.Key.Accepted != w.ring.Active().Accepted {
			w.fail("%s leaves, and was accepted at %q", s.Key.ID, s.Key.Accepted)
		}
		w.ring.Drop(s.Key.ID)
	case keyring.Prove:
		w.prove(s.Key)
	case keyring.Accept:
		w.accept(s.Key)
	case keyring.Publish:
		w.publish()
	case keyring.Wait:
		w.wait(s.At)
	}
	if active, pending := len(w.ring.In(keyring.Active)), len(w.ring.In(keyring.Pending)); active != 1 || pending > 1 ||
		len(w.ring.Keys) > keyring.MaxKeys {
		w.fail("the ring holds %s", states(w.ring))
	}
	if next := w.ring.Next(w.policy, w.now); next.Same(s) && s.Action != keyring.Wait {
		w.fail("%s again after it was done", s.Action)
	}
}
