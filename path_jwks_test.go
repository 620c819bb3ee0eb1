package redox

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestJWKS(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	m.ready("clients/acme/", map[string]any{"public_jwks": true, "publish_window": "0s"})
	for prefix, age := range map[string]string{"": "300", "clients/acme/": "0"} {
		for _, path := range []string{prefix + "jwks", prefix + "jwks/"} {
			for _, op := range []logical.Operation{logical.ReadOperation, logical.HeaderOperation} {
				got := m.must(op, path, nil)
				raw, err := base64.StdEncoding.DecodeString(got[logical.HTTPRawBody].(string))
				if err != nil {
					t.Fatal(err)
				}
				got[logical.HTTPRawBody] = string(raw)
				want := map[string]any{
					logical.HTTPStatusCode: 200.0, logical.HTTPContentType: "application/jwk-set+json",
					logical.HTTPRawBody:            m.read(prefix + "keys")["jwks"],
					logical.HTTPCacheControlHeader: "public, max-age=" + age,
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s %s (-want +got):\n%s", op, path, diff)
				}
			}
		}
	}
	for window, age := range map[string]int64{"0s": 0, "1s": 0, "10s": 5, "10m": 300, "168h": 300} {
		m.write("config", map[string]any{"publish_window": window})
		if got := m.must(logical.ReadOperation, "jwks",
			nil)[logical.HTTPCacheControlHeader]; got != fmt.Sprint("public, max-age=", age) {
			t.Errorf("publish_window %s: %v", window, got)
		}
	}
}

// A reader who gets no set cannot tell why: the answer is the same if public_jwks is
// off, if there is no such client, and if the client has no config.
func TestNoJWKS(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.ready("clients/off/", nil)
	m.write("clients/bare/keys/generate", nil)
	for _, path := range []string{"jwks", "clients/off/jwks", "clients/nobody/jwks", "clients/bare/jwks", "jwks/"} {
		if text := m.fails(404, logical.ReadOperation, path, nil); text != "there is no public JWK Set here" {
			t.Errorf("%s says %q", path, text)
		}
	}
}

// A response must not be wrapped: wrapping stores it in Vault, so anybody could write
// to Vault's storage.
func TestJWKSCannotBeWrapped(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.ReadOperation, Path: "jwks", Storage: m.storage,
		WrapInfo: &logical.RequestWrapInfo{TTL: time.Minute},
	})
	if err != nil || !resp.IsError() {
		t.Errorf("%v, %v", resp, err)
	}
}

// An anonymous read parses no private key and writes nothing.
func TestJWKSTouchesNoPrivateKey(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	key := "clients/default/keyring"
	damaged := strings.Replace(snapshot(t, m.storage)[key], `"private_key":"MII`, `"private_key":"AAA`, 1)
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(damaged)}); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, m.storage)
	m.read("jwks")
	m.unchanged(before)
	m.fails(500, logical.ReadOperation, "token", nil, "cannot be read")
}

// Without a Vault token only the JWK Set can be read.
func TestUnauthenticated(t *testing.T) {
	want := []string{"jwks", "jwks/", "clients/+/jwks", "clients/+/jwks/"}
	if diff := cmp.Diff(want, newMount(t).backend.SpecialPaths().Unauthenticated); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
