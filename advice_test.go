package redox

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// The error about a refusal contains Redox's words, the client ID and the key. If the clocks differ by
// more than two seconds, the error says by how much. Its advice depends on Redox's words and on the
// clocks.
func TestRefusals(t *testing.T) {
	const (
		belong   = "do client ID and key belong together?"
		clock    = "fix the clock of this Vault server"
		audience = "so that the audience is the one Redox expects"
		unknown  = "Public key not found, check client_id, kid and Redox dashboard settings"
	)
	for _, test := range []struct {
		words  string
		behind time.Duration // how far the clock here is behind
		want   []string
		not    []string
	}{
		{"JWT is expired", 8 * time.Minute, []string{"the clock here is behind Redox's by 8m", clock},
			[]string{belong, audience}},
		{"JWT is expired", 3 * time.Second, []string{"the clock here is behind Redox's by 3s", belong}, []string{clock}},
		{"Invalid iat", -30 * time.Second, []string{"the clock here is ahead of Redox's by ", clock}, []string{belong}},
		{"Invalid audience", 0, []string{"audience URL", "the clocks agree", audience}, []string{clock, belong}},
		{"Unexpected aud claim value", 0, []string{"audience URL", audience}, []string{clock, belong}},
		{"", 8 * time.Minute, []string{"gives no reason", "behind Redox's by 8m", clock}, []string{belong, audience}},
		{"", 0, []string{"gives no reason", "the clocks agree", belong}, []string{clock, audience}},
		{"invalid signature", 0, []string{"the clocks agree", belong}, []string{clock, "gives no reason"}},
		{unknown, 0, []string{"Redox does not know key KEY (imported)", "the audience is URL"}, []string{"clock"}},
		{unknown, 8 * time.Minute, []string{"copy the JWK Set", "the clock here is behind Redox's by 8m"}, []string{belong}},
	} {
		t.Run(fmt.Sprint(test.words, test.behind), func(t *testing.T) {
			m := newMount(t)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", m.now.Add(test.behind+time.Second-1).UTC().Format(http.TimeFormat))
				answer := fmt.Sprintf(`{"error":"invalid_request","error_description":%q}`, test.words)
				answers(http.StatusBadRequest, answer)(w, nil)
			}))
			defer server.Close()
			key := m.ready("", map[string]any{"token_url": server.URL})
			text := m.fails(http.StatusBadRequest, logical.ReadOperation, "token", nil, test.words, clientID, key, "imported")
			fill := strings.NewReplacer("KEY", key, "URL", server.URL)
			for _, want := range test.want {
				if !strings.Contains(text, fill.Replace(want)) {
					t.Errorf("want %q in\n%s", fill.Replace(want), text)
				}
			}
			for _, not := range test.not {
				if strings.Contains(text, not) {
					t.Errorf("there is %q in\n%s", not, text)
				}
			}
		})
	}
}

// If the config sets neither token_url nor audience, the advice does not ask about the audience. If
// assertion_ttl is 30 s, the advice blames a clock that is 20 s behind.
func TestRefusalAsks(t *testing.T) {
	c := defaultConfig()
	refused := tokenError{err: &redoxapi.Error{Skew: redoxapi.Skew{Known: true, Ahead: -20 * time.Second}}, config: &c,
		origin: keyring.Generated, paths: "redox/"}
	if text := refused.advice(); !strings.Contains(text, "(generated in Vault)") ||
		!strings.HasSuffix(text, "in Redox's dashboard, or paste it again: one lost character breaks it") {
		t.Error(text)
	}
	c.AssertionTTL = 30
	const fix = ": fix the clock of this Vault server; if that one is right, the clock of the token URL's host is wrong"
	if text := refused.advice(); !strings.HasSuffix(text, fix) {
		t.Error(text)
	}
}

// The advice after a timeout says how long an attempt may take. It advises more time only if more is
// possible, and not if packets are dropped.
func TestTimeoutAdvice(t *testing.T) {
	const wait, raise, lower = " of request_timeout: ", "raise that in redox/config", "lower max_retries in redox/config"
	for want, test := range map[string]struct {
		timeout, retries int64
		dropped          bool
	}{
		"each attempt may take 3.3s of request_timeout (at most 3 attempts): " + raise + ", or " + lower: {10, 2, false},
		"the one attempt had 10s" + wait + raise:                                                         {10, 0, false},
		"each attempt may take 15s of request_timeout (at most 2 attempts): " + lower:                    {30, 1, false},
		"each attempt may take 2s of request_timeout (at most 3 attempts): " + raise:                     {2, 2, false},
		"the one attempt had 30s" + wait + "request_timeout is at its maximum: find out why Redox, or a proxy on the " +
			"way, is so slow": {30, 0, false},
		"each attempt may take 3.3s of request_timeout (at most 3 attempts): " +
			"find out, with curl -v on the Vault server, whether a firewall drops the packets or the host is " +
			"down": {10, 2, true},
	} {
		e := &tokenError{
			err:    &redoxapi.UpstreamError{Kind: redoxapi.TimedOut, Dropped: test.dropped},
			config: &config{RequestTimeout: test.timeout, MaxRetries: test.retries}, paths: "redox/",
		}
		if got := e.advice(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
