package redox

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const userID = "0d9f4a52-6e2c-4c1e-9f5b-5a8f3f0f2d11"

// platformReady gives the default client a key that Redox knows, and a platform client whose user may
// manage API keys. It returns the ID of the key.
func (m *mount) platformReady(more map[string]any) (keyID string) {
	m.t.Helper()
	m.write("clients/platform/keys/import", map[string]any{"private_key": testdata(m.t, "pkcs8.pem")})
	if err := m.sandbox.Register(userID, []byte(m.read("clients/platform/keys")["jwks"].(string))); err != nil {
		m.t.Fatal(err)
	}
	m.sandbox.RegisterUser(userID, true)
	m.write("clients/platform/config", map[string]any{"client_id": userID, "token_url": m.sandbox.TokenURL(),
		"manages": "default=" + clientID})
	settings := map[string]any{"platform_client": "platform", "retire_after": "1h"}
	for name, value := range more {
		settings[name] = value
	}
	return m.ready("", settings)
}

// listed returns the key IDs in Redox's list of the default client's keys.
func (m *mount) listed() string {
	m.t.Helper()
	var set struct {
		Keys []struct{ Kid string } `json:"keys"`
	}
	if err := json.Unmarshal([]byte(m.sandbox.JWKS(clientID)), &set); err != nil {
		m.t.Fatal(err)
	}
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k.Kid)
	}
	return strings.Join(kids, " ")
}

func (m *mount) publication() string {
	m.t.Helper()
	return m.read("keys")["publication"].(string)
}

// With a platform client, rotations need no person: the engine adds each new key to Redox's list, proves
// it after the publish window, and removes the old key from the list after deleting it. Keys of others
// stay in the list.
func TestPublish(t *testing.T) {
	m := newMount(t)
	active := m.platformReady(map[string]any{"rotation_period": "24h"})
	const other = `{"kid":"other","kty":"RSA","e":"AQAB","n":"` +
		"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBigeC5yjU1hGzHHyXss" +
		"8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4gs_7svlJJQ4H9_NxsiIoLwAEk7-Q3UXERGYw_75IDrGA84-l" +
		"A_-Ct4eTlXHBIY2EaV7t7LjJaynVJCpkv4LKjTTAumiGUIuQhrNhZLuF_RJLqHpM2kgWFLU7-VTdL1VbC2tejvcI2BlMkEpk1BzBZI0KQB0G" +
		"aDWFLN-aEAw3vRw" + `","x-note":"of somebody"}`
	set := m.read("keys")["jwks"].(string)
	if err := m.sandbox.Register(clientID, []byte(strings.Replace(set, "[", "["+other+",", 1))); err != nil {
		t.Fatal(err)
	}
	if got := m.publication(); got != "about to begin" {
		t.Errorf("publication: %s", got)
	}
	m.rotate()
	if got := m.publication(); !strings.HasPrefix(got, "up to date: Redox listed every key at ") {
		t.Errorf("publication: %s", got)
	}
	if got := m.read("check")["foreign_keys"]; fmt.Sprint(got) != "[other]" {
		t.Errorf("check lists %v", got)
	}
	for range 3 {
		m.pass(24 * time.Hour)
		if wait := m.rotate(); wait != 15*time.Minute {
			t.Fatalf("with the next key published it waits %v", wait)
		}
		next := m.read("keys")["pending"].(string)
		if got, want := m.listed(), "other "+active+" "+next; got != want {
			t.Errorf("Redox lists %s, want %s", got, want)
		}
		if text := m.read("keys")["rotation"].(string); !strings.Contains(text,
			"under way: key "+next+" is published at Redox since "+m.now.UTC().Format(time.RFC3339)+" and is proved from ") {
			t.Errorf("keys says %q", text)
		}
		m.pass(15*time.Minute - time.Second)
		m.rotate()
		m.signs(active)
		m.pass(time.Second)
		m.rotate()
		m.signs(next)
		if text, want := m.read("keys")["rotation"].(string),
			"; key "+active+" is deleted at "+m.now.Add(time.Hour).UTC().Format(time.RFC3339); !strings.HasSuffix(text, want) {
			t.Errorf("keys says %q, want %q", text, want)
		}
		m.pass(time.Hour)
		m.rotate()
		if got, want := m.listed(), "other "+next; got != want {
			t.Errorf("Redox lists %s, want %s", got, want)
		}
		active = next
	}
	if !strings.Contains(m.sandbox.JWKS(clientID), other) {
		t.Errorf("the other key has become %s", m.sandbox.JWKS(clientID))
	}
}

// Redox's list may keep a key that an update leaves out. The rotation still goes on, and publication
// names the deleted key until somebody removes that key.
func TestPublishMerges(t *testing.T) {
	m := newMount(t)
	old := m.platformReady(nil)
	m.sandbox.SetQuirk(redoxtest.QuirkMerges)
	next := m.write("keys/rotate", nil)["key_id"].(string)
	m.rotate()
	m.pass(15 * time.Minute)
	m.rotate()
	m.signs(next)
	m.pass(time.Hour)
	m.rotate()
	if got := m.publication(); !strings.Contains(got,
		"Redox took the update and still lists the deleted key "+old+": remove it in the dashboard") {
		t.Errorf("publication: %s", got)
	}
	m.register(clientID, m.read("keys")["jwks"].(string))
	m.pass(time.Minute)
	m.rotate()
	if got := m.publication(); !strings.HasPrefix(got, "up to date: ") {
		t.Errorf("publication: %s", got)
	}
}

// Whoever may write one client's config cannot put his own key on the API key of another person, whose
// client ID he sets. He fails if the platform client does not manage that ID, if Redox does not know his
// key, and if only a token server of his own accepts his key.
func TestPublishOnlyForOwner(t *testing.T) {
	const victim = "71b3c2c0-0000-4000-8000-000000000000"
	for name, settings := range map[string]map[string]any{
		"the platform client does not manage him": {},
		"it does, and Redox does not know his key": {
			"manages": "mallory=" + victim,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.platformReady(nil)
			if len(settings) > 0 {
				m.write("clients/platform/config", settings)
			}
			before := m.jwk(m.read("keys")["active"].(string))
			m.register(victim, before)
			listed := m.sandbox.JWKS(victim)
			m.write("clients/mallory/keys/generate", nil)
			m.write("clients/mallory/config", map[string]any{"client_id": victim, "token_url": m.sandbox.TokenURL(),
				"platform_client": "platform"})
			m.rotate()
			if got := m.sandbox.JWKS(victim); got != listed {
				t.Errorf("Redox lists %s", got)
			}
			if got := m.read("clients/mallory/keys")["publication"].(string); !strings.HasPrefix(got, "not up to date: ") {
				t.Errorf("publication: %s", got)
			}
		})
	}
	t.Run("his own server vouches for him", func(t *testing.T) {
		m := newMount(t)
		m.platformReady(nil)
		m.write("clients/platform/config", map[string]any{"manages": "mallory=" + victim})
		his, err := redoxtest.Start(redoxtest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(his.Close)
		m.write("clients/mallory/keys/generate", nil)
		if err := his.Register(victim, []byte(m.read("clients/mallory/keys")["jwks"].(string))); err != nil {
			t.Fatal(err)
		}
		m.register(victim, `{"keys":[]}`)
		m.allow(hostOf(his.TokenURL()))
		m.write("clients/mallory/config", map[string]any{"client_id": victim, "token_url": his.TokenURL(),
			"platform_client": "platform"})
		m.read("clients/mallory/token")
		sent := len(his.Assertions())
		m.rotate()
		if m.sandbox.JWKS(victim) != `{"keys":[]}` || len(his.Assertions()) != sent {
			t.Errorf("Redox lists %s, and his server was asked %d times", m.sandbox.JWKS(victim), len(his.Assertions())-sent)
		}
	})
}

// Before it publishes, the engine proves the client's active key, once. It does so again
// when the client ID of the client or of its platform client changes.
func TestPublishProvesAnew(t *testing.T) {
	m := newMount(t)
	m.platformReady(nil)
	m.rotate()
	proofs := func() int {
		m.t.Helper()
		before := len(m.sandbox.Assertions())
		m.pass(time.Hour)
		m.rotate()
		return len(m.sandbox.Assertions()) - before
	}
	if n := proofs(); n != 1 {
		t.Errorf("an hour later %d assertions, want that of the platform client", n)
	}
	if strings.Contains(m.log.String(), "public keys sent to Redox") {
		t.Error("a list that was as it should be is updated")
	}
	m.write("keys/generate", nil)
	if got := m.publication(); got != "about to be updated" {
		t.Errorf("publication: %s", got)
	}
	for name, change := range map[string]func(){
		"the client's ID": func() {
			m.register("another", m.read("keys")["jwks"].(string))
			m.write("clients/platform/config", map[string]any{"manages": "default=another"})
			m.write("config", map[string]any{"client_id": "another"})
		},
		"the platform client's ID": func() {
			m.register("other-user", m.read("clients/platform/keys")["jwks"].(string))
			m.sandbox.RegisterUser("other-user", true)
			m.write("clients/platform/config", map[string]any{"client_id": "other-user"})
		},
	} {
		change()
		if n := proofs(); n != 2 {
			t.Errorf("%s: %d assertions, want two", name, n)
		}
		if got := m.publication(); !strings.HasPrefix(got, "up to date: ") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Somebody empties Redox's list in the dashboard. The next read of token that Redox refuses makes the
// engine repair the list, unless the engine has read it less than ten seconds ago. In any case the engine
// repairs the list within an hour.
func TestPublishMendsList(t *testing.T) {
	m := newMount(t)
	active := m.platformReady(nil)
	m.rotate()
	m.pass(10 * time.Minute)
	m.register(clientID, `{"keys":[]}`)
	m.rotate()
	m.fails(400, logical.ReadOperation, "token", nil, "Redox does not know key "+active, "see publication in redox/keys")
	m.rotate()
	m.signs(active)
	if n := strings.Count(m.log.String(), "public keys sent to Redox: client=default"); n != 1 {
		t.Errorf("the log tells %d times of one update", n)
	}

	m.register(clientID, `{"keys":[]}`)
	for range 3 {
		m.fails(400, logical.ReadOperation, "token", nil, "Redox does not know key")
		m.rotate()
	}
	if m.listed() != "" {
		t.Error("it asks again at once")
	}
	m.pass(time.Hour)
	m.rotate()
	m.signs(active)
}

// If Redox does not know the key with which a read of token signs, the read wakes the worker, which
// repairs the list at once. Otherwise the worker would read the list only an hour after the last time.
func TestPublishMendsListAtOnce(t *testing.T) {
	storage := &readsOf{Storage: &logical.InmemStorage{}, reads: map[string]int{}}
	m := newMountOn(t, storage, systemView(0))
	active := m.platformReady(nil)
	m.rotate()
	m.pass(10 * time.Minute)
	m.register(clientID, `{"keys":[]}`)
	before := storage.of(defaultClient)
	m.start()
	waitFor(t, "the worker's first look", func() bool { return storage.of(defaultClient) >= before+2 })
	m.fails(400, logical.ReadOperation, "token", nil, "Redox does not know key "+active)
	waitFor(t, "the list to be mended", func() bool { return m.listed() == active })
}

// The engine removes a deleted key from Redox's list even if publishing was
// impossible, or off, in between. Otherwise it would report "up to date" while Redox
// still accepts a leaked key.
func TestPublishTakesOff(t *testing.T) {
	for name, meanwhile := range map[string]func(m *mount){
		"the authority was missing": func(m *mount) {
			m.write("clients/platform/config", map[string]any{"manages": ""})
			m.rotate()
		},
		"nobody published": func(m *mount) {
			m.sandbox.SetPlatformFault(redoxtest.FaultUnavailable, 0, 1)
			m.rotate()
			m.write("config", map[string]any{"platform_client": ""})
			m.rotate()
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			old := m.platformReady(nil)
			next := m.write("keys/generate", nil)["key_id"].(string)
			m.rotate()
			m.write("keys/"+next+"/activate", nil)
			m.must(logical.DeleteOperation, "keys/"+old, nil)
			meanwhile(m)
			if got := m.listed(); got != old+" "+next {
				t.Errorf("Redox lists %s", got)
			}
			m.write("clients/platform/config", map[string]any{"manages": "default=" + clientID})
			m.write("config", map[string]any{"platform_client": "platform"})
			m.rotate()
			if got := m.listed(); got != next || !strings.HasPrefix(m.publication(), "up to date: ") {
				t.Errorf("Redox lists %s; publication: %s", got, m.publication())
			}
		})
	}
}

// If somebody gives the API key a JWKS URL after the engine has updated the list, and before it reads
// the list back, that list counts for nothing: publication names the URL.
func TestPublishWhileOthersGiveAURL(t *testing.T) {
	m := newMount(t)
	old := m.platformReady(nil)
	next := m.write("keys/generate", nil)["key_id"].(string)
	m.sandbox.SetPlatformFault(redoxtest.FaultSlow, 2, 1) // the read after a read and an update
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.rotate()
	}()
	waitFor(t, "the update", func() bool { return m.listed() == old+" "+next })
	m.sandbox.RegisterURL(clientID, "https://others.example/jwks")
	<-done
	if got := m.publication(); !strings.Contains(got, "somebody gave this API key a JWKS URL") {
		t.Errorf("publication: %s", got)
	}
}
