package redox

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// For each fault in the table, a read of token fails with the right status, message and advice, and the
// right number of assertions is sent. Nothing is stored. When the fault has ended, a read succeeds.
func TestTokenErrors(t *testing.T) {
	t.Parallel()
	const (
		status   = ": Redox may be in trouble (https://status.redoxengine.com): try again"
		tokenURL = ": check token_url in redox/config and any proxy or firewall between Vault and Redox"
		directly = "; directly: the environment of the Vault server names no proxy for this host (HTTPS_PROXY, NO_PROXY)"
		facts    = "client ID " + clientID + ", key KEY (imported), audience http://HOST/v2/auth/token and algorithm RS384 " +
			"were used, and the clocks agree: do client ID and key belong together? Compare the JWK Set (vault read " +
			"-field=jwks redox/keys) with the public keys of this API key in Redox's dashboard, or paste it again: one lost " +
			"character breaks it; is the audience, which redox/config sets, the one that Redox expects?"
	)
	for _, test := range []struct {
		fault    redoxtest.Fault
		status   int
		attempts int
		want     string // KEY stands for the key's ID, HOST for the server's name
	}{
		{redoxtest.FaultTooMany, 429, 1, "HTTP 429: Redox allows 10,000 requests in a rolling window of 5 minutes " +
			"per source address, and fewer of some kinds; all reads through this Vault share one address: wait, for up to " +
			"5 minutes, and read tokens less often"},
		{redoxtest.FaultUnavailable, 502, 3, "HTTP 503" + status},
		{redoxtest.FaultHTML, 502, 3, "HTTP 200: the answer is not the JSON of a token " +
			"(a firewall or proxy may have answered)" + status},
		{redoxtest.FaultHuge, 502, 3, "the answer is larger than 1 MiB" + status},
		{redoxtest.FaultForbidden, 502, 1, "HTTP 403: not the JSON of Redox " +
			"(a firewall or proxy may have answered)" + tokenURL},
		{redoxtest.FaultRedirect, 502, 1, "HTTP 307: a redirect, which is never followed with credentials" + tokenURL},
		{redoxtest.FaultReset, 502, 3, "the connection to HOST broke before there was an answer" + directly},
		{redoxtest.FaultTruncate, 502, 3, "the connection to HOST broke before there was an answer" + directly},
		{redoxtest.FaultStall, 504, 1, "no answer from HOST in time" + directly +
			": the one attempt had 1s of request_timeout: raise that in redox/config"},
		{redoxtest.FaultEcho, 400, 1, "Unexpected value: [removed][removed].[removed]\", error_uri " +
			"https://docs.redoxengine.com/permalink/7sEi7MTFssZ1JuHpUYLeYJ): " + facts},
		{redoxtest.FaultBlank, 400, 1, "): Redox gives no reason when a claim is wrong: " + facts},
	} {
		t.Run(string(test.fault), func(t *testing.T) {
			m := newMount(t)
			settings := map[string]any{}
			if test.status == 504 {
				settings = map[string]any{"request_timeout": 1, "max_retries": 0}
			}
			host := strings.TrimSuffix(strings.TrimPrefix(m.sandbox.TokenURL(), "http://"), "/v2/auth/token")
			want := strings.NewReplacer("KEY", m.ready("", settings), "HOST", host).Replace(test.want)
			m.sandbox.SetFault(test.fault, -1)
			before := snapshot(t, m.storage)
			if text := m.fails(test.status, logical.ReadOperation, "token", nil, want); !strings.HasSuffix(text, want) {
				t.Errorf("the message goes on: %s", text)
			}
			sent := m.sandbox.Assertions()
			slices.Sort(sent)
			if len(sent) != test.attempts || len(slices.Compact(sent)) != test.attempts {
				t.Errorf("%d assertions were sent, want %d different ones", len(sent), test.attempts)
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
		"Public key not found", "Redox does not know key "+keyID+" (imported) for client ID "+clientID,
		"vault read -field=jwks redox/clients/acme/keys", "press Save Changes", "redox/clients/acme/config")
}
