package redox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

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
		"token_type": "Bearer", "expires_in": 300.0, "expires_at": "2026-11-24T09:05:00Z", "client_id": clientID, "key_id": keyID,
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

// The time that Redox takes is not promised to the reader.
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

// An unconfigured token lists all that is missing, in the order in which to do it.
func TestTokenUnconfigured(t *testing.T) {
	const noKey, noConfig = "no signing key: write to redox/keys/generate", "no client ID: write client_id to redox/config"
	m := newMount(t)
	for _, path := range []string{"token", "check"} {
		text := m.fails(400, logical.ReadOperation, path, nil, noKey, noConfig)
		if strings.Index(text, noKey) > strings.Index(text, noConfig) {
			t.Errorf("in the wrong order: %s", text)
		}
	}
	m.fails(400, logical.ReadOperation, "clients/acme/token", nil, "write to redox/clients/acme/keys/generate", "redox/clients/acme/config")
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

// Each row of the error table: what Redox does, what a reader gets, and how
// many assertions it took.
func TestTokenErrors(t *testing.T) {
	const outage = "Redox may be in trouble"
	for _, test := range []struct {
		fault    redoxtest.Fault
		status   int
		attempts int
		want     []string
	}{
		{redoxtest.FaultTooMany, 429, 1, []string{"HTTP 429", "10,000 requests in 5 minutes per source address"}},
		{redoxtest.FaultUnavailable, 502, 3, []string{"HTTP 503", outage}},
		{redoxtest.FaultBadGateway, 502, 3, []string{"HTTP 502", outage}},
		{redoxtest.FaultHTML, 502, 3, []string{"not the JSON of a token", outage}},
		{redoxtest.FaultForbidden, 502, 1, []string{"HTTP 403", "a firewall or proxy may have answered", "check token_url in redox/config"}},
		{redoxtest.FaultTruncate, 502, 3, []string{"broke before there was an answer", "HTTPS_PROXY"}},
		{redoxtest.FaultRedirect, 502, 1, []string{"HTTP 307", "a redirect, which is never followed"}},
		{redoxtest.FaultNoToken, 502, 3, []string{"no usable access_token", outage}},
		{redoxtest.FaultHuge, 502, 3, []string{"larger than 1 MiB", outage}},
		{redoxtest.FaultReset, 502, 3, []string{"broke before there was an answer", "127.0.0.1:"}},
		{redoxtest.FaultEcho, 400, 1, []string{"Unexpected value: [removed]", "client ID " + clientID + ", key "}},
		{redoxtest.FaultBlank, 400, 1, []string{
			`error "invalid_request"`, "https://docs.redoxengine.com/permalink/", "no reason when a claim is wrong", "the clocks agree", "RS384", "/v2/auth/token",
		}},
	} {
		t.Run(string(test.fault), func(t *testing.T) {
			m := newMount(t)
			keyID := m.ready("", nil)
			m.sandbox.SetFault(test.fault, -1)
			before := snapshot(t, m.storage)
			text := m.fails(test.status, logical.ReadOperation, "token", nil, test.want...)
			if test.status == 400 && !strings.Contains(text, keyID) {
				t.Errorf("the refusal does not name the key: %s", text)
			}
			sent := m.sandbox.Assertions()
			if len(sent) != test.attempts {
				t.Errorf("%d assertions were sent, want %d", len(sent), test.attempts)
			}
			slices.Sort(sent)
			if len(slices.Compact(sent)) != test.attempts {
				t.Error("an assertion was sent twice")
			}
			if n := m.sandbox.Redirected(); n != 0 {
				t.Errorf("%d redirects were followed", n)
			}
			m.unchanged(before)
			m.sandbox.SetFault("", 0)
			m.read("token")
		})
	}
}

func TestTokenUnknownKey(t *testing.T) {
	m := newMount(t)
	keyID := m.ready("clients/acme/", nil)
	if err := m.sandbox.Register(clientID, []byte(`{"keys":[]}`)); err != nil {
		t.Fatal(err)
	}
	m.fails(400, logical.ReadOperation, "clients/acme/token", nil,
		"Public key not found", "Redox does not know key "+keyID+" for client ID "+clientID,
		"vault read -field=jwks redox/clients/acme/keys", "press Save Changes", "redox/clients/acme/config")
}

func TestTokenClocks(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox time.Duration // how far Redox's clock is ahead
		want    string        // empty: a token
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
			m.fails(400, logical.ReadOperation, "token", nil, test.want, "mend the clock")
		})
	}
}

func TestTokenTimeout(t *testing.T) {
	t.Run("of request_timeout", func(t *testing.T) {
		m := newMount(t)
		m.ready("", map[string]any{"request_timeout": 1, "max_retries": 0})
		m.sandbox.SetFault(redoxtest.FaultStall, -1)
		m.fails(504, logical.ReadOperation, "token", nil, "no answer from 127.0.0.1:", "in time", "HTTPS_PROXY")
	})
	t.Run("of the reader, who goes away", func(t *testing.T) {
		m := newMount(t)
		m.ready("", nil)
		m.sandbox.SetFault(redoxtest.FaultStall, -1)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() {
			_, err := m.request(ctx, logical.ReadOperation, "token", nil)
			done <- err
		}()
		waitFor(t, "the request to be under way", func() bool { return len(m.sandbox.Assertions()) == 1 })
		cancel()
		if err := <-done; err == nil {
			t.Error("a read that was given up returned a token")
		}
		if n := len(m.sandbox.Assertions()); n != 1 {
			t.Errorf("it went on asking: %d assertions", n)
		}
	})
}

func TestTokenLifetimes(t *testing.T) {
	const warning = "five minutes are assumed"
	for fault, warns := range map[redoxtest.Fault]bool{redoxtest.FaultStringExpires: false, redoxtest.FaultNoExpires: true} {
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

// The hint is never later than the margin allows, never zero, and not the same
// for all readers.
func TestComeBack(t *testing.T) {
	for _, test := range []struct{ left, earliest, latest int64 }{
		{300, 230, 240}, {3600, 3420, 3540}, {60, 46, 48}, {30, 23, 24}, {29, 24, 24}, {5, 4, 4}, {2, 2, 2}, {1, 1, 1}, {0, 1, 1},
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
