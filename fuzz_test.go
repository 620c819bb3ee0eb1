package redox

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// FuzzConfig: whatever JSON object is written, it is either refused and
// changes nothing, or leaves a config that keeps every rule.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{"client_id":"c","region":"ca"}`,
		`{"client_id":"c","token_url":"https://redox.example:8443/t","audience":"https://redox.example:8443/a"}`,
		`{"client_id":"c","token_url":"http://127.0.0.1:1/"}`,
		`{"client_id":"c","assertion_ttl":"1m30s","clock_leeway":0,"request_timeout":30,"max_retries":"5","scope":"a b"}`,
		`{"client_id":null,"assertion_ttl":null,"max_retries":1e3}`,
		`{"client_id":"c","ca_pem":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`,
		`{"client_id":"c","token_url":"https://u:p@redox.example/?q#f"}`,
	} {
		f.Add(seed)
	}
	b := newBackend()
	f.Fuzz(func(t *testing.T, text string) {
		var raw map[string]any
		if json.Unmarshal([]byte(text), &raw) != nil {
			return
		}
		c := defaultConfig()
		c.ClientID = "before"
		err := b.checkInput(&logical.Request{Operation: logical.UpdateOperation, Path: "config", Data: raw})
		if err == nil {
			err = c.update(&framework.FieldData{Raw: raw})
		}
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("a message of %d characters", len(err.Error()))
			}
			return
		}
		again := c
		if err := again.validate(); err != nil {
			t.Fatalf("what was taken is not valid: %v", err)
		}
		if c.AssertionTTL < 30 || c.ClockLeeway < 0 || c.RequestTimeout <= 0 || c.attemptTimeout() <= 0 {
			t.Fatalf("durations %v, %v, %v", c.AssertionTTL, c.ClockLeeway, c.RequestTimeout)
		}
		if _, err := newTransport(c.CAPEM); err != nil {
			t.Fatalf("ca_pem was taken and makes no transport: %v", err)
		}
	})
}

// FuzzRequest: whole requests, with a body that crossed the wire. Nothing
// panics, no input is answered 5xx, what is refused changes nothing, and memory
// is what is stored.
func FuzzRequest(f *testing.F) {
	pem, err := json.Marshal(map[string]string{"private_key": testdata(f, "rsa3072.pem"), "key_id": "k"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []struct{ op, path, data string }{
		{"update", "config", `{"client_id":"c"}`},
		{"patch", "clients/acme/config", `{"region":null}`},
		{"update", "keys/import", string(pem)},
		{"update", "keys/import", `{"private_key":{"kty":"RSA"}}`},
		{"update", "keys/k/activate", `{"force":true}`},
		{"delete", "keys/k", `{"force":"true"}`},
		{"list", "clients/", `{}`},
		{"read", "clients/../keys", `{"client":"acme"}`},
		{"delete", "clients/acme", `{"force":true}`},
	} {
		f.Add(seed.op, seed.path, seed.data)
	}
	f.Fuzz(func(t *testing.T, op, path, text string) {
		var data map[string]any
		if json.Unmarshal([]byte(text), &data) != nil {
			return
		}
		switch o := logical.Operation(op); o {
		case logical.ReadOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation, logical.ListOperation:
			m := newMount(t)
			// Closed, so that a proof or a token costs no time.
			m.write("config", map[string]any{"client_id": "c", "token_url": "http://127.0.0.1:1/", "max_retries": 0})
			m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "k"})
			before := snapshot(t, m.storage)
			m.coherent("setting up") // and remembers
			resp, err := m.request(t.Context(), o, path, data)
			status, message := outcome(o, resp, err)
			if status == 500 || status == 503 {
				t.Fatalf("HTTP %d: %s", status, message)
			}
			if status >= 400 || o == logical.ReadOperation || o == logical.ListOperation {
				m.unchanged(before)
			}
			m.coherent("the request")
		}
	})
}

// FuzzTokenAnswer: no answer of a server panics, becomes a token that cannot
// be sent in a header, or is quoted beyond its caps.
func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, []byte(`{"access_token":"t","token_type":"Bearer","expires_in":300,"scope":"s"}`))
	f.Add(200, []byte(`{"access_token":"t","expires_in":"1e400"}`))
	f.Add(200, []byte(`{"error":"e","error_description":"d"}`))
	f.Add(400, []byte(`{"error":"e","error_description":"eyJhbGciOiJSUzM4NCJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl","error_uri":"https://docs.redoxengine.com/x"}`))
	f.Add(400, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		got, err := readAnswer(status, raw, skew{})
		if (got == nil) == (err == nil) {
			t.Fatalf("%v and %v", got, err)
		}
		if got != nil {
			if got.Value == "" || strings.ContainsAny(got.Value, " \r\n\x00") || got.Lifetime < time.Second || got.Lifetime > 24*time.Hour {
				t.Fatalf("a token of %q, living %v", got.Value, got.Lifetime)
			}
			return
		}
		text := (&tokenError{err: err, config: &config{}, paths: "redox/"}).Error()
		if len(text) > 3000 || strings.ContainsAny(text, "\r\n\x00") {
			t.Fatalf("error %q", text)
		}
	})
}

// FuzzAPIKey: whatever the Platform API lists, nothing panics, merging twice is
// merging once, the keys of others stay, and what is kept for check are key IDs.
func FuzzAPIKey(f *testing.F) {
	f.Add([]byte(`{"payload":{"apikey":{"id":"c","jwksURL":"https://redox.example","jwkSet":{"keys":[{"kid":"k","n":"AQ","e":"AQAB"},{"kid":7},null,"x"]}}}}`))
	f.Add([]byte(`{"payload":{"apikey":{"id":"c","jwkSet":{"keys":[{"kid":"gone","n":"AAE=","e":"AQAB"},{"kid":"mine","n":"other"}]}}}}`))
	f.Add([]byte(`{"payload":{"apikey":{"id":"c","jwkSet":null}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, err := readAPIKey(raw, "c")
		if (found == nil) == (err == nil) {
			t.Fatalf("%v and %v", found, err)
		}
		if found == nil {
			return
		}
		mine := &keyring.Key{ID: "mine", State: keyring.Active, N: "AQ", E: "AQAB"}
		ring := &keyring.Ring{Keys: []*keyring.Key{mine}, Publication: &keyring.Publication{}, Gone: []keyring.Public{{ID: "gone", N: "AQ", E: "AQAB"}}}
		merged, _, changed, err := ring.Merge(found.Keys)
		if err != nil {
			return // another key has our ID
		}
		if len(merged) > len(found.Keys)+1 || !changed && len(merged) != len(found.Keys) {
			t.Fatalf("%d keys became %d", len(found.Keys), len(merged))
		}
		if _, added, again, err := ring.Merge(merged); err != nil || again || len(added) != 0 {
			t.Fatalf("merging again: added %v, %v", added, err)
		}
		ring.Listed(merged, noon)
		if p := ring.Publication; p.Failure != "" || len(ring.Gone) != 0 {
			t.Fatalf("%+v", p)
		}
		for _, id := range ring.Publication.Foreign {
			if _, err := keyring.ParseID(string(id)); err != nil {
				t.Fatalf("%q is no key ID", id)
			}
		}
	})
}
