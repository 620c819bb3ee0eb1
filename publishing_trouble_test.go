package redox

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// publishTroubles are problems with publishing: how each arises, what keys and check say about it, and
// how it is fixed. After that the list becomes up to date. Reads of token succeed all the time.
var publishTroubles = map[string]struct {
	breaks func(m *mount)
	says   string
	mends  func(m *mount)
	after  time.Duration // time until the next attempt, 1m when zero
}{
	"the platform client does not manage it": {
		func(m *mount) { m.write("clients/platform/config", map[string]any{"manages": "acme=" + clientID}) },
		"the config of client platform, the platform client, does not list default=" + clientID + " in manages",
		func(m *mount) {
			m.write("clients/platform/config", map[string]any{"manages": "default=" +
				clientID})
		}, time.Nanosecond,
	},
	"there is no platform client": {
		func(m *mount) { m.must(logical.DeleteOperation, "clients/platform/config", nil) },
		"the config of client platform, the platform client, does not list default=" + clientID + " in manages",
		func(m *mount) {
			m.write("clients/platform/config", map[string]any{"client_id": userID, "token_url": m.sandbox.TokenURL(),
				"manages": "default=" + clientID})
		}, time.Nanosecond,
	},
	"the platform client asks elsewhere": {
		func(m *mount) {
			elsewhere := strings.Replace(m.sandbox.TokenURL(), "127.0.0.1", "localhost", 1)
			m.allow(hostOf(elsewhere))
			m.write("clients/platform/config", map[string]any{"token_url": elsewhere})
		},
		"token URL and audience must be those of client platform",
		func(m *mount) {
			m.write("clients/platform/config",
				map[string]any{"token_url": m.sandbox.TokenURL()})
		}, time.Nanosecond,
	},
	"the platform client has another audience": {
		func(m *mount) {
			m.write("clients/platform/config", map[string]any{"audience": m.sandbox.TokenURL() + "/other"})
		},
		"token URL and audience must be those of client platform",
		func(m *mount) { m.write("clients/platform/config", map[string]any{"audience": ""}) }, time.Nanosecond,
	},
	"the platform client has no key": {
		func(m *mount) {
			m.must(logical.DeleteOperation, "clients/platform/keys/"+m.read("clients/platform/keys")["active"].(string),
				map[string]any{"force": true})
		},
		"client platform, the platform client, has no key",
		func(m *mount) {
			m.write("clients/platform/keys/import", map[string]any{"private_key": testdata(m.t, "pkcs8.pem")})
		}, 0,
	},
	"Redox does not know the platform client's key": {
		func(m *mount) { m.register(userID, `{"keys":[]}`) },
		"client platform, the platform client, gets no token: Redox refused the token request (HTTP 400",
		func(m *mount) { m.register(userID, m.read("clients/platform/keys")["jwks"].(string)) }, 0,
	},
	"it is no user's key": {
		func(m *mount) { m.sandbox.RegisterUser(userID, false) },
		"the Platform API answered HTTP 403: the user who owns the platform client's API key needs a role",
		func(m *mount) { m.sandbox.RegisterUser(userID, true) }, 0,
	},
	"the API key is not to be seen": {
		func(m *mount) { m.sandbox.Hide(clientID, true) },
		"the Platform API answered HTTP 404: the user who owns the platform client's API key sees no OAuth API " +
			"key with client ID " + clientID,
		func(m *mount) { m.sandbox.Hide(clientID, false) }, 0,
	},
	"somebody has set a JWKS URL": {
		func(m *mount) {
			server := httptest.NewServer(answers(http.StatusOK, m.read("keys")["jwks"].(string)))
			m.t.Cleanup(server.Close)
			m.sandbox.RegisterURL(clientID, server.URL)
		},
		"somebody gave this API key a JWKS URL",
		func(m *mount) { m.sandbox.RegisterURL(clientID, "") }, 0,
	},
	"the Platform API is down": {
		platformFails(redoxtest.FaultUnavailable, 0),
		"the Platform API answered HTTP 503",
		platformFails("", 0), 0,
	},
	"the Platform API is overrun": {
		platformFails(redoxtest.FaultTooMany, 0),
		"the Platform API answered HTTP 429",
		platformFails("", 0), 0,
	},
	"a firewall answers": {
		platformFails(redoxtest.FaultForbidden, 0),
		"the Platform API answered HTTP 403 and not in JSON: a firewall or proxy may have answered",
		platformFails("", 0), 0,
	},
	"a page answers": {
		platformFails(redoxtest.FaultHTML, 0),
		"the Platform API's answer is not the JSON of an API key",
		platformFails("", 0), 0,
	},
	"a redirect": {
		platformFails(redoxtest.FaultRedirect, 0),
		"the Platform API answered HTTP 307, a redirect, which is never followed with credentials",
		platformFails("", 0), 0,
	},
	"the connection breaks": {
		platformFails(redoxtest.FaultReset, 0),
		"broke before there was an answer",
		platformFails("", 0), 0,
	},
	"an answer too large": {
		platformFails(redoxtest.FaultHuge, 0),
		"the answer is larger than 1 MiB",
		platformFails("", 0), 0,
	},
	"the update is refused": {
		platformFails(redoxtest.FaultForbidden, 1),
		"the Platform API answered HTTP 403 and not in JSON",
		platformFails("", 0), 0,
	},
	"the update succeeds, and cannot be read back": {
		platformFails(redoxtest.FaultUnavailable, 2),
		"the public keys were sent, and cannot be read back: the Platform API answered HTTP 503",
		platformFails("", 0), 0,
	},
	"the update is lost": {
		func(m *mount) { m.sandbox.SetQuirk(redoxtest.QuirkForgets) },
		"Redox took the update and does not list ",
		func(m *mount) { m.sandbox.SetQuirk("") }, 0,
	},
	"another key has its ID": {
		(*mount).takeID,
		"Redox lists another key under the ID ",
		func(m *mount) { m.register(clientID, m.read("keys")["jwks"].(string)) }, 0,
	},
}

// platformFails returns a function that makes the Platform API answer the next requests well, as many as
// after says, and all later ones with f.
func platformFails(f redoxtest.Fault, after int) func(*mount) {
	return func(m *mount) { m.sandbox.SetPlatformFault(f, after, -1) }
}

func (m *mount) register(id, jwks string) {
	m.t.Helper()
	if err := m.sandbox.Register(id, []byte(jwks)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mount) jwk(keyID string) string { return m.read("keys/" + keyID)["jwk"].(string) }

// takeID replaces the pending key in Redox's list with another key that has its ID.
func (m *mount) takeID() {
	m.t.Helper()
	next := m.read("keys")["pending"].(string)
	other := strings.Replace(m.read("clients/platform/keys")["jwks"].(string),
		m.read("clients/platform/keys")["active"].(string), next, 1)
	m.register(clientID, strings.Replace(m.read("keys")["jwks"].(string), m.jwk(next),
		other[len(`{"keys":[`):len(other)-2], 1))
}

func TestPublishTrouble(t *testing.T) {
	t.Parallel()
	for name, test := range publishTroubles {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			old := m.platformReady(map[string]any{"max_retries": 0})
			next := m.write("keys/generate", nil)["key_id"].(string)
			test.breaks(m)
			m.rotate()
			m.signs(old)
			if got := m.publication(); !strings.HasPrefix(got, "not up to date: ") || !strings.Contains(got, test.says) {
				t.Errorf("publication: %s\nwant %s", got, test.says)
			}
			resp, err := m.request(t.Context(), logical.ReadOperation, "check", nil)
			if err != nil || !strings.Contains(fmt.Sprint(resp.Warnings), test.says) {
				t.Errorf("check: %v, %v", resp, err)
			}
			m.expect(map[string]float64{"redox_publication_failed{client=default}": 1})
			if !strings.Contains(m.log.String(), "the public keys at Redox are not up to date") {
				t.Error("the log does not tell of it")
			}
			m.write("keys/rotate", nil)
			m.rotate()
			m.signs(old)

			test.mends(m)
			if test.after == 0 {
				test.after = time.Minute
			}
			m.pass(test.after)
			m.rotate()
			if got := m.publication(); !strings.HasPrefix(got, "up to date: ") {
				t.Errorf("when it is mended: %s", got)
			}
			m.expect(map[string]float64{"redox_publication_failed{client=default}": 0})
			m.pass(15 * time.Minute)
			m.rotate()
			m.signs(next)
			if resp, err := m.request(t.Context(), logical.ReadOperation, "check", nil); err != nil ||
				strings.Contains(fmt.Sprint(resp.Warnings), "public keys") {
				t.Errorf("check: %v, %v", resp, err)
			}
		})
	}
}

// If another key takes the ID and the place of the pending key in Redox's list, the pending key is not published
// any more. Once the list has it again, it waits for the whole publish window before it is proved.
func TestPublishIDTaken(t *testing.T) {
	m := newMount(t)
	old := m.platformReady(map[string]any{"publish_window": "2h"})
	next := m.write("keys/rotate", nil)["key_id"].(string)
	m.rotate()
	m.takeID()
	m.pass(time.Hour)
	m.rotate()
	if got := m.read("keys")["rotation"].(string); !strings.Contains(got, "the engine publishes key "+next+" at Redox") {
		t.Errorf("rotation: %s", got)
	}
	m.register(clientID, m.read("keys")["jwks"].(string))
	m.pass(time.Minute)
	m.rotate()
	m.pass(2*time.Hour - time.Second)
	m.rotate()
	m.signs(old)
	m.pass(time.Second)
	m.rotate()
	m.signs(next)
}

// If the platform client loses its right to publish the keys while the engine
// publishes them, the result is not stored.
func TestPublishOvertaken(t *testing.T) {
	m := newMount(t)
	m.platformReady(nil)
	m.sandbox.SetFault(redoxtest.FaultSlow, 1)
	done := make(chan time.Time)
	go func() { done <- m.rotateAll(context.Background()) }()
	waitFor(t, "the proof", func() bool { return m.sandbox.FaultsLeft() == 0 })
	m.write("clients/platform/config", map[string]any{"manages": "acme=x"})
	<-done
	if got := m.publication(); got != "about to begin" {
		t.Errorf("publication: %s", got)
	}
}

// Storage fails once during a rotation with publishing, in each round at another operation. Reads of
// token between the steps succeed, and the rotation completes.
func TestPublishSurvivesStorage(t *testing.T) {
	t.Parallel()
	for at := 0; ; at++ {
		storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
		m := newMountOn(t, storage, systemView(0))
		old := m.platformReady(nil)
		// Importing a key is faster than generating one in each round.
		m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072b.pem")})
		m.write("keys/rotate", nil)
		storage.countdown = at
		for range 8 {
			m.rotateAll(t.Context())
			left := storage.countdown
			storage.countdown = -1
			m.read("token")
			storage.countdown = left
			m.pass(10 * time.Minute)
		}
		untouched := storage.countdown >= 0
		storage.countdown = -1
		for range 4 {
			m.rotate()
			m.pass(time.Hour)
		}
		active := m.read("keys")["active"].(string)
		m.signs(active)
		if got := m.listed(); got != active || active == old {
			t.Errorf("with a fault at operation %d Redox lists %s, active is %s", at, got, active)
		}
		if logged := strings.Contains(m.log.String(), "tried again in a minute"); logged == untouched {
			t.Errorf("with a fault at operation %d an error is logged: %v", at, logged)
		}
		if untouched {
			if at < 20 {
				t.Errorf("such a rotation has %d storage operations", at)
			}
			t.Logf("%d storage operations", at)
			break
		}
	}
}

// HTTP 503 is not reported as a refusal of the key. If Redox refused the key, and somebody fixed the
// cause, a write of config makes the engine try again at once, even if the first step after the write
// fails.
func TestPublishRetry(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.platformReady(map[string]any{"max_retries": 0})
	m.sandbox.SetFault(redoxtest.FaultUnavailable, 3)
	m.rotate()
	if got := m.publication(); !strings.Contains(got,
		"not up to date: proving the active key: the token endpoint answered HTTP 503; tried at ") {
		t.Errorf("publication: %s", got)
	}
	m.sandbox.SetFault("", 0)
	m.register(clientID, `{"keys":[]}`)
	m.pass(time.Minute)
	m.rotate()
	if got := m.publication(); !strings.Contains(got,
		"not up to date: Redox must know the active key before the engine can publish others, so paste that one "+
			"once: Redox refused") {
		t.Errorf("publication: %s", got)
	}
	m.publish("")
	m.write("config", map[string]any{"max_retries": 0})
	storage.countdown = 0
	m.rotateAll(t.Context())
	m.rotate()
	if got := m.publication(); !strings.HasPrefix(got, "up to date: ") {
		t.Errorf("publication: %s", got)
	}
}

// If the stored ca_pem of the platform client is damaged, the step fails, and is tried again in a minute.
// This is not reported as a refusal by Redox.
func TestPublishDamaged(t *testing.T) {
	m := newMount(t)
	m.platformReady(nil)
	key := configKey("platform")
	damaged := strings.Replace(snapshot(t, m.storage)[key], `"ca_pem":""`, `"ca_pem":"x"`, 1)
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(damaged)}); err != nil {
		t.Fatal(err)
	}
	m.rotateAll(t.Context())
	if log := m.log.String(); !strings.Contains(log, "tried again in a minute: client=default") ||
		!strings.Contains(log, "no CERTIFICATE block that can be read") || strings.Contains(log, "panic") {
		t.Errorf("the log holds %s", log)
	}
	if got := m.publication(); got != "about to begin" {
		t.Errorf("publication: %s", got)
	}
}

// Without a key there is nothing to publish, and storage stays as it is.
func TestPublishNothing(t *testing.T) {
	m := newMount(t)
	m.write("config", map[string]any{"client_id": clientID, "platform_client": "platform"})
	before := snapshot(t, m.storage)
	if wait := m.rotate(); wait != 0 {
		t.Errorf("it waits %v", wait)
	}
	m.unchanged(before)
	m.write("keys/generate", nil)
	if got := m.publication(); got != "about to begin" {
		t.Errorf("publication: %s", got)
	}
}

// The engine deletes a retiring key when its time has come, even if 32 deleted keys are still on Redox's
// list, token requests fail, and the platform client's config cannot be read.
func TestDropWhateverElseWaits(t *testing.T) {
	m := newMount(t)
	old := m.platformReady(nil)
	next := m.write("keys/generate", nil)["key_id"].(string)
	m.write("keys/"+next+"/activate", map[string]any{"force": true})
	ring, err := loadRing(t.Context(), m.storage, defaultClient)
	if err != nil {
		t.Fatal(err)
	}
	ring.Publication = &keyring.Publication{}
	for _, k := range ring.Keys {
		k.Accept("here")
	}
	for i := range 32 {
		ring.Gone = append(ring.Gone, keyring.Public{ID: keyring.ID(fmt.Sprint("gone", i)), N: "AQ", E: "AQAB"})
	}
	if err := store.Put(t.Context(), m.storage, keyringKey(defaultClient), ring); err != nil {
		t.Fatal(err)
	}
	m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
	m.fails(400, logical.DeleteOperation, "keys/"+old, nil, "32 deleted keys may still be on Redox's list")
	damaged := &logical.StorageEntry{Key: configKey("platform"), Value: []byte("damaged")}
	if err := m.storage.Put(t.Context(), damaged); err != nil {
		t.Fatal(err)
	}
	m.pass(time.Hour)
	m.rotateAll(t.Context())
	m.fails(404, logical.ReadOperation, "keys/"+old, nil, "there is no key")
}

// Once the config has another way to publish, check and the metrics show nothing of the old one, even
// before the next step.
func TestPublishNoMore(t *testing.T) {
	const failed = "redox_publication_failed{client=default}"
	m := newMount(t)
	m.platformReady(nil)
	m.sandbox.SetPlatformFault(redoxtest.FaultUnavailable, 0, -1)
	m.rotate()
	if text := m.checked(); !strings.Contains(text, "not up to date") || m.metrics()[failed] != 1 {
		t.Fatalf("the publication has not failed: %s", text)
	}
	for _, settings := range []map[string]any{{"platform_client": ""}, {"public_jwks": true}} {
		m.write("config", settings)
		data := m.read("check")
		_, foreign := data["foreign_keys"]
		_, shown := m.metrics()[failed]
		if text := m.checked(); strings.Contains(text, "the public keys at Redox") || foreign || shown {
			t.Errorf("after %v: %s, foreign keys %v, metric %v", settings, text, foreign, shown)
		}
	}
}
