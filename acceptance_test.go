package redox

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// acceptedKeys returns the IDs of the default client's keys for which an acceptance is
// stored.
func (m *mount) acceptedKeys() (ids []keyring.ID) {
	m.t.Helper()
	ring, err := loadRing(m.t.Context(), m.storage, defaultClient)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, k := range ring.Keys {
		if k.Accepted != "" {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// The worker requests tokens with the first key until Redox accepts the key, with the same pauses as
// between proofs. The metrics do not count these requests, and the log does not warn of them.
func TestFirstKeyIsTried(t *testing.T) {
	m := newMount(t)
	m.write("keys/generate", nil)
	m.write("config", map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL()})
	for i, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		if got := m.rotate(); got != wait || len(m.sandbox.Assertions()) != i+1 {
			t.Errorf("after %d requests it waits %v, want %v", len(m.sandbox.Assertions()), got, wait)
		}
		m.pass(wait)
	}
	m.expect(map[string]float64{"redox_rotation_overdue{client=default}": 0})
	if n := m.metrics()["redox_request_duration_seconds{client=default}"]; n != 0 {
		t.Errorf("%v requests are counted", n)
	}
	if log := m.log.String(); strings.Contains(log, "[WARN]") || strings.Contains(log, "[ERROR]") ||
		!strings.Contains(log, "Redox has not accepted the signing key yet") {
		t.Errorf("the log holds\n%s", log)
	}
	m.publish("")
	if got := m.rotate(); got != 0 || len(m.acceptedKeys()) != 1 {
		t.Errorf("it waits %v, and %d keys are accepted", got, len(m.acceptedKeys()))
	}
	if !strings.Contains(m.log.String(), "Redox accepted the signing key for the first time") {
		t.Errorf("the log holds\n%s", m.log)
	}
}

// If a read of token or a check succeeds, the worker stores that Redox accepted the key, and sends no
// request itself. An activation with force does not count as an acceptance.
func TestAcceptanceFromRequests(t *testing.T) {
	for _, path := range []string{"token", "check"} {
		m := newMount(t)
		first := m.ready("", nil)
		next := m.write("keys/generate", nil)["key_id"].(string)
		m.write("keys/"+next+"/activate", map[string]any{"force": true})
		m.rotate()
		if n := len(m.acceptedKeys()); n != 0 {
			t.Errorf("%d keys are accepted by force", n)
		}
		m.publish("")
		m.read(path)
		sent := len(m.sandbox.Assertions())
		m.rotate()
		if got := m.acceptedKeys(); len(got) != 1 || string(got[0]) != next || len(m.sandbox.Assertions()) != sent {
			t.Errorf("%s: accepted are %v, want %s alone; %d requests more", path, got, next, len(m.sandbox.Assertions())-sent)
		}
		text := m.read("keys")["rotation"].(string)
		if !strings.Contains(text, "key "+first+" is kept, as it was never seen that Redox "+
			"accepted it, so the engine cannot tell whether key "+next+" replaces it: if nobody needs it, vault "+
			"delete redox/keys/"+first) {
			t.Errorf("%s: %s", path, text)
		}
	}
}

// Of two acceptances of a key that the worker has not stored yet, the first counts. An acceptance does
// not count for another key with the same ID.
func TestFirstAcceptanceCounts(t *testing.T) {
	r := newRechecks()
	for _, where := range []string{"here", "elsewhere"} {
		r.add("acme", recheck{accepted: acceptance{"k", "n", where}})
	}
	r.add("acme", recheck{mended: true})
	if got := r.take("acme"); got.accepted.where != "here" || !got.mended {
		t.Errorf("noted is %+v", got)
	}
	ring := &keyring.Ring{Keys: []*keyring.Key{{ID: "k", N: "another", State: keyring.Active}}}
	if (acceptance{"k", "n", "here"}).noteIn(ring); ring.Keys[0].Accepted != "" {
		t.Error("another key with its ID counts as accepted")
	}
}

// After an activation with force, the engine does not delete the old key before Redox has accepted the
// new one. A read of keys says why.
func TestKeptUntilAccepted(t *testing.T) {
	m := newMount(t)
	first := m.ready("", map[string]any{"retire_after": "1h"})
	m.rotate()
	next := m.write("keys/generate", nil)["key_id"].(string)
	m.write("keys/"+next+"/activate", map[string]any{"force": true})
	m.pass(time.Hour)
	m.rotateAll(t.Context())
	keys := m.read("keys")
	if kept := keys["kept"].([]any); len(kept) != 1 || kept[0] != first || !strings.Contains(keys["rotation"].(string),
		"key "+first+" is kept, as it was not seen yet that Redox accepts key "+next+", which signs") {
		t.Errorf("keys: %v, %v", kept, keys["rotation"])
	}
	if until := m.read("keys/" + first)["published_until"]; until != "" {
		t.Errorf("the kept key is published until %v", until)
	}
	m.publish("")
	m.pass(time.Hour)
	m.rotate()
	m.fails(404, logical.ReadOperation, "keys/"+first, nil)
}

// A write of config warns if it replaces settings with which Redox accepted the key, and names those that
// it replaces. If there was no config, the warning names all that may have changed.
func TestConfigMoved(t *testing.T) {
	m := newMount(t)
	key := m.ready("", nil)
	m.rotate()
	warns := func(want string, given map[string]any) {
		t.Helper()
		resp, err := m.request(t.Context(), logical.UpdateOperation, "config", given)
		if err != nil || resp.IsError() {
			t.Fatal(resp, err)
		}
		text := strings.Join(resp.Warnings, "\n")
		if want == "" && text != "" || want != "" && !strings.HasPrefix(text, want+" changed since Redox accepted key "+key) {
			t.Errorf("of %v it warns %q, want %q", given, text, want)
		}
	}
	before := map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL(), "ca_pem": ""}
	warns("", map[string]any{"max_retries": 1})
	warns("client_id", map[string]any{"client_id": "his"})
	warns("", map[string]any{"max_retries": 2}) // it warned of that change already
	warns("", before)
	warns("ca_pem, client_id", map[string]any{"client_id": "his", "ca_pem": testdata(t, "certificate.pem")})
	m.must(logical.DeleteOperation, "config", nil)
	his := map[string]any{"client_id": "his", "token_url": m.sandbox.TokenURL()}
	warns("client_id, token_url, audience or ca_pem", his)
	m.must(logical.DeleteOperation, "config", nil)
	warns("", before)
	m.signs(key)
}
