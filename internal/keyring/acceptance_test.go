package keyring_test

import (
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// Accept stores only the first acceptance of a key. It clears Proofs of an active key,
// and keeps Proofs of a pending key.
func TestAccept(t *testing.T) {
	r := ring(t, "a")
	k := r.Get("a")
	k.Proofs.Refused("no", noon)
	k.Accept("here")
	k.Accept("elsewhere")
	if k.Accepted != "here" || k.Proofs != (keyring.Attempts{}) {
		t.Errorf("accepted: %+v", k)
	}
	p := key("p", func(k *keyring.Key) { k.Proofs.Refused("no", noon) })
	p.Accept("here")
	if p.Proofs.Refusals != 1 {
		t.Error("a pending key forgets how its proofs went")
	}
}

// Keeps is false only if the active key was accepted with the same settings as the retiring key.
// Kept has a key for which Keeps is true once it has been retiring for RetireAfter.
func TestKeeps(t *testing.T) {
	for name, test := range map[string]struct {
		active, retiring string
		keeps            bool
	}{
		"both here":             {"here", "here", false},
		"the key here":          {"elsewhere", "here", true},
		"the active key unseen": {"", "here", true},
		"the key unseen":        {"here", "", true},
		"both unseen":           {"", "", true},
	} {
		r := retired(test.retiring)
		r.Get("a").Accepted = test.active
		if got := r.Keeps(r.Get("r")); got != test.keeps {
			t.Errorf("%s: keeps %v", name, got)
		}
		for after, kept := range map[time.Duration]bool{time.Hour - 1: false, time.Hour: test.keeps} {
			if got := r.Kept(handOnly, noon.Add(after)); len(got) == 1 != kept {
				t.Errorf("%s: after %v it keeps %v", name, after, got)
			}
		}
	}
}

// NewestAccepted returns the retiring key that was replaced last, of those that were
// accepted with the given settings. The order of the keys in the ring does not matter.
func TestNewestAccepted(t *testing.T) {
	at := func(id keyring.ID, minutes int, where string) *keyring.Key {
		return key(id, func(k *keyring.Key) {
			k.State, k.Accepted, k.RetiredAt = keyring.Retiring, where, noon.Add(time.Duration(minutes)*time.Minute)
		})
	}
	r := activeAnd(at("old", 1, "here"))
	r.Keys = append(r.Keys, at("new", 3, "here"), at("mid", 2, "here"), at("other", 4, "elsewhere"), at("unseen", 5, ""))
	if k := r.NewestAccepted("here"); k == nil || k.ID != "new" {
		t.Errorf("newest: %v", k)
	}
	if k := r.NewestAccepted("nowhere"); k != nil {
		t.Errorf("nowhere: %v", k)
	}
}
