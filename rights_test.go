package redox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// quick are the settings with the shortest rotation.
var quick = map[string]any{"rotation_period": "60s", "publish_window": 0, "retire_after": "30s", "assertion_ttl": "30s"}

// tokensForAll is a token endpoint that answers every request with a token.
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

// attacker is a person who may only write config, and what he can do besides.
type attacker struct {
	victim   map[string]any // the settings with which Redox accepted the key
	settings map[string]any // the attacker's settings
	differs  string         // the fields that the warning names
	paste    func(jwks string)
	stand    func(there bool) // puts the attacker between the engine and Redox, or removes him
}

var attackers = map[string]func(t *testing.T, m *mount) attacker{
	"with a server": func(t *testing.T, _ *mount) attacker {
		server := httptest.NewServer(tokensForAll)
		t.Cleanup(server.Close)
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
		m.pass(0)
		toRedox = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: sandbox.Address()})
		return attacker{
			victim: map[string]any{"ca_pem": redoxCA}, settings: map[string]any{"ca_pem": hisCA}, differs: "ca_pem",
			stand: there.Store,
		}
	},
}

// A person who may only write config cannot make the engine delete the key that Redox
// accepted: it stays, however often he lets his own server accept another key. When
// the old config is restored, reads succeed again.
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
				!strings.HasPrefix(resp.Warnings[0], him.differs+" differs from when Redox accepted key "+key) {
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
			m.expect(map[string]float64{"redox_key_kept{client=default,key_id=" + key + "}": 1})
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
