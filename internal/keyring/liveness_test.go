package keyring_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// disturb does what people may do at any time: delete, activate and add a key, and
// change the settings.
func (w *walk) disturb() {
	k := w.ring.Keys[w.random.IntN(len(w.ring.Keys))]
	switch w.random.IntN(6) {
	case 0:
		_ = w.ring.Remove(k.ID, false) // refused for the active key, and with a full list
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
	case 5: // Redox keeps what was deleted, until the list of it is full
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

// behind says why the ring is not as it should be, empty when it is.
func (w *walk) behind() string {
	for _, k := range w.ring.In(keyring.Retiring) {
		if !w.ring.Keeps(k) && !w.now.Before(k.RetiredAt.Add(w.policy.RetireAfter)) {
			return string(k.ID) + " is past its time"
		}
	}
	full := len(w.ring.Kept(w.policy, w.now)) > 0 && len(w.ring.Keys) == keyring.MaxKeys // of keys that somebody deletes
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

// Whatever happened, once Redox is healthy each ring is soon up to date, and stays
// so: each key past its time is gone unless it is kept, the rotation is not overdue, and Redox lists
// the keys of the ring and no deleted one.
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
			// bound is the largest number of steps until the ring is up to date: two
			// for each key, which is dropped and then removed from Redox's list, and
			// 12 for a rotation, whose parts each wait.
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
