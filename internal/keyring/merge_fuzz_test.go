package keyring

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

// FuzzMerge merges a ring into any list. Nothing may panic, a second merge must change nothing, the
// keys of others must stay, and those of their IDs that are stored must be valid.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(`[{"kid":"k","n":"AQ","e":"AQAB"},{"kid":7},null,"x"]`))
	f.Add([]byte(`[{"kid":"gone","n":"AAE=","e":"AQAB"},{"kid":"mine","n":"other"}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil {
			return
		}
		mine := &Key{ID: "mine", State: Active, N: "AQ", E: "AQAB"}
		ring := &Ring{Keys: []*Key{mine}, Publication: &Publication{}, Gone: []Public{{ID: "gone", N: "AQ", E: "AQAB"}}}
		merged, _, changed, err := ring.Merge(list)
		if err != nil {
			return // the list has another key with the ID of ours
		}
		if len(merged) > len(list)+1 || !changed && len(merged) != len(list) {
			t.Fatalf("%d keys became %d", len(list), len(merged))
		}
		for _, theirs := range list {
			var k struct{ Kid any }
			_ = json.Unmarshal(theirs, &k) // a list may hold anything
			if k.Kid != "mine" && k.Kid != "gone" && !slices.ContainsFunc(merged, func(m json.RawMessage) bool {
				return string(m) == string(theirs)
			}) {
				t.Fatalf("%s is not in the list any more", theirs)
			}
		}
		if _, added, again, err := ring.Merge(merged); err != nil || again || len(added) != 0 {
			t.Fatalf("merging again: added %v, %v", added, err)
		}
		ring.Listed(merged, time.Now())
		if p := ring.Publication; p.Failure != "" || len(ring.Gone) != 0 {
			t.Fatalf("%+v", p)
		}
		for _, id := range ring.Publication.Foreign {
			if _, err := ParseID(string(id)); err != nil {
				t.Fatalf("%q is no key ID", id)
			}
		}
	})
}
