package redox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// quick has the settings for the quickest rotation that config accepts.
var quick = map[string]any{"rotation_period": "60s", "publish_window": 0, "retire_after": "30s", "assertion_ttl": "30s"}

// tokensForAll is a token endpoint that answers every request with the same token.
var tokensForAll = answers(http.StatusOK, `{"access_token":"a","token_type":"Bearer","expires_in":300}`)

// certificate returns a new certificate for 127.0.0.1, and its PEM.
func certificate(t *testing.T) (c *tls.Certificate, text string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// attacker is a person whose only right in Vault is to write config. paste and stand, unless nil, are what he can
// do outside Vault.
type attacker struct {
	victim   map[string]any // the settings with which Redox accepted the key
	settings map[string]any // the attacker's settings
	differs  string         // the fields that the warning names
	paste    func(jwks string)
	stand    func(there bool) // puts the attacker between the engine and Redox, or removes him
}

var attackers = map[string]func(t *testing.T, m *mount) attacker{
	"with a server": func(t *testing.T, m *mount) attacker {
		server := httptest.NewServer(tokensForAll)
		t.Cleanup(server.Close)
		m.allow(hostOf(server.URL)) // such as a gateway that the mount may use
		return attacker{settings: map[string]any{"token_url": server.URL}, differs: "audience, token_url"}
	},
	"with an API key": func(t *testing.T, m *mount) attacker {
		paste := func(jwks string) {
			if err := m.sandbox.Register("his", []byte(jwks)); err != nil {
				t.Fatal(err)
			}
		}
		return attacker{settings: map[string]any{"client_id": "his"}, differs: "client_id", paste: paste}
	},
	"with a place in the network": func(t *testing.T, m *mount) attacker {
		redox, redoxCA := certificate(t)
		his, hisCA := certificate(t)
		var there atomic.Bool
		var toRedox http.Handler
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if there.Load() {
				tokensForAll(w, r)
				return
			}
			toRedox.ServeHTTP(w, r)
		}))
		server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			shown := redox
			if there.Load() {
				shown = his
			}
			return &tls.Config{Certificates: []tls.Certificate{*shown}}, nil
		}}
		server.StartTLS()
		t.Cleanup(server.Close)
		sandbox, err := redoxtest.Start(redoxtest.Options{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sandbox.Close)
		m.sandbox = sandbox
		m.allow(hostOf(sandbox.TokenURL()))
		m.pass(0)
		toRedox = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: sandbox.Address()})
		return attacker{
			victim: map[string]any{"ca_pem": redoxCA}, settings: map[string]any{"ca_pem": hisCA}, differs: "ca_pem",
			stand: there.Store,
		}
	},
}

// A person who may only write config cannot make the engine delete the key that Redox accepted, even if he makes
// rotations to other keys succeed. When the old config is restored, reads of token succeed again, with that key.
func TestConfigDestroysNothing(t *testing.T) {
	for name, arrive := range attackers {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			him := arrive(t, m)
			key := m.ready("", him.victim)
			before := m.read("config")
			m.rotate()
			if him.stand != nil {
				him.stand(true)
			}
			given := maps.Clone(quick)
			maps.Copy(given, him.settings)
			resp, err := m.request(t.Context(), logical.UpdateOperation, "config", given)
			if err != nil || len(resp.Warnings) != 1 ||
				!strings.HasPrefix(resp.Warnings[0], him.differs+" changed since Redox accepted key "+key) {
				t.Fatalf("config: %v, %v", resp, err)
			}
			for range 4 {
				if him.paste != nil {
					him.paste(m.read("keys")["jwks"].(string))
				}
				m.rotate()
				m.pass(time.Minute)
			}
			keys := m.read("keys")
			if kept := keys["kept"].([]any); len(kept) != 1 || kept[0] != key || keys["active"] == key {
				t.Errorf("keys: active %v, kept %v", keys["active"], kept)
			}
			m.expect(map[string]float64{
				"redox_key_kept{client=default,key_id=" + key + "}":                     1,
				"redox_key_kept{client=default,key_id=" + keys["active"].(string) + "}": 0,
			})
			if !strings.Contains(keys["rotation"].(string), "key "+key+" is kept, as Redox accepted it with another "+
				"client_id, token_url, audience or ca_pem than key ") {
				t.Errorf("rotation: %s", keys["rotation"])
			}
			resp, err = m.request(t.Context(), logical.ReadOperation, "check", nil)
			if err != nil || !strings.Contains(strings.Join(resp.Warnings, "\n"), "vault delete redox/keys/"+key) {
				t.Errorf("check: %v, %v", resp, err)
			}
			if him.stand != nil {
				him.stand(false)
			}
			m.write("config", before)
			m.signs(key)
		})
	}
}

var seeds = flag.Int("seeds", 500, "how many seeds TestRights runs")

// raid is a mount, and an attacker who has one right on it. The attacker also has an API key of his own at Redox,
// with the client ID "his". The fields his and none are the URLs of two servers: the mount may talk only to the
// first.
type raid struct {
	*mount
	random    *mathrand.Rand
	his, none string // URLs
}

// pick returns one of the values.
func pick[T any](r *raid, values ...T) T { return values[r.random.IntN(len(values))] }

// send sends a request of the attacker, and ignores the result: the request may be
// refused.
func (r *raid) send(op logical.Operation, path string, data map[string]any) {
	_, _ = r.request(r.t.Context(), op, path, data)
}

// key returns the ID of a key of the ring.
func (r *raid) key() string {
	keys := r.must(logical.ListOperation, "keys", nil)["keys"]
	if ids, _ := keys.([]any); len(ids) > 0 {
		return pick(r, ids...).(string)
	}
	return "none"
}

// rights has the rights that the attacker may have in TestRights. use makes a request with the right. deletes is
// true if the right allows him to delete the key that Redox accepted.
var rights = map[string]struct {
	deletes bool
	use     func(r *raid)
}{
	"config": {false, func(r *raid) {
		all := map[string][]any{
			"token_url": {"", r.sandbox.TokenURL(), r.his, r.none, "https://127.0.0.1:1/"}, "client_id": {clientID, "his"},
			"ca_pem": {"", testdata(r.t, "certificate.pem")}, "audience": {""}, "rotation_period": {"60s", "1h", 0},
			"publish_window": {0, "10s"}, "retire_after": {"30s", "1h"}, "assertion_ttl": {"30s"}, "public_jwks": {true, false},
			"platform_client": {"", "default", "nobody"}, "manages": {"default=" + clientID, "default=his", ""},
			"reuse_tokens": {true, false}, "max_retries": {0}, "request_timeout": {"1s"},
		}
		given := map[string]any{}
		for range 1 + r.random.IntN(8) {
			field := pick(r, slices.Sorted(maps.Keys(all))...)
			given[field] = pick(r, all[field]...)
		}
		r.send(pick[logical.Operation](r, logical.UpdateOperation, logical.PatchOperation), "config", given)
	}},
	"quick config": {false, func(r *raid) {
		given := maps.Clone(quick)
		given["token_url"], given["client_id"] = pick(r, r.his, r.none, r.sandbox.TokenURL()), pick(r, clientID, "his")
		r.send(logical.UpdateOperation, "config", given)
	}},
	"delete config": {false, func(r *raid) { r.send(logical.DeleteOperation, "config", nil) }},
	"keys/generate": {false, func(r *raid) { r.send(logical.UpdateOperation, "keys/generate", nil) }},
	"keys/rotate":   {false, func(r *raid) { r.send(logical.UpdateOperation, "keys/rotate", nil) }},
	"keys/import": {false, func(r *raid) {
		if r.random.IntN(4) == 0 { // to check a key takes long
			r.send(logical.UpdateOperation, "keys/import", map[string]any{"private_key": testdata(r.t, "pkcs8.pem")})
			return
		}
		r.send(logical.UpdateOperation, "keys/import", map[string]any{"private_key": testdata(r.t, "public.pem")})
	}},
	"activate": {false, func(r *raid) {
		r.send(logical.UpdateOperation, "keys/"+r.key()+"/activate", map[string]any{"force": pick(r, true, false)})
	}},
	"delete keys": {true, func(r *raid) {
		r.send(logical.DeleteOperation, "keys/"+r.key(), map[string]any{"force": true})
	}},
	"delete clients": {false, func(r *raid) {
		r.write("clients/acme/keys/generate", nil) // the owner does
		r.send(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	}},
	"reads": {false, func(r *raid) {
		r.send(logical.ReadOperation, pick(r, "token", "check", "keys", "config", "jwks", "metrics", "clients/acme"), nil)
	}},
}

// With any one of rights, an attacker cannot remove the key that Redox accepted, unless the right is to delete
// keys. No request goes to a host that is not allowed. If the key is still there and the old config is restored, a
// read returns a token of Redox.
func TestRights(t *testing.T) {
	t.Parallel()
	his, forbidden := httptest.NewServer(tokensForAll), httptest.NewServer(http.HandlerFunc(
		func(http.ResponseWriter, *http.Request) { t.Error("a request went to a host that is not allowed") }))
	t.Cleanup(his.Close)
	t.Cleanup(forbidden.Close)
	names := slices.Sorted(maps.Keys(rights))
	for seed := range *seeds {
		name := names[seed%len(names)]
		t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
			t.Parallel()
			right, nextKey := rights[name], stockOfKeys(t)
			m := newMount(t)
			r := &raid{m, mathrand.New(mathrand.NewPCG(uint64(seed), 1)), his.URL, forbidden.URL}
			m.backend.newKey = func(_ int, now time.Time) (*keyring.Key, error) { return nextKey(now), nil }
			m.allow(hostOf(his.URL))
			key := m.write("keys/generate", nil)["key_id"].(string)
			m.publish("")
			m.write("config", map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL()})
			before := m.read("config")
			m.rotate()
			if r.random.IntN(2) == 0 { // with a further key, as for activate
				m.write("keys/generate", nil)
			}
			for range 8 {
				right.use(r)
				if keys, err := loadRing(t.Context(), m.storage, defaultClient); err == nil && len(keys.Keys) > 0 {
					if err := m.sandbox.Register("his", []byte(m.read("keys")["jwks"].(string))); err != nil {
						t.Fatal(err)
					}
				}
				m.rotateAll(t.Context())
				m.rotateAll(t.Context())
				m.pass(pick(r, 0, 20*time.Second, time.Minute, time.Hour, 100*time.Hour))
			}
			ring, err := loadRing(t.Context(), m.storage, defaultClient)
			if err != nil {
				t.Fatal(err)
			}
			if ring.Get(keyring.ID(key)) == nil {
				if !right.deletes {
					t.Error("the key that Redox accepted is gone")
				}
				return
			}
			m.write("config", before)
			if m.read("token")["access_token"] == "a" {
				t.Error("the token is not Redox's")
			}
		})
	}
}

// stock returns keys to use in place of newly generated ones, because generating a key
// takes long.
var stock = sync.OnceValues(func() (keys []*keyring.Key, err error) {
	for range 24 {
		k, err := keyring.Generate(2048, noon)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
})

// stockOfKeys returns a function that returns the next key of the stock at each call. After the last key it
// returns the first again.
func stockOfKeys(t *testing.T) func(now time.Time) *keyring.Key {
	t.Helper()
	keys, err := stock()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	return func(now time.Time) *keyring.Key {
		k := *keys[n%len(keys)]
		n++
		k.CreatedAt = now.UTC()
		return &k
	}
}
