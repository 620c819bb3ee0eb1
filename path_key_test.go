package redox

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

func TestActivateKey(t *testing.T) {
	m := newMount(t)
	old := m.ready("", nil)
	pending := m.write("keys/generate", nil)["key_id"].(string)

	t.Run("refused by Redox", func(t *testing.T) {
		before := snapshot(t, m.storage)
		m.fails(400, logical.UpdateOperation, "keys/"+pending+"/activate", nil, "key "+pending+" stays pending",
			"Redox does not know key "+pending)
		m.unchanged(before)
		if got := m.read("token")["key_id"]; got != old {
			t.Errorf("the token is signed by %s", got)
		}
	})
	t.Run("Redox is down", func(t *testing.T) {
		before := snapshot(t, m.storage)
		m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
		m.fails(502, logical.UpdateOperation, "keys/"+pending+"/activate", nil, "stays pending")
		m.sandbox.SetFault("", 0)
		m.unchanged(before)
	})
	t.Run("proved", func(t *testing.T) {
		m.publish("")
		got := m.write("keys/"+pending+"/activate", nil)
		if got["state"] != "active" || got["key_id"] != pending {
			t.Errorf("activated %v", got)
		}
		if !strings.Contains(m.log.String(), "signing key changed") {
			t.Error("the log does not tell of it")
		}
		if got := m.read("token")["key_id"]; got != pending {
			t.Errorf("the token is signed by %s", got)
		}
	})
	t.Run("already active", func(t *testing.T) {
		before, sent := snapshot(t, m.storage), len(m.sandbox.Assertions())
		m.write("keys/"+pending+"/activate", nil)
		m.unchanged(before)
		if len(m.sandbox.Assertions()) != sent {
			t.Error("the active key was proved again")
		}
	})
	t.Run("the way back", func(t *testing.T) {
		m.write("keys/"+old+"/activate", nil)
		if got := m.read("token")["key_id"]; got != old {
			t.Errorf("the token is signed by %s", got)
		}
	})
	t.Run("by force", func(t *testing.T) {
		m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
		sent := len(m.sandbox.Assertions())
		m.write("keys/"+pending+"/activate", map[string]any{"force": true})
		if len(m.sandbox.Assertions()) != sent {
			t.Error("force asked Redox")
		}
	})
}

// The active key needs no proof to be activated again. But if another key becomes active during the
// request, the request is refused.
func TestActivateOfAKeyThatWasActive(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	active := m.ready("", nil)
	next := m.write("keys/generate", nil)["key_id"].(string)
	storage.got = func() {
		storage.got = nil // at the first read of the ring
		m.write("keys/"+next+"/activate", map[string]any{"force": true})
	}
	m.fails(400, logical.UpdateOperation, "keys/"+active+"/activate", nil, "another key has become active meanwhile")
	if got := m.read("keys")["active"]; got != next {
		t.Errorf("key %v is active without a proof", got)
	}
}

func TestActivateWithoutConfig(t *testing.T) {
	m := newMount(t)
	m.write("keys/generate", nil)
	pending := m.write("keys/generate", nil)["key_id"].(string)
	m.fails(400, logical.UpdateOperation, "keys/"+pending+"/activate", nil, "no client ID")
	m.fails(404, logical.UpdateOperation, "keys/nobody/activate", nil, "there is no key nobody: list redox/keys")
}

// A proof is valid only for the key and the settings that it depends on. If one of these
// is changed or deleted during the proof, the key is not activated.
func TestActivateOvertaken(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(m *mount, pending string)
		status    int
		want      string
	}{
		"the config points elsewhere": {func(m *mount, _ string) {
			m.write("config", map[string]any{"client_id": "another"})
		}, 400, "the config changed while Redox was asked"},
		"the authority is another": {func(m *mount, _ string) {
			m.write("config", map[string]any{"ca_pem": testdata(m.t, "certificate.pem")})
		}, 400, "the config changed while Redox was asked"},
		"the config is gone": {func(m *mount, _ string) {
			m.must(logical.DeleteOperation, "config", nil)
		}, 400, "the config changed while Redox was asked"},
		"the key is gone": {func(m *mount, pending string) {
			m.must(logical.DeleteOperation, "keys/"+pending, nil)
		}, 404, "there is no key "},
		"the key is another": {func(m *mount, pending string) {
			m.must(logical.DeleteOperation, "keys/"+pending, nil)
			m.write("keys/import", map[string]any{"private_key": testdata(m.t, "pkcs8.pem"), "key_id": pending})
		}, 400, "another key was stored under its ID meanwhile"},
		"a setting that does not matter": {func(m *mount, _ string) {
			m.write("config", map[string]any{"max_retries": 1})
		}, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.write("keys/generate", nil)
			m.write("config", map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL()})
			pending := m.write("keys/generate", nil)["key_id"].(string)
			m.publish("")
			resp, err := m.activate(pending, func() { test.meanwhile(m, pending) })
			status, message := outcome(logical.UpdateOperation, resp, err)
			if status != test.status || !strings.Contains(message, test.want) {
				t.Errorf("HTTP %d %s, want %d %s", status, message, test.status, test.want)
			}
			if err == nil && !resp.IsError() && resp.Data["state"] != "active" {
				t.Errorf("activated %v", resp.Data)
			}
		})
	}
}

// activate activates a key, and calls meanwhile at the beginning of the proof.
func (m *mount) activate(id string, meanwhile func()) (*logical.Response, error) {
	proving, proceed := make(chan struct{}), make(chan struct{})
	waits := sync.OnceFunc(func() { // when prove looks at the clock for the first time
		close(proving)
		<-proceed
	})
	m.backend.now = func() time.Time { waits(); return time.Now() }
	type answer struct {
		resp *logical.Response
		err  error
	}
	done := make(chan answer)
	go func() {
		resp, err := m.request(context.Background(), logical.UpdateOperation, "keys/"+id+"/activate", nil)
		done <- answer{resp, err}
	}()
	<-proving
	m.backend.now = time.Now
	meanwhile()
	close(proceed)
	got := <-done
	return got.resp, got.err
}

func TestDeleteKey(t *testing.T) {
	m := newMount(t)
	first := m.ready("", nil)
	before := snapshot(t, m.storage)
	m.fails(400, logical.DeleteOperation, "keys/"+first, nil, "repeat with force=true")
	m.fails(404, logical.DeleteOperation, "keys/nobody", nil, "there is no key nobody")
	m.unchanged(before)

	second := m.write("keys/generate", nil)["key_id"].(string)
	m.must(logical.DeleteOperation, "keys/"+second, nil)
	m.unchanged(before)
	m.fails(404, logical.ReadOperation, "keys/"+second, nil)

	m.must(logical.DeleteOperation, "keys/"+first, map[string]any{"force": "true"})
	if _, left := snapshot(t, m.storage)["clients/default/keyring"]; left {
		t.Error("an empty ring is left in storage")
	}
	m.fails(404, logical.ReadOperation, "keys", nil)
}
