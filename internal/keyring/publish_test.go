package keyring_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// listing returns the texts as a list of keys.
func listing(texts ...string) []json.RawMessage {
	var list []json.RawMessage
	for _, text := range texts {
		list = append(list, json.RawMessage(text))
	}
	return list
}

// jwk returns a public key as Redox lists it, with a member that the engine does not
// know.
func jwk(id keyring.ID, n string) string {
	return fmt.Sprintf(`{"kid":%q,"kty":"RSA","n":%q,"e":"AQAB","added":"2026"}`, id, n)
}

// published returns a ring with an active key "a", a pending key "p" and a deleted key "g". The
// engine keeps Redox's list up to date.
func published() *keyring.Ring {
	r := activeAnd(key("p", func(*keyring.Key) {}))
	r.Publication = &keyring.Publication{To: "redox"}
	r.Gone = []keyring.Public{{ID: "g", N: "n-of-g", E: "AQAB"}}
	return r
}

func TestMerge(t *testing.T) {
	ours := func(id keyring.ID) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":%q,"use":"sig","alg":"RS384","n":"n-of-%s","e":"AQAB"}`, id, id)
	}
	const other, noKey, odd = `{"kid":"x","kty":"EC","crv":"P-384"}`, `"nonsense"`, `{"kid":7}`
	for name, test := range map[string]struct {
		list, want []string
		added      string
		changed    bool
	}{
		"empty":          {nil, []string{ours("a"), ours("p")}, "a p", true},
		"one is missing": {[]string{jwk("a", "n-of-a")}, []string{jwk("a", "n-of-a"), ours("p")}, "p", true},
		"all there": {[]string{jwk("p", "n-of-p"), jwk("a", "n-of-a")},
			[]string{jwk("p", "n-of-p"), jwk("a", "n-of-a")}, "", false},
		"others stay as is": {[]string{other, noKey, odd, jwk("a", "n-of-a"), jwk("p", "n-of-p")},
			[]string{other, noKey, odd, jwk("a", "n-of-a"), jwk("p", "n-of-p")}, "", false},
		"the deleted one goes": {[]string{jwk("g", "n-of-g"), other, jwk("a", "n-of-a"), jwk("p", "n-of-p")},
			[]string{other, jwk("a", "n-of-a"), jwk("p", "n-of-p")}, "", true},
		"another called g": {[]string{jwk("g", "other"), jwk("a", "n-of-a"), jwk("p", "n-of-p")},
			[]string{jwk("g", "other"), jwk("a", "n-of-a"), jwk("p", "n-of-p")}, "", false},
		"a is padded": {[]string{jwk("a", "n-of-a=="), jwk("p", "n-of-p")},
			[]string{jwk("a", "n-of-a=="), jwk("p", "n-of-p")}, "", false},
		"ours under another ID": {[]string{jwk("z", "n-of-a"), jwk("a", "n-of-a"), jwk("p", "n-of-p")},
			[]string{jwk("z", "n-of-a"), jwk("a", "n-of-a"), jwk("p", "n-of-p")}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := published()
			before := dump(r)
			got, added, changed, err := r.Merge(listing(test.list...))
			var texts []string
			for _, raw := range got {
				texts = append(texts, string(raw))
			}
			if err != nil || !slices.Equal(texts, test.want) || strings.Trim(fmt.Sprint(added), "[]") != test.added ||
				changed != test.changed {
				t.Errorf("added %v, changed %v, %v:\n%s", added, changed, err, strings.Join(texts, "\n"))
			}
			if dump(r) != before {
				t.Error("merging changed the ring")
			}
		})
	}
	_, _, _, err := published().Merge(listing(jwk("a", "other")))
	if err == nil || !strings.Contains(err.Error(), "Redox lists another key under the ID a") {
		t.Errorf("another key called a: %v", err)
	}
}

// Numbers are equal even if one has leading zeros or padding.
func TestSameNumbers(t *testing.T) {
	r := activeAnd(nil)
	r.Keys[0].N, r.Publication = "gAAB", &keyring.Publication{}
	for n, same := range map[string]bool{"gAAB": true, "AIAAAQ": true, "AIAAAQ==": true, "gAAC": false, "": false,
		"!": false} {
		_, added, _, err := r.Merge(listing(jwk("a", n)))
		if got := err == nil && len(added) == 0; got != same {
			t.Errorf("%q is the same: %v, %v", n, got, err)
		}
	}
}

func TestListed(t *testing.T) {
	at := noon.Add(time.Hour)
	all := []string{jwk("a", "n-of-a"), jwk("p", "n-of-p")}
	for name, test := range map[string]struct {
		list        []string
		added       []keyring.ID
		since       time.Time // since when p counted as published
		publishedAt time.Time // since when it does now
		failure     string
		next        time.Duration
		gone        int
		foreign     string
	}{
		"all, the first time": {all, nil, time.Time{}, at, "", time.Hour, 0, "[]"},
		"all, as before":      {all, nil, noon, noon, "", time.Hour, 0, "[]"},
		"all, added again":    {all, []keyring.ID{"a", "p", "gone"}, noon, at, "", time.Hour, 0, "[]"},
		"with others": {append(all, jwk("x", "y"), `{"kid":"no key ID"}`), nil, noon, noon, "", time.Hour, 0,
			"[x]"},
		"without p": {all[:1], nil, noon, time.Time{}, "does not list p yet", time.Minute, 0, "[]"},
		"another key called p": {append(all[:1:1], jwk("p", "other")), nil, noon, time.Time{}, "does not list p yet",
			time.Minute, 0, "[p]"},
		"without both": {nil, nil, noon, time.Time{}, "does not list a, p yet", time.Minute, 0, "[]"},
		"with the deleted one": {append(all, jwk("g", "n-of-g==")), nil, noon, noon, "still lists the deleted key g",
			time.Minute, 1, "[]"},
		"deleted there, missing p": {append(all[:1:1], jwk("g", "n-of-g")), nil, noon, time.Time{}, "does not list p yet",
			time.Minute, 1, "[]"},
		"another by a deleted name": {append(all, jwk("g", "other")), nil, noon, noon, "", time.Hour, 0, "[g]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := published()
			r.Get("p").PublishedAt = test.since
			r.Publication.Failure, r.Publication.Refusals = "", 0
			r.Sent(test.added)
			r.Listed(listing(test.list...), at)
			p := r.Publication
			if got := r.Get("p").PublishedAt; !got.Equal(test.publishedAt) {
				t.Errorf("published at %v", got)
			}
			if !strings.Contains(p.Failure, test.failure) || (p.Failure == "") != (test.failure == "") ||
				p.NextAt.Sub(at) != test.next || p.LastAt != at {
				t.Errorf("%+v", p.Attempts)
			}
			if p.ReadAt.Equal(at) != (test.failure == "") || len(r.Gone) != test.gone || fmt.Sprint(p.Foreign) != test.foreign {
				t.Errorf("read at %v, gone %v, foreign %v", p.ReadAt, r.Gone, p.Foreign)
			}
			if !r.Get("a").PublishedAt.IsZero() {
				t.Error("an active key has a window")
			}
		})
	}
}

// A list that is up to date resets the count of refusals.
func TestListedEndsRefusals(t *testing.T) {
	r := published()
	r.Publication.Refused("no", noon)
	r.Publication.Refused("no", noon)
	r.Listed(listing(jwk("a", "n-of-a"), jwk("p", "n-of-p")), noon)
	if r.Publication.Refusals != 0 {
		t.Errorf("%+v", r.Publication)
	}
}

// If PublishTo gets another digest, it resets Publication.Proved, and PublishedAt of the pending
// key. The deleted keys stay recorded.
func TestAim(t *testing.T) {
	r := published()
	r.Publication.Proved, r.Get("p").PublishedAt = true, noon
	if r.PublishTo("redox") || !r.Publication.Proved {
		t.Error("the same again changes the ring")
	}
	if !r.PublishTo("another") || r.Publication.Proved || len(r.Gone) != 1 || r.Publication.To != "another" ||
		!r.Get("p").PublishedAt.IsZero() {
		t.Errorf("%+v", r.Publication)
	}
	if r = activeAnd(nil); r.PublishTo("redox") || r.Publication != nil {
		t.Error("a list that somebody else keeps")
	}
	if r = activeAnd(nil); !r.Settle(pushed, noon) || !r.PublishTo("redox") {
		t.Error("without a pending key it has no aim")
	}
}

// If a key is deleted or added, the next update of Redox's list is due at once. While
// 32 deleted keys are still on that list, Remove and Add fail. At most 32 keys of others
// are recorded.
func TestOutOfDate(t *testing.T) {
	r := published()
	r.Publication.NextAt = noon.Add(day)
	if err := r.Remove("p", false); err != nil {
		t.Fatal(err)
	}
	if !r.Publication.NextAt.IsZero() || len(r.Gone) != 2 || r.Gone[1].ID != "p" {
		t.Errorf("after a deletion: %+v, %v", r.Publication, r.Gone)
	}
	r.Publication.NextAt = noon.Add(day)
	if _, _, err := r.Add(fake("p"), noon); err != nil {
		t.Fatal(err)
	}
	if !r.Publication.NextAt.IsZero() || len(r.Gone) != 1 || r.Gone[0].ID != "g" {
		t.Errorf("when it comes back: %+v, %v", r.Publication, r.Gone)
	}
	r.Keys = append(r.Keys, key("r", func(k *keyring.Key) { k.State = keyring.Retiring }))
	for i := range 30 {
		if err := r.Remove(r.Pending().ID, false); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Add(fake(keyring.ID(fmt.Sprint("k", i))), noon); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Remove("k29", false); err != nil {
		t.Fatal(err)
	}
	_, _, addErr := r.Add(fake("k30"), noon)
	for _, err := range []error{addErr, r.Remove("r", false)} {
		if err == nil || !strings.Contains(err.Error(), "32 deleted keys may still be on Redox's list") ||
			r.Get("r") == nil || r.Get("k30") != nil || len(r.Gone) != 32 {
			t.Errorf("with 32 deleted keys: %v", err)
		}
	}
	var foreign []string
	for i := range 100 {
		foreign = append(foreign, jwk(keyring.ID(fmt.Sprint("f", i)), "n"))
	}
	if r.Listed(listing(foreign...), noon); len(r.Publication.Foreign) != 32 {
		t.Errorf("%d keys of others are remembered", len(r.Publication.Foreign))
	}
}

// A retiring key is deleted when its time has come, even if 32 deleted keys are still on Redox's
// list. No key can be added while that many are on the list.
func TestDropWithAFullList(t *testing.T) {
	p := keyring.Policy{RetireAfter: time.Hour, Period: time.Hour, Publishing: keyring.PlatformAPI}
	r := retired("here")
	r.Publication = &keyring.Publication{To: "redox"}
	for i := range 32 {
		r.Gone = append(r.Gone, keyring.Public{ID: keyring.ID(fmt.Sprint("g", i)), N: "n", E: "AQAB"})
	}
	now := noon.Add(2 * time.Hour)
	if s := r.Next(p, now); s.Action != keyring.Drop || s.Key.ID != "r" {
		t.Fatalf("next is %+v", s)
	}
	r.Drop("r")
	if r.Get("r") != nil || len(r.Gone) != 33 || r.Gone[32].ID != "r" {
		t.Errorf("the ring holds %s, gone are %v", states(r), r.Gone)
	}
	if s := r.Next(p, now); s.Action != keyring.Publish {
		t.Errorf("then %s", s.Action)
	}
	r.Publication.Refused("no", now)
	if s := r.Next(p, now); s.Action != keyring.Wait || !s.At.Equal(now.Add(time.Minute)) {
		t.Errorf("while Redox refuses, next is %+v", s)
	}
	if err := r.CanAdd(); err == nil || !strings.HasPrefix(err.Error(), "33 deleted keys may still be on Redox's list") {
		t.Errorf("another key: %v", err)
	}
	r.Listed(listing(jwk("a", "n-of-a")), now)
	if s := r.Next(p, now); s.Action != keyring.Add || len(r.Gone) != 0 {
		t.Errorf("when Redox is well, next is %s, and %d are gone", s.Action, len(r.Gone))
	}
	r.Drop("a")
	if r.Active() == nil {
		t.Error("it dropped the active key")
	}
}

// Recheck makes the next read of Redox's list due now, unless the last attempt to publish failed
// or was less than ten seconds ago. Retry makes it due now only if the last attempt failed.
func TestDoubt(t *testing.T) {
	r := published()
	if r.Recheck(noon) {
		t.Error("it is due already")
	}
	r.Publication.LastAt, r.Publication.NextAt = noon, noon.Add(time.Hour)
	if r.Recheck(noon.Add(10*time.Second - 1)) {
		t.Error("the last look was just now")
	}
	if !r.Recheck(noon.Add(10*time.Second)) || !r.Publication.NextAt.IsZero() {
		t.Errorf("%+v", r.Publication)
	}
	if activeAnd(nil).Recheck(noon) || activeAnd(nil).Retry() {
		t.Error("somebody else keeps the list")
	}
	r.Publication.NextAt = noon.Add(time.Hour)
	if r.Retry() {
		t.Error("nothing has failed")
	}
	r.Publication.Refused("no", noon)
	if r.Recheck(noon.Add(30 * time.Second)) {
		t.Error("doubt shortens the wait after a refusal")
	}
	if !r.Retry() || !r.Publication.NextAt.IsZero() || r.Publication.Refusals != 1 || r.Retry() {
		t.Errorf("tried again: %+v", r.Publication)
	}
}
