package redox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

func TestToken(t *testing.T) {
	m := newMount(t)
	start := time.Date(2026, 11, 24, 10, 0, 0, 700_000_000, time.FixedZone("", 3600))
	m.backend.now = func() time.Time { return start }
	m.sandbox.SetClockOffset(time.Until(start))
	keyID := m.ready("", nil)

	got := m.read("token")
	token, ttl := got["access_token"].(string), got["ttl"].(float64)
	if !m.sandbox.Live(token) {
		t.Error("Redox does not accept the token")
	}
	if ttl < 230 || ttl > 240 {
		t.Errorf("ttl %v, want 230 to 240", ttl)
	}
	delete(got, "access_token")
	delete(got, "ttl")
	want := map[string]any{
		"token_type": "Bearer", "expires_in": 300.0, "expires_at": "2026-11-24T09:05:00Z", "client_id": clientID,
		"key_id":          keyID,
		"rotation_period": 300.0, "last_vault_rotation": "2026-11-24T09:00:00Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := m.read("token")["access_token"]; again == token {
		t.Error("the second read returned the first token")
	}
	if n := m.sandbox.Connections(); n != 1 {
		t.Errorf("two reads opened %d connections", n)
	}
}

// The life of a token is counted from the request: expires_in is shorter by the time
// that Redox took to answer.
func TestTokenTimeIsCountedFromTheRequest(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	clock := m.now
	m.backend.now = func() time.Time { return clock.Add(time.Duration(len(m.sandbox.Assertions())) * 10 * time.Second) }
	if left := m.read("token")["expires_in"]; left != 290.0 {
		t.Errorf("expires_in %v, want 290", left)
	}
}

func TestTokenScope(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"scope": "system/Patient.read"})
	if scope := m.read("token")["scope"]; scope != "system/Patient.read" {
		t.Errorf("scope %v", scope)
	}
}

// A read of token or check without a config and a key lists everything that is missing, in the order in
// which to do it.
func TestTokenUnconfigured(t *testing.T) {
	const noKey, noConfig = "no signing key: write to redox/keys/generate", "no client ID: write client_id to redox/config"
	m := newMount(t)
	for _, path := range []string{"token", "check"} {
		text := m.fails(400, logical.ReadOperation, path, nil, noKey, noConfig)
		if strings.Index(text, noKey) > strings.Index(text, noConfig) {
			t.Errorf("in the wrong order: %s", text)
		}
	}
	m.fails(400, logical.ReadOperation, "clients/acme/token", nil, "write to redox/clients/acme/keys/generate",
		"redox/clients/acme/config")
	m.write("config", map[string]any{"client_id": clientID})
	if text := m.fails(400, logical.ReadOperation, "token", nil, noKey); strings.Contains(text, noConfig) {
		t.Errorf("asks for what is there: %s", text)
	}
	m.must(logical.DeleteOperation, "config", nil)
	m.write("keys/generate", nil)
	if text := m.fails(400, logical.ReadOperation, "token", nil, noConfig); strings.Contains(text, noKey) {
		t.Errorf("asks for what is there: %s", text)
	}
	if n := len(m.sandbox.Assertions()); n != 0 {
		t.Errorf("%d assertions were sent", n)
	}
}

func TestTokenClocks(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox time.Duration // how far Redox's clock is ahead
		want    string        // empty: the read succeeds
	}{
		"14 s behind, within leeway and Redox's 10 s": {-14 * time.Second, ""},
		"Redox behind":       {-2 * time.Minute, "the clock here is ahead of Redox's by "},
		"Redox ahead":        {10 * time.Minute, "the clock here is behind Redox's by "},
		"4 min ahead passes": {4 * time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.ready("", nil)
			m.sandbox.SetClockOffset(test.sandbox)
			if test.want == "" {
				m.read("token")
				return
			}
			m.fails(400, logical.ReadOperation, "token", nil, test.want, "fix the clock")
		})
	}
}

// If the reader hangs up, or Vault's max_request_duration ends the request, a read of token has the
// outcome abandoned, and its log line has the level DEBUG: neither Redox nor a proxy is to blame.
func TestTokenAbandoned(t *testing.T) {
	for name, test := range map[string]struct {
		settings map[string]any
		full     bool // all the client's slots for reads are taken
		limit    time.Duration
		asked    int
	}{
		"at Redox":              {asked: 1},
		"max_request_duration":  {limit: 50 * time.Millisecond, asked: 1},
		"waiting for its turn":  {full: true},
		"waiting for the token": {settings: map[string]any{"reuse_tokens": true}, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.ready("", test.settings)
			m.sandbox.SetFault(redoxtest.FaultStall, -1)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if test.limit > 0 {
				ctx, cancel = context.WithTimeout(ctx, test.limit)
				defer cancel()
			}
			for range maxReads {
				if test.full {
					release, err := m.backend.reads.acquire(t.Context(), defaultClient, false)
					if err != nil {
						t.Fatal(err)
					}
					defer release()
				}
			}
			done := make(chan error)
			lines := m.lines(func() {
				go func() {
					_, err := m.request(ctx, logical.ReadOperation, "token", nil)
					done <- err
				}()
				waitFor(t, "the request", func() bool {
					m.backend.reads.mu.Lock()
					defer m.backend.reads.mu.Unlock()
					own := m.backend.reads.clients[defaultClient]
					return m.asked() == 1 || test.full && own != nil && own.users > maxReads
				})
				if test.limit == 0 {
					cancel()
				}
				status, text := outcome(logical.ReadOperation, nil, <-done)
				if status != 504 || text != errAbandoned().Error() {
					t.Errorf("HTTP %d: %s", status, text)
				}
			})
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "[DEBUG] nobody waits for the answer: ") {
				t.Errorf("%q", lines)
			}
			if n := m.asked(); n != test.asked {
				t.Errorf("%d requests", n)
			}
			m.expect(map[string]float64{"redox_token_reads_total{client=default,outcome=abandoned}": 1})
		})
	}
}

func TestTokenLifetimes(t *testing.T) {
	const warning = "five minutes are assumed"
	for fault, warns := range map[redoxtest.Fault]bool{redoxtest.FaultStringExpires: false,
		redoxtest.FaultNoExpires: true} {
		t.Run(string(fault), func(t *testing.T) {
			m := newMount(t)
			m.ready("", nil)
			m.sandbox.SetFault(fault, -1)
			resp, err := m.request(context.Background(), logical.ReadOperation, "token", nil)
			if err != nil || resp.IsError() {
				t.Fatal(resp, err)
			}
			if left := resp.Data["expires_in"].(float64); left < 298 {
				t.Errorf("expires_in %v, want 300", left)
			}
			if strings.Contains(fmt.Sprint(resp.Warnings), warning) != warns {
				t.Errorf("warnings %v", resp.Warnings)
			}
		})
	}
}

// comeBack returns left minus a fifth of it (at most 60), minus up to a thirtieth of it at random, but at
// least 1. Both parts are rounded down.
func TestComeBack(t *testing.T) {
	for _, test := range []struct{ left, earliest, latest int64 }{
		{300, 230, 240}, {3600, 3420, 3540}, {60, 46, 48}, {30, 23, 24}, {29, 24, 24}, {5, 4, 4}, {2, 2, 2}, {1, 1, 1}, {0,
			1, 1},
	} {
		seen := map[int64]bool{}
		for range 2000 {
			ttl := comeBack(test.left)
			if ttl < test.earliest || ttl > test.latest {
				t.Fatalf("with %d s left: %d, want %d to %d", test.left, ttl, test.earliest, test.latest)
			}
			seen[ttl] = true
		}
		if want := int(test.latest - test.earliest + 1); len(seen) != want && want < 100 {
			t.Errorf("with %d s left: %d different, want %d", test.left, len(seen), want)
		}
	}
}

// A token that has one second left is handed out.
func TestTokenOfASecond(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"max_retries": 0})
	m.sandbox.SetTokenTTL(2 * time.Second)
	clock := m.now
	m.backend.now = func() time.Time { return clock.Add(time.Duration(len(m.sandbox.Assertions())) * time.Second) }
	if left := m.read("token")["expires_in"]; left != 1.0 {
		t.Errorf("expires_in %v", left)
	}
}

// reusing returns a mount that reuses tokens. A token lives 300 s, and its margin is
// the last 60 of them.
func reusing(t *testing.T) *mount {
	t.Helper()
	m := newMount(t)
	m.ready("", map[string]any{"reuse_tokens": true, "max_retries": 0})
	return m
}

// settled waits until no call of the token cache is under way.
func (m *mount) settled() { m.backend.tokens.Wait() }

// later lets d pass, reads the token, and waits for a call that this read may have started.
func (m *mount) later(d time.Duration) map[string]any {
	m.t.Helper()
	m.settled()
	m.pass(d)
	got := m.read("token")
	if !m.sandbox.Live(got["access_token"].(string)) {
		m.t.Error("Redox does not accept the token")
	}
	m.settled()
	return got
}

func (m *mount) asked() int { return len(m.sandbox.Assertions()) }

// A token is handed out again, with the right remaining life. A read that comes shortly before the margin
// of the token still gets it, and starts the request for the next one. Clients share no token.
func TestReuse(t *testing.T) {
	m := reusing(t)
	first := m.read("token")
	last := m.later(224500 * time.Millisecond)
	if last["access_token"] != first["access_token"] || last["last_vault_rotation"] != first["last_vault_rotation"] ||
		last["expires_at"] != first["expires_at"] {
		t.Error("another token")
	}
	if last["expires_in"] != 75.0 || last["rotation_period"] != 75.0 || last["ttl"].(float64) < 16 ||
		last["ttl"].(float64) > 26 {
		t.Errorf("of 300 s 224.5 have passed: expires_in %v, rotation_period %v, ttl %v", last["expires_in"],
			last["rotation_period"], last["ttl"])
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
	m.ready("clients/acme/", map[string]any{"reuse_tokens": true})
	if m.read("clients/acme/token")["access_token"] == second["access_token"] || m.asked() != 3 {
		t.Errorf("another client's token is shared: %d requests", m.asked())
	}
}

// If the reader who started a request hangs up, the request goes on, and the next reader gets the token
// of that request.
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
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the reader hung up") {
		t.Errorf("%v", err)
	}
	m.read("token")
	if n := m.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A token is not handed out again after a change that affects it, or may affect it.
func TestReuseEnds(t *testing.T) {
	for name, change := range map[string]func(m *mount){
		"the config is written": func(m *mount) { m.write("config", map[string]any{"max_retries": 1}) },
		"the config is patched": func(m *mount) { m.must(logical.PatchOperation, "config", map[string]any{"scope": nil}) },
		"another key signs":     func(m *mount) { m.write("keys/"+m.read("keys")["pending"].(string)+"/activate", nil) },
		"the config is made anew": func(m *mount) {
			m.must(logical.DeleteOperation, "config", nil)
			m.write("config",
				m.settings())
		},
		"the client is made anew": func(m *mount) {
			m.must(logical.DeleteOperation, "config", nil)
			m.ready("", map[string]any{"reuse_tokens": true})
		},
		"Vault tells of the config": func(m *mount) { m.backend.InvalidateKey(m.t.Context(), configKey(defaultClient)) },
		"a key is deleted": func(m *mount) {
			m.must(logical.DeleteOperation,
				"keys/"+m.read("keys")["pending"].(string), nil)
		},
		"another node writes a key": func(m *mount) {
			m.elsewhere()
			m.backend.InvalidateKey(m.t.Context(),
				keyringKey(defaultClient))
		},
		"another key has its name": func(m *mount) {
			m.renamed()
			m.backend.InvalidateKey(m.t.Context(),
				keyringKey(defaultClient))
		},
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

// If the config is written during a read, the token of that read is not handed out to
// reads that begin after the write.
func TestReuseByTheConfigOfTheReader(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", map[string]any{"reuse_tokens": true})
	reads := 0
	storage.got = func() {
		if reads++; reads != 2 { // 2: the config was read, and then the ring
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

// If another key becomes active, no token that was requested before stays in memory.
func TestReuseDropsTokens(t *testing.T) {
	m := reusing(t)
	m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "next"})
	m.read("token")
	m.settled()
	m.write("keys/next/activate", map[string]any{"force": true})
	if n := m.backend.tokens.Len(); n != 0 {
		t.Errorf("another key signs, and %d tokens of the one before are in memory", n)
	}
}

// No token, connection or recheck of a deleted client stays in memory. If a read was under way at the
// deletion, what it leaves is freed when the schedule next lists the clients.
func TestReuseOfAClientThatIsGone(t *testing.T) {
	m := newMount(t)
	left := func() int {
		m.backend.rechecks.mu.Lock()
		defer m.backend.rechecks.mu.Unlock()
		return m.backend.tokens.Len() + len(m.backend.connections.clients) + len(m.backend.rechecks.due)
	}
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
	// Leave what a read may leave that loaded the client just before the deletion: an entry in the token
	// cache, a connection and a recheck.
	late := errors.New("too late")
	if _, err := m.backend.tokens.Get(t.Context(), "acme", "its fingerprint",
		func(context.Context, bool) (*issued, error) { return nil, late }); !errors.Is(err, late) {
		t.Fatal(err)
	}
	if _, err := m.backend.connections.of("acme", ""); err != nil {
		t.Fatal(err)
	}
	m.backend.rechecks.add("acme", recheck{mended: true})
	m.settled()
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

// renamed replaces the ring, on another node, by one key that has the ID of the active key. It registers
// that key at the sandbox.
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

// A change that does not affect a token leaves it in the cache. Once reuse_tokens is off,
// the cache is empty.
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

// While Redox is down, readers get the old token until its last second. In its last minute (the margin)
// they also get a warning. However many requests for a new token fail, the log says only once that there
// is none.
func TestReuseRidesOutAnOutage(t *testing.T) {
	m := reusing(t)
	first := m.read("token")["access_token"]
	m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
	for _, left := range []time.Duration{74 * time.Second, 60 * time.Second, time.Second} {
		m.settled()
		m.pass(300*time.Second - left - m.ahead)
		resp, err := m.request(t.Context(), logical.ReadOperation, "token", nil)
		if err != nil || resp.IsError() {
			t.Fatalf("with %v left: %v, %v", left, resp, err)
		}
		if resp.Data["access_token"] != first || resp.Data["expires_in"] != left.Seconds() {
			t.Errorf("with %v left: %v s, the same token %v", left, resp.Data["expires_in"], resp.Data["access_token"] == first)
		}
		warned := strings.Join(resp.Warnings, "")
		if left > time.Minute && warned != "" {
			t.Errorf("before the margin it warns: %s", warned)
		}
		if left <= time.Minute && !strings.Contains(warned,
			"near its end, and there is no newer one: the token endpoint answered HTTP 503: Redox may be in trouble") {
			t.Errorf("in the margin it warns: %s", warned)
		}
		if ttl := resp.Data["ttl"].(float64); left <= time.Minute && (ttl < 1 || ttl > 5 || ttl > max(1, left.Seconds()/2)) {
			t.Errorf("with %v left: ttl %v", left, ttl)
		}
	}
	m.pass(500 * time.Millisecond)
	m.fails(502, logical.ReadOperation, "token", nil, "HTTP 503")
	m.sandbox.SetFault("", 0)
	if m.later(0)["access_token"] == first {
		t.Error("after the outage the old token is handed out")
	}
	if log := m.log.String(); strings.Count(log, "there is no new token to hand out again") != 1 {
		t.Errorf("the log says\n%s", log)
	}
}

// An OAuth error response is permanent: a reader gets that error once the token is in its margin,
// although the token is still valid.
func TestReuseRefused(t *testing.T) {
	m := reusing(t)
	m.read("token")
	if err := m.sandbox.Register(clientID, []byte(`{"keys":[]}`)); err != nil {
		t.Fatal(err)
	}
	m.pass(241 * time.Second)
	m.fails(400, logical.ReadOperation, "token", nil, "Public key not found", "press Save Changes")
}

// A token that has less than a second to live when it arrives is an error.
func TestTokenThatEndsAtOnce(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		m := newMount(t)
		m.ready("", map[string]any{"reuse_tokens": reuse, "max_retries": 0})
		m.sandbox.SetTokenTTL(2 * time.Second)
		clock := m.now
		m.backend.now = func() time.Time {
			return clock.Add(time.Duration(len(m.sandbox.Assertions())) * 1500 * time.Millisecond)
		}
		m.fails(502, logical.ReadOperation, "token", nil, "the token had less than a second left when it arrived")
	}
}

// panics is an http.RoundTripper that panics, with a value that may be a secret.
type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) { panic(canary) }

// If the request that readers share panics, they get an error. The process goes on,
// and the next read succeeds.
func TestReusePanic(t *testing.T) {
	m := reusing(t)
	conn, err := m.backend.connections.of(defaultClient, "")
	if err != nil {
		t.Fatal(err)
	}
	well := conn.api
	if conn.api, err = redoxapi.New(redoxapi.Options{Transport: panics{}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	m.fails(500, logical.ReadOperation, "token", nil, "internal error")
	conn.api = well
	m.read("token")
	if log := m.log.String(); strings.Contains(log, canary) || !strings.Contains(log, "RoundTrip") {
		t.Errorf("the log says\n%s", log)
	}
}

// When Vault stops the engine, its requests to Redox end, and the readers that wait
// get an error.
func TestReuseStops(t *testing.T) {
	m := reusing(t)
	m.sandbox.SetFault(redoxtest.FaultStall, -1)
	done := make(chan error)
	go func() {
		_, err := m.request(context.Background(), logical.ReadOperation, "token", nil)
		done <- err
	}()
	waitFor(t, "the request", func() bool { return m.asked() == 1 })
	m.backend.Cleanup(t.Context())
	if err := <-done; err == nil {
		t.Error("a token came of it")
	}
	m.sandbox.SetFault("", 0)
	m.fails(429, logical.ReadOperation, "token", nil, "the engine is being stopped")
	if n := m.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
}
