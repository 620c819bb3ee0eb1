package redox

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
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
		"state": "active", "origin": "generated", "key_bits": 2048.0, "created_at": "2026-11-24T12:00:00Z",
		"activated_at": "2026-11-24T12:00:00Z",
		"retired_at":   "", "published_until": "", "next": "give Redox the public half (vault read -field=jwks " +
			"redox/keys) in the dashboard and press Save Changes, write client_id to redox/config, then read redox/check",
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	second := m.write("keys/generate", map[string]any{"key_bits": "3072"})
	if second["state"] != "pending" || second["key_bits"] != 3072.0 || second["activated_at"] != "" {
		t.Errorf("the second key: %v", second)
	}
	if next := "then write to redox/keys/" + second["key_id"].(string) +
		"/activate"; !strings.HasSuffix(second["next"].(string), next) {
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

// A full ring refuses a key before the slow generation, after one read of storage. If the ring becomes
// full after that read, it refuses the key when that is added.
func TestFullRing(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	fill := func() {
		storage.got = nil
		if err := m.backend.entries.update(t.Context(), storage, defaultClient, func(s *state) error {
			for i := len(s.Ring.Keys); i < keyring.MaxKeys; i++ {
				k := *s.Ring.Keys[0]
				k.ID, k.State = keyring.ID(fmt.Sprint("old", i)), keyring.Retiring
				s.Ring.Keys = append(s.Ring.Keys, &k)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	storage.got = fill // after the ring was read
	m.fails(400, logical.UpdateOperation, "keys/rotate", nil, "the ring is full with 8 keys")
	for _, path := range []string{"keys/generate", "keys/rotate"} {
		storage.gets.Store(0)
		m.fails(400, logical.UpdateOperation, path, nil, "the ring is full with 8 keys")
		if n := storage.gets.Load(); n != 1 {
			t.Errorf("%s reads storage %d times", path, n)
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
	waits := "key " + third.(string) + " waits for a write to redox/keys/" + third.(string) +
		"/activate, or to redox/keys/rotate"
	want := map[string]any{"active": second, "pending": third, "retiring": []any{first}, "kept": []any{},
		"rotation":    waits,
		"publication": "by hand: paste jwks into Redox's dashboard and press Save Changes"}
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
	m.fails(400, logical.UpdateOperation, "keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem")},
		"in the ring already, as dashboard-key")
	m.unchanged(before)

	// A retiring key that is imported again stays retiring.
	other := m.write("keys/generate", nil)["key_id"].(string)
	m.write("keys/"+other+"/activate", map[string]any{"force": true})
	again = m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "dashboard-key"})
	if again["state"] != "retiring" || again["next"] != "nothing: the key is in the ring already, as retiring" {
		t.Errorf("a retiring key again: %v", again)
	}
	m.fails(400, logical.UpdateOperation, "keys/import", map[string]any{"private_key": testdata(t, "rsa1024.pem")},
		"private_key: it has 1024 bits")
}

// A JWK is accepted in the field private_key, as text or as a JSON object, but not as
// the whole body. No message quotes a refused key: the scan at the end of the test
// checks that.
func TestImportJWK(t *testing.T) {
	m := newMount(t)
	var jwk map[string]any
	if err := json.Unmarshal([]byte(testdata(t, "cases/174")), &jwk); err != nil { // its x5c belongs to another key
		t.Fatal(err)
	}
	before := snapshot(t, m.storage)
	for want, body := range map[string]map[string]any{
		"the body is a JWK, and belongs in the field private_key: vault write redox/keys/import private_key=@key.json": jwk,
		"the body is a JWK":                           {"keys": []any{jwk}},
		"private_key: the JWK Set has no private key": {"private_key": []any{map[string]any{"kty": "RSA", "n": jwk["n"]}}},
		"private_key: its member d has to be a string": {"private_key": map[string]any{"kty": "RSA",
			"n": jwk["n"], "e": "AQAB", "d": []any{jwk["d"]}}},
		"private_key must be a string":                                       {"private_key": true},
		"private_key: it is JSON but not a JWK: its member key may be meant": {"private_key": map[string]any{"key": jwk}},
	} {
		m.fails(400, logical.UpdateOperation, "keys/import", body, want)
	}
	m.unchanged(before)
	resp, err := m.request(t.Context(), logical.UpdateOperation, "keys/import", map[string]any{"private_key": jwk})
	if err != nil || resp.Data["key_id"] != "my-kid-1" || len(resp.Warnings) != 1 ||
		!strings.Contains(resp.Warnings[0], "private_key: the certificate in x5c belongs to another key") {
		t.Errorf("%v, %v", resp, err)
	}
	if again := m.write("keys/import", map[string]any{"private_key": testdata(t,
		"cases/117")}); again["key_id"] != "my-kid-1" {
		t.Errorf("the same as text: %v", again)
	}
}

// If somebody imports a PEM that Redox knows under another kid, the error of a read of token says what to
// do, and doing that works.
func TestImportUnderAnotherKid(t *testing.T) {
	m := newMount(t)
	body := map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "at-redox"}
	m.write("keys/import", body)
	m.publish("")
	m.must(logical.DeleteOperation, "keys/at-redox", map[string]any{"force": true})
	delete(body, "key_id")
	wrong := m.write("keys/import", body)["key_id"].(string)
	m.write("config", map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL()})
	m.fails(400, logical.ReadOperation, "token", nil,
		"if Redox has it under another kid, delete redox/keys/"+wrong+" (force=true if it is the only key, else "+
			"activate another one first) and import it again with key_id=<that kid>")
	body["key_id"] = "at-redox"
	m.fails(400, logical.UpdateOperation, "keys/import", body,
		"as "+wrong+": to have it as at-redox, delete that one with force=true")
	m.must(logical.DeleteOperation, "keys/"+wrong, map[string]any{"force": true})
	m.write("keys/import", body)
	m.read("token")
}
