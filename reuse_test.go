package redox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// reusing is a mount whose token lives 300 s, of which 60 are its margin.
func reusing(t *testing.T) *mount {
	t.Helper()
	m := newMount(t)
	m.ready("", map[string]any{"reuse_tokens": true, "max_retries": 0})
	return m
}

// landed waits until no request for the shelf is under way.
func (m *mount) landed() { m.backend.tokens.Wait() }

// later reads the token after so long, and waits for what that began.
func (m *mount) later(d time.Duration) map[string]any {
	m.t.Helper()
	m.landed()
	m.pass(d)
	got := m.read("token")
	if !m.sandbox.Live(got["access_token"].(string)) {
		m.t.Error("Redox does not accept the token")
	}
	m.landed()
	return got
}

func (m *mount) asked() int { return len(m.sandbox.Assertions()) }

// One token is handed out until its margin is near, and says truly what it has
// left and when the next one comes. Then it is renewed before anybody waits.
func TestReuse(t *testing.T) {
	m := reusing(t)
	first := m.read("token")
	for _, passed := range []float64{0, 0.5, 100, 124} { // in all 224.5
		got := m.later(time.Duration(passed * float64(time.Second)))
		if got["access_token"] != first["access_token"] || got["last_vault_rotation"] != first["last_vault_rotation"] || got["expires_at"] != first["expires_at"] {
			t.Errorf("after %v s: another token", passed)
		}
	}
	last := m.later(0)
	if last["expires_in"] != 75.0 || last["rotation_period"] != 75.0 || last["ttl"].(float64) < 16 || last["ttl"].(float64) > 26 {
		t.Errorf("of 300 s 224.5 have passed: expires_in %v, rotation_period %v, ttl %v", last["expires_in"], last["rotation_period"], last["ttl"])
	}
	if n := m.asked(); n != 1 {
		t.Fatalf("%d requests for one token", n)
	}
	if got := m.later(time.Second); got["access_token"] != first["access_token"] || m.asked() != 2 {
		t.Errorf("ahead of its margin: another token, or no request: %d", m.asked())
	}
	second := m.later(0)
	if second["access_token"] == first["access_token"] || second["expires_in"] != 300.0 || m.asked() != 2 {
		t.Errorf("the next token is not handed out: %v s left, %d requests", second["expires_in"], m.asked())
	}
	// Nobody reads until the margin has begun: then the reader waits.
	third := m.later(240 * time.Second)
	if third["access_token"] == second["access_token"] || third["expires_in"] != 300.0 || m.asked() != 3 {
		t.Errorf("in the margin an old token is handed out: %v s left, %d requests", third["expires_in"], m.asked())
	}
}

// However many read at once, Redox is asked once; clients share nothing.
func TestReuseSharesOneRequest(t *testing.T) {
	m := reusing(t)
	m.ready("clients/acme/", map[string]any{"reuse_tokens": true})
	m.sandbox.SetFault(redoxtest.FaultSlow, 1)
	tokens := make(chan any)
	for range 64 {
		go func() {
			resp, err := m.request(context.Background(), logical.ReadOperation, "token", nil)
			if err != nil || resp.IsError() {
				t.Error(resp, err)
				tokens <- nil
				return
			}
			tokens <- resp.Data["access_token"]
		}()
	}
	seen := map[any]bool{}
	for range 64 {
		seen[<-tokens] = true
	}
	if len(seen) != 1 || m.asked() != 1 {
		t.Errorf("%d tokens, %d requests", len(seen), m.asked())
	}
	if other := m.read("clients/acme/token")["access_token"]; seen[other] || m.asked() != 2 {
		t.Errorf("another client's token is shared, or was: %d requests", m.asked())
	}
}

// Who gives up waiting does not take the token from those who wait on.
func TestReuseReaderGivesUp(t *testing.T) {
	m := reusing(t)
	m.sandbox.SetFault(redoxtest.FaultSlow, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := m.request(ctx, logical.ReadOperation, "token", nil)
		done <- err
	}()
	waitFor(t, "the request", func() bool { return m.sandbox.FaultsLeft() == 0 })
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("%v", err)
	}
	m.read("token")
	if n := m.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// What shaped a token changes, or may have: it is not handed out again.
func TestReuseEnds(t *testing.T) {
	for name, change := range map[string]func(m *mount){
		"the config is written":   func(m *mount) { m.write("config", map[string]any{"max_retries": 1}) },
		"the config is patched":   func(m *mount) { m.must(logical.PatchOperation, "config", map[string]any{"scope": nil}) },
		"another key signs":       func(m *mount) { m.write("keys/"+m.read("keys")["pending"].(string)+"/activate", nil) },
		"the config is made anew": func(m *mount) { m.must(logical.DeleteOperation, "config", nil); m.write("config", m.settings()) },
		"the client is made anew": func(m *mount) {
			m.must(logical.DeleteOperation, "config", nil)
			m.ready("", map[string]any{"reuse_tokens": true})
		},
		"Vault tells of the config":  func(m *mount) { m.backend.InvalidateKey(m.t.Context(), configKey(defaultClient)) },
		"a key is deleted":           func(m *mount) { m.must(logical.DeleteOperation, "keys/"+m.read("keys")["pending"].(string), nil) },
		"another node writes a key":  func(m *mount) { m.elsewhere(); m.backend.InvalidateKey(m.t.Context(), keyringKey(defaultClient)) },
		"another key has its name":   func(m *mount) { m.renamed(); m.backend.InvalidateKey(m.t.Context(), keyringKey(defaultClient)) },
		"another node, without word": func(m *mount) { m.elsewhere(); m.pass(rereadAfter) },
	} {
		t.Run(name, func(t *testing.T) {
			m := reusing(t)
			m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "next"})
			m.publish("")
			first := m.read("token")["access_token"]
			if m.read("token")["access_token"] != first {
				t.Fatal("nothing is handed out again")
			}
			change(m)
			got := m.read("token")["access_token"]
			if got == first || !m.sandbox.Live(got.(string)) {
				t.Error("the old token is handed out")
			}
		})
	}
}

// A read that began before the config was written leaves no token to those that
// begin after it.
func TestReuseByTheConfigOfTheReader(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", map[string]any{"reuse_tokens": true})
	reads := 0
	storage.got = func() {
		if reads++; reads != 2 { // the config was read, the ring is being read
			return
		}
		storage.got = nil
		m.write("config", map[string]any{"ca_pem": testdata(t, "certificate.pem")})
	}
	first := m.read("token")["access_token"]
	if m.read("token")["access_token"] == first {
		t.Error("a token that was requested by the old config is handed out")
	}
}

// Of a client that is gone nothing stays, also when a read of it was under way.
func TestReuseOfAClientThatIsGone(t *testing.T) {
	m := newMount(t)
	left := func() int { return m.backend.tokens.Len() + len(m.backend.connections.clients) }
	m.ready("clients/acme/", map[string]any{"reuse_tokens": true})
	m.read("clients/acme/token")
	m.must(logical.DeleteOperation, "clients/acme/config", nil)
	if n := left(); n != 0 {
		t.Errorf("without a config %d things are in memory", n)
	}
	m.write("clients/acme/config", m.settings())
	m.read("clients/acme/token")
	m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	if n := left(); n != 0 {
		t.Errorf("of a deleted client %d things are in memory", n)
	}
	m.ready("clients/acme/", map[string]any{"reuse_tokens": true})
	m.sandbox.SetFault(redoxtest.FaultSlow, 1)
	done := make(chan error)
	go func() {
		_, err := m.request(t.Context(), logical.ReadOperation, "clients/acme/token", nil)
		done <- err
	}()
	waitFor(t, "the request", func() bool { return m.sandbox.FaultsLeft() == 0 })
	m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	if err := <-done; err != nil {
		t.Error(err)
	}
	// As a read does that had found the client just before.
	late := errors.New("too late")
	if _, err := m.backend.tokens.Get(t.Context(), "acme", "its fingerprint", func(context.Context, bool) (*issued, error) { return nil, late }); !errors.Is(err, late) {
		t.Fatal(err)
	}
	if _, err := m.backend.connections.of("acme", ""); err != nil {
		t.Fatal(err)
	}
	m.landed()
	m.backend.startRotation(m.storage)
	waitFor(t, "the look at the clients", func() bool {
		m.backend.connections.mu.Lock()
		defer m.backend.connections.mu.Unlock()
		return left() == 0
	})
}

func (m *mount) settings() map[string]any {
	return map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL(), "reuse_tokens": true}
}

// elsewhere activates the pending key on another node.
func (m *mount) elsewhere() {
	other := newMountOn(m.t, m.storage, systemView(0))
	other.write("keys/next/activate", map[string]any{"force": true})
}

// renamed gives, on another node, the active key's name to another key.
func (m *mount) renamed() {
	other := newMountOn(m.t, m.storage, systemView(0))
	id := other.read("keys")["active"].(string)
	other.must(logical.DeleteOperation, "keys/next", nil)
	other.must(logical.DeleteOperation, "keys/"+id, map[string]any{"force": true})
	other.write("keys/import", map[string]any{"private_key": testdata(m.t, "rsa3072b.pem"), "key_id": id})
	if err := m.sandbox.Register(clientID, []byte(other.read("keys")["jwks"].(string))); err != nil {
		m.t.Fatal(err)
	}
}

// What does not shape a token leaves it where it is.
func TestReuseGoesOn(t *testing.T) {
	m := reusing(t)
	m.ready("clients/acme/", map[string]any{"reuse_tokens": true})
	first := m.read("token")["access_token"]
	m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "next"})
	m.write("clients/acme/config", map[string]any{"max_retries": 1})
	m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	m.backend.InvalidateKey(t.Context(), keyringKey(defaultClient))
	m.pass(rereadAfter)
	if m.read("token")["access_token"] != first || m.asked() != 1 {
		t.Errorf("another token, %d requests", m.asked())
	}
	m.write("config", map[string]any{"reuse_tokens": false})
	if m.read("token")["access_token"] == m.read("token")["access_token"] || m.backend.tokens.Len() != 0 {
		t.Error("it is off, and a token is handed out again, or kept")
	}
}
