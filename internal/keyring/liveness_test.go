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

// walk drives a ring by a policy. How Redox answers and how the clock jumps are random.
type walk struct {
	t       *testing.T
	name    string
	random  *rand.Rand
	policy  keyring.Policy
	ring    *keyring.Ring
	now     time.Time
	made    int  // number of keys so far
	healthy bool // Redox accepts proofs and updates, and the clock does not jump

	// list is Redox's list. since is when Redox last took an update that adds the key, even if it then
	// lost the update.
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

// prove makes a proof of k, and fails the test if the publish window of k is not over. Redox refuses
// the proof, does not answer, or accepts it, at random. A healthy Redox accepts it.
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
	}
}

// accept makes a token request with the active key. Redox refuses or accepts it at random, even a
// healthy one.
func (w *walk) accept(k *keyring.Key) {
	if w.random.IntN(2) == 0 {
		k.Proofs.Refused("no", w.now)
		return
	}
	k.Accept("here")
}

// publish updates Redox's list. Redox refuses the update, does not answer, takes and loses it, or
// stores it, at random. A healthy Redox stores it.
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

// others returns the IDs of the keys in list that somebody else added (see wait).
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
	// Sometimes somebody else adds a key to the list, or removes one.
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

// step does the next step. It fails the test if that deletes a key that must stay or leaves a ring
// that is not valid, or if the same step, other than Wait, comes again.
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

// disturb does one thing that may happen at any time: somebody deletes, activates or adds a key or
// changes the settings, or Redox's list keeps many deleted keys.
func (w *walk) disturb() {
	k := w.ring.Keys[w.random.IntN(len(w.ring.Keys))]
	switch w.random.IntN(6) {
	case 0:
		_ = w.ring.Remove(k.ID, false) // refused for the active key, and with a full list of deleted keys
	case 1:
		if err := w.ring.Activate(k.ID, w.now); err != nil {
			w.fail("%v", err)
		}
	case 2:
		if w.ring.CanAdd() == nil {
			w.add(w.random.IntN(2) == 0)
		}
	case 3:
		ways := []keyring.Publishing{keyring.Manual, keyring.JWKSURL, keyring.PlatformAPI}
		w.policy.Publishing = ways[w.random.IntN(3)]
	case 4:
		w.policy.RetireAfter = 5*time.Minute + time.Duration(w.random.IntN(1000))*time.Minute
		w.policy.Period = max(w.policy.Window+time.Minute, (w.policy.RetireAfter+w.policy.Window)/6)
	case 5: // Redox still lists deleted keys, as many as the ring records
		for i := range 40 {
			if w.ring.Publication != nil && len(w.ring.Gone) < 32 {
				gone := keyring.Public{ID: keyring.ID(fmt.Sprint("g", w.made, "-", i)), N: "AQ", E: "AQAB"}
				w.ring.Gone = append(w.ring.Gone, gone)
				raw, err := json.Marshal(gone)
				if err != nil {
					w.fail("%v", err)
				}
				w.list = append(w.list, raw)
			}
		}
	}
	w.ring.Settle(w.policy, w.now)
	w.ring.PublishTo("redox")
}

// behind says why the ring is not up to date, or returns "".
func (w *walk) behind() string {
	for _, k := range w.ring.In(keyring.Retiring) {
		if !w.ring.Keeps(k) && !w.now.Before(k.RetiredAt.Add(w.policy.RetireAfter)) {
			return string(k.ID) + " is past its time"
		}
	}
	full := len(w.ring.Kept(w.policy, w.now)) > 0 && len(w.ring.Keys) == keyring.MaxKeys // a person must delete one
	if due := w.ring.Due(w.policy); !w.now.Before(due) && !full {
		return "a rotation is overdue"
	}
	p := w.ring.Publication
	if p == nil {
		return ""
	}
	if p.Failure != "" || len(w.ring.Gone) > 0 {
		return fmt.Sprintf("publication says %q, and %d deleted keys are listed", p.Failure, len(w.ring.Gone))
	}
	if _, added, changed, err := w.ring.Merge(w.list); err != nil || changed {
		return fmt.Sprintf("Redox lacks %v, %v", added, err)
	}
	return ""
}

// While Redox is healthy, a ring that is not up to date becomes so within bound steps, whatever
// happened before. Up to date means: each key past its time is gone unless it is kept, no rotation
// is overdue unless the ring is full and has a kept key, and if the engine keeps Redox's list up to
// date, the list has the keys of the ring and no deleted one.
func TestLiveness(t *testing.T) {
	for _, way := range []keyring.Publishing{keyring.Manual, keyring.JWKSURL, keyring.PlatformAPI} {
		for seed := range uint64(100) {
			w := newWalk(t, seed, way)
			for range 300 {
				if w.random.IntN(3) == 0 {
					w.disturb()
				}
				w.step()
			}
			w.healthy = true
			// bound is the largest number of steps until the ring is up to date: two for each key, to drop it
			// and to remove it from Redox's list, and 12 for a rotation and the waits in it.
			const bound = 2*keyring.MaxKeys + 12
			for range bound {
				w.step()
			}
			for steps, behind := 0, 0; steps < 100; steps++ {
				if w.behind() != "" {
					behind++
				} else {
					behind = 0
				}
				if behind > bound {
					w.fail("%d steps after Redox became healthy: %s; the ring holds %s", steps+bound, w.behind(), states(w.ring))
				}
				w.step()
			}
		}
	}
}
