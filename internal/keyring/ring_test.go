package keyring_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

func imported(t testing.TB, id keyring.ID) *keyring.Key {
	t.Helper()
	k, _, err := keyring.Parse(file(t, "pkcs8.pem"), id, noon)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fake returns a key that cannot sign, for rules that only compare keys.
func fake(id keyring.ID) *keyring.Key {
	return &keyring.Key{ID: id, N: "n-of-" + string(id), E: "AQAB"}
}

func ring(t testing.TB, ids ...keyring.ID) *keyring.Ring {
	t.Helper()
	r := &keyring.Ring{}
	for i, id := range ids {
		if _, added, err := r.Add(fake(id), noon); err != nil || !added {
			t.Fatal(added, err)
		}
		if i > 0 {
			if err := r.Activate(id, noon); err != nil {
				t.Fatal(err)
			}
		}
	}
	return r
}

func states(r *keyring.Ring) string {
	var list []string
	for _, k := range r.Keys {
		list = append(list, string(k.ID)+" "+string(k.State))
	}
	return strings.Join(list, ", ")
}

func TestAdd(t *testing.T) {
	r := &keyring.Ring{}
	if r.Active() != nil || r.CanAdd() != nil {
		t.Fatal("an empty ring has an active key or takes none")
	}
	first, added, err := r.Add(imported(t, ""), noon)
	if err != nil || !added {
		t.Fatal(added, err)
	}
	if first.State != keyring.Active || first.ActivatedAt != noon {
		t.Errorf("the first key is %s since %v", first.State, first.ActivatedAt)
	}
	again, added, err := r.Add(imported(t, ""), noon.Add(time.Hour))
	if err != nil || added || again != first || len(r.Keys) != 1 {
		t.Errorf("the same key again: added %v, %v, %d keys", added, err, len(r.Keys))
	}
	for want, k := range map[string]*keyring.Key{
		"is in the ring already, as " + string(first.ID): imported(t, "other"),
		"is taken by another key":                        fake(first.ID),
	} {
		if _, added, err := r.Add(k, noon); err == nil || added || !strings.Contains(err.Error(), want) {
			t.Errorf("added %v, error %v, want %q", added, err, want)
		}
	}
	second, added, err := r.Add(fake("second"), noon)
	if err != nil || !added || second.State != keyring.Pending || !second.ActivatedAt.IsZero() {
		t.Errorf("the second key: added %v, %v, %+v", added, err, second)
	}
	if _, _, err := r.Add(fake("third"), noon); err == nil || !strings.Contains(err.Error(), "second is pending already") {
		t.Errorf("a second pending key: %v", err)
	}
	if _, added, err := r.Add(fake("second"), noon); err != nil || added {
		t.Errorf("the pending key again: added %v, %v", added, err)
	}
	if got := states(r); got != string(first.ID)+" active, second pending" {
		t.Errorf("the ring holds %s", got)
	}
}

// If a key of the ring is added under another ID, the error says what to do, and doing that works.
func TestAddUnderAnotherID(t *testing.T) {
	for name, test := range map[string]struct {
		ring []*keyring.Key // added in this order
		want string
		way  func(r *keyring.Ring) error
	}{
		"the only key": {
			[]*keyring.Key{imported(t, "one")}, "delete that one with force=true, as it is the only key",
			func(r *keyring.Ring) error { return r.Remove("one", true) },
		},
		"the pending key": {
			[]*keyring.Key{fake("first"), imported(t, "one")}, "delete that one, then",
			func(r *keyring.Ring) error { return r.Remove("one", false) },
		},
		"the active key of several": {
			[]*keyring.Key{imported(t, "one"), fake("second")}, "activate another key and delete that one, then",
			func(r *keyring.Ring) error { return errors.Join(r.Activate("second", noon), r.Remove("one", false)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &keyring.Ring{}
			for _, k := range test.ring {
				if _, _, err := r.Add(k, noon); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := r.Add(imported(t, "two"), noon)
			if !isRule(err) || !strings.Contains(err.Error(), "as one: to have it as two, "+test.want) {
				t.Fatalf("error %v", err)
			}
			if err := test.way(r); err != nil {
				t.Fatal(err)
			}
			if _, added, err := r.Add(imported(t, "two"), noon); err != nil || !added {
				t.Errorf("added %v, %v", added, err)
			}
		})
	}
}

// The same modulus with another exponent is another key.
func TestAddComparesBothNumbers(t *testing.T) {
	r := ring(t, "one")
	k := fake("two")
	k.N, k.E = "n-of-one", "Aw"
	if _, added, err := r.Add(k, noon); err != nil || !added {
		t.Errorf("added %v, %v", added, err)
	}
}

func TestAddToAFullRing(t *testing.T) {
	r := ring(t, "1", "2", "3", "4", "5", "6", "7", "8")
	if _, _, err := r.Add(fake("9"), noon); err == nil || !strings.Contains(err.Error(), "full with 8 keys") {
		t.Errorf("a ninth key: %v", err)
	}
	if err := r.Remove("1", false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Add(fake("9"), noon); err != nil {
		t.Errorf("after deleting one: %v", err)
	}
}

func TestActivate(t *testing.T) {
	r := ring(t, "old")
	if _, _, err := r.Add(fake("new"), noon); err != nil {
		t.Fatal(err)
	}
	later := noon.Add(time.Hour)
	if err := r.Activate("new", later.In(time.FixedZone("", 3600))); err != nil {
		t.Fatal(err)
	}
	if got := states(r); got != "old retiring, new active" {
		t.Errorf("the ring holds %s", got)
	}
	if r.Get("old").RetiredAt != later || r.Active().ID != "new" || r.Active().ActivatedAt != later {
		t.Errorf("retired %v, activated %v", r.Get("old").RetiredAt, r.Active().ActivatedAt)
	}
	if err := r.Activate("new", later.Add(time.Hour)); err != nil || r.Active().ActivatedAt != later {
		t.Errorf("activating the active key: %v, activated %v", err, r.Active().ActivatedAt)
	}
	if err := r.Activate("old", later.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := states(r); got != "old active, new retiring" || !r.Active().RetiredAt.IsZero() {
		t.Errorf("after the way back the ring holds %s, retired %v", got, r.Active().RetiredAt)
	}
	if err := r.Activate("none", noon); err == nil || !strings.Contains(err.Error(), "no key none") {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestRemove(t *testing.T) {
	for name, test := range map[string]struct {
		ring  []keyring.ID
		id    keyring.ID
		force bool
		want  string // the error, or the state of the ring
	}{
		"a retiring key":           {[]keyring.ID{"a", "b"}, "a", false, "b active"},
		"a retiring key, forced":   {[]keyring.ID{"a", "b"}, "a", true, "b active"},
		"the active key":           {[]keyring.ID{"a", "b"}, "b", false, "key b is active: activate another key"},
		"the active key, forced":   {[]keyring.ID{"a", "b"}, "b", true, "key b is active: activate another key"},
		"the only key":             {[]keyring.ID{"a"}, "a", false, "repeat with force=true"},
		"the only key, forced":     {[]keyring.ID{"a"}, "a", true, ""},
		"an unknown key":           {[]keyring.ID{"a"}, "x", true, "there is no key x"},
		"of an empty ring, forced": {nil, "x", true, "there is no key x"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ring(t, test.ring...)
			before := states(r)
			err := r.Remove(test.id, test.force)
			if err != nil {
				if !strings.Contains(err.Error(), test.want) || test.want == "" {
					t.Errorf("error %q, want %q", err, test.want)
				}
				if states(r) != before {
					t.Errorf("refused, and yet the ring holds %s", states(r))
				}
			} else if states(r) != test.want {
				t.Errorf("the ring holds %q, want %q", states(r), test.want)
			}
		})
	}
}
