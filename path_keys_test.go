package redox

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestGenerateKey(t *testing.T) {
	m := newMount(t)
	m.backend.now = func() time.Time { return noon }
	m.fails(404, logical.ReadOperation, "keys", nil, "there are no keys: write to redox/keys/generate")
	m.fails(404, logical.ListOperation, "keys", nil)

	first := m.write("keys/generate", nil)
	id := first["key_id"].(string)
	delete(first, "key_id")
	want := map[string]any{
		"state": "active", "origin": "generated", "key_bits": 2048.0, "created_at": "2026-11-24T12:00:00Z", "activated_at": "2026-11-24T12:00:00Z",
		"retired_at": "", "next": "give Redox the public half (vault read -field=jwks redox/keys) in the dashboard and press Save Changes, write client_id to redox/config, then read redox/check",
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	second := m.write("keys/generate", map[string]any{"key_bits": "3072"})
	if second["state"] != "pending" || second["key_bits"] != 3072.0 || second["activated_at"] != "" {
		t.Errorf("the second key: %v", second)
	}
	if next := "then write to redox/keys/" + second["key_id"].(string) + "/activate"; !strings.HasSuffix(second["next"].(string), next) {
		t.Errorf("next: %s", second["next"])
	}
	before := snapshot(t, m.storage)
	m.fails(400, logical.UpdateOperation, "keys/generate", nil, second["key_id"].(string)+" is pending already")
	m.unchanged(before)

	list := m.must(logical.ListOperation, "keys", nil)
	if diff := cmp.Diff([]any{id, second["key_id"]}, list["keys"]); diff != "" {
		t.Errorf("the list (-want +got):\n%s", diff)
	}
	delete(want, "next")
	if diff := cmp.Diff(want, list["key_info"].(map[string]any)[id]); diff != "" {
		t.Errorf("key_info (-want +got):\n%s", diff)
	}
}

func TestGenerateSizes(t *testing.T) {
	m := newMount(t)
	for _, bits := range []any{2048, "3072", 4096.0} {
		got := m.write("keys/generate", map[string]any{"key_bits": bits})
		if got["key_bits"] == nil {
			t.Errorf("%v bits: %v", bits, got)
		}
		if got["state"] == "pending" {
			m.must(logical.DeleteOperation, "keys/"+got["key_id"].(string), nil)
		}
	}
}

func TestReadKeys(t *testing.T) {
	m := newMount(t)
	first := m.write("keys/generate", nil)["key_id"]
	second := m.write("keys/generate", nil)["key_id"]
	m.write("keys/"+second.(string)+"/activate", map[string]any{"force": true})
	third := m.write("keys/generate", nil)["key_id"]
	got := m.read("keys")
	jwks := got["jwks"].(string)
	delete(got, "jwks")
	want := map[string]any{"active": second, "pending": third, "retiring": []any{first}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal([]byte(jwks), &set); err != nil || len(set.Keys) != 3 {
		t.Errorf("jwks %s, %v", jwks, err)
	}
	for i, id := range []any{first, second, third} {
		if set.Keys[i]["kid"] != id {
			t.Errorf("kid %d is %s, want %s", i, set.Keys[i]["kid"], id)
		}
		one := m.read("keys/" + id.(string))
		var jwk map[string]string
		if err := json.Unmarshal([]byte(one["jwk"].(string)), &jwk); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(set.Keys[i], jwk); diff != "" {
			t.Errorf("the key alone differs from that in the set:\n%s", diff)
		}
	}
}

func TestImportKey(t *testing.T) {
	m := newMount(t)
	got := m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs1.pem"), "key_id": "dashboard-key"})
	if got["key_id"] != "dashboard-key" || got["origin"] != "imported" || got["state"] != "active" {
		t.Errorf("imported %v", got)
	}
	if pem := m.read("keys/dashboard-key")["public_key"]; pem != testdata(t, "public.pem") {
		t.Errorf("public_key is\n%s", pem)
	}
	before := snapshot(t, m.storage)
	again := m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "dashboard-key"})
	if again["next"] == "" || again["created_at"] != got["created_at"] {
		t.Errorf("the same key again: %v", again)
	}
	m.unchanged(before)
	m.fails(400, logical.UpdateOperation, "keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem")}, "in the ring already, as dashboard-key")
	m.unchanged(before)

	// A retiring key that is imported again stays what it is.
	other := m.write("keys/generate", nil)["key_id"].(string)
	m.write("keys/"+other+"/activate", map[string]any{"force": true})
	again = m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "dashboard-key"})
	if again["state"] != "retiring" || again["next"] != "nothing: the key is in the ring already, as retiring" {
		t.Errorf("a retiring key again: %v", again)
	}
	m.fails(400, logical.UpdateOperation, "keys/import", map[string]any{"private_key": testdata(t, "rsa1024.pem")}, "private_key: it has 1024 bits")
}

func TestActivateKey(t *testing.T) {
	m := newMount(t)
	old := m.ready("", nil)
	pending := m.write("keys/generate", nil)["key_id"].(string)

	t.Run("refused by Redox", func(t *testing.T) {
		before := snapshot(t, m.storage)
		m.fails(400, logical.UpdateOperation, "keys/"+pending+"/activate", nil, "key "+pending+" stays pending", "Redox does not know key "+pending)
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
	t.Run("without a config", func(t *testing.T) {
		m.must(logical.DeleteOperation, "config", nil)
		m.fails(400, logical.UpdateOperation, "keys/"+old+"/activate", nil, "no client ID")
	})
	t.Run("unknown", func(t *testing.T) {
		m.fails(404, logical.UpdateOperation, "keys/nobody/activate", nil, "there is no key nobody: list redox/keys")
	})
}

// A proof holds only for what was proved: while Redox thinks, somebody
// replaces the key or points the config elsewhere.
func TestActivateOvertaken(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(m *mount, pending string)
		status    int
		want      string
	}{
		"the config points elsewhere": {func(m *mount, _ string) {
			m.write("config", map[string]any{"client_id": "another"})
		}, 400, "the config changed while key "},
		"the config is gone": {func(m *mount, _ string) {
			m.must(logical.DeleteOperation, "config", nil)
		}, 400, "the config changed while key "},
		"the key is gone": {func(m *mount, pending string) {
			m.must(logical.DeleteOperation, "keys/"+pending, nil)
		}, 404, "there is no key "},
		"the key is another": {func(m *mount, pending string) {
			m.must(logical.DeleteOperation, "keys/"+pending, nil)
			m.write("keys/import", map[string]any{"private_key": testdata(m.t, "pkcs8.pem"), "key_id": pending})
		}, 400, "was replaced by another while it was being proved"},
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
			proving := make(chan struct{})
			proceed := make(chan struct{})
			m.backend.now = func() func() time.Time {
				first := true
				return func() time.Time {
					if first { // the proof's assertion is about to be signed
						first = false
						close(proving)
						<-proceed
					}
					return time.Now()
				}
			}()
			type answer struct {
				resp *logical.Response
				err  error
			}
			done := make(chan answer)
			go func() {
				resp, err := m.request(context.Background(), logical.UpdateOperation, "keys/"+pending+"/activate", nil)
				done <- answer{resp, err}
			}()
			<-proving
			m.backend.now = time.Now
			test.meanwhile(m, pending)
			close(proceed)
			got := <-done
			status, message := outcome(logical.UpdateOperation, got.resp, got.err)
			if status != test.status || !strings.Contains(message, test.want) {
				t.Errorf("HTTP %d %s, want %d %s", status, message, test.status, test.want)
			}
			if got.resp != nil && !got.resp.IsError() && got.resp.Data["state"] != "active" {
				t.Errorf("activated %v", got.resp.Data)
			}
		})
	}
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

func TestClients(t *testing.T) {
	m := newMount(t)
	m.fails(404, logical.ListOperation, "clients", nil)
	m.write("config", map[string]any{"client_id": clientID})
	acme := m.ready("clients/acme-prod/", nil)
	m.write("clients/b/keys/generate", nil)
	if diff := cmp.Diff([]any{"acme-prod", "b", "default"}, m.must(logical.ListOperation, "clients", nil)["keys"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"client_id": clientID, "key_ids": []any{acme}}, m.read("clients/acme-prod")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := m.read("clients/b"); got["client_id"] != "" {
		t.Errorf("a client without config has client_id %v", got["client_id"])
	}
	m.fails(404, logical.ReadOperation, "clients/nobody", nil)

	// Each is its own: what one has, another lacks.
	m.fails(400, logical.ReadOperation, "clients/b/token", nil, "no client ID")
	m.fails(404, logical.ReadOperation, "clients/b/keys/"+acme, nil)
	if got := m.read("clients/acme-prod/token")["key_id"]; got != acme {
		t.Errorf("signed by %v", got)
	}

	before := snapshot(t, m.storage)
	m.fails(400, logical.DeleteOperation, "clients/acme-prod", nil, "client acme-prod has keys", "force=true")
	m.unchanged(before)
	m.must(logical.DeleteOperation, "clients/acme-prod", map[string]any{"force": true})
	delete(before, "clients/acme-prod/config")
	delete(before, "clients/acme-prod/keyring")
	m.unchanged(before)
	m.must(logical.DeleteOperation, "clients/nobody", nil)
}

// The default client has the bare paths alone: a second way to it would let a
// policy on the first be passed by.
func TestDefaultHasNoAlias(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	before := snapshot(t, m.storage)
	for _, path := range []string{"token", "config", "keys", "keys/x", "check"} {
		m.fails(404, logical.ReadOperation, "clients/default/"+path, nil, "the default client has the bare paths")
	}
	for _, path := range []string{"config", "keys/generate", "keys/import", "keys/x/activate"} {
		m.fails(404, logical.UpdateOperation, "clients/default/"+path, nil, "the default client has the bare paths")
	}
	m.fails(404, logical.DeleteOperation, "clients/default", nil, "the default client has the bare paths")
	m.unchanged(before)
}
