package redox

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// FuzzConfig merges any JSON object into a config. Either the object is refused, with a
// message of at most 1000 bytes, or the config then complies with every rule.
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
		err := checkInput(b.Route("config"), &logical.Request{Operation: logical.UpdateOperation, Path: "config", Data: raw})
		if err == nil {
			err = c.merge(raw)
		}
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("a message of %d characters", len(err.Error()))
			}
			return
		}
		again := c
		if err := again.merge(nil); err != nil {
			t.Fatalf("what was taken is not valid: %v", err)
		}
		if c.AssertionTTL < 30 || c.ClockLeeway < 0 || c.RequestTimeout <= 0 || c.attemptTimeout() <= 0 {
			t.Fatalf("durations %v, %v, %v", c.AssertionTTL, c.ClockLeeway, c.RequestTimeout)
		}
		if _, err := redoxapi.New(redoxapi.Options{CAPEM: c.CAPEM}); err != nil {
			t.Fatalf("ca_pem was taken and makes no transport: %v", err)
		}
	})
}

// FuzzRequest sends a read, list, write, patch or delete with any path and any JSON object as the
// body. No request gets a 500 or 503. A request that fails, a read and a list change nothing in
// storage. Before and after the request, the views in memory equal storage.
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
		{"update", "keys/import", `{"kty":"RSA","d":"AQAB"}`},
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
		case logical.ReadOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation,
			logical.ListOperation:
			m := newMount(t)
			m.allow("127.0.0.1:1")
			// Nothing listens on port 1, so a proof or a read of token fails at once.
			m.write("config", map[string]any{"client_id": "c", "token_url": "http://127.0.0.1:1/", "max_retries": 0})
			m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "k"})
			before := snapshot(t, m.storage)
			m.coherent("setting up") // and fills the memory
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
