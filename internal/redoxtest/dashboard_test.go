package redoxtest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

func TestRegister(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := publicJWK(t, &key(t).PublicKey, "k2")
	for name, test := range map[string]struct{ jwks, want string }{
		"a set":         {`{"keys":[` + public + `]}`, ""},
		"one key":       {public, ""},
		"an empty set":  {`{"keys":[]}`, ""},
		"no JSON":       {"-----BEGIN PUBLIC KEY-----", "not JSON"},
		"no key":        {`{"keys":[{}]}`, "not a JWK or JWK Set"},
		"a private key": {publicJWK(t, key(t), "k2"), "a private key: only the public half"},
		"an EC key":     {publicJWK(t, &ec.PublicKey, "k2"), `key "k2" is not an RSA key`},
		"no kid":        {publicJWK(t, &key(t).PublicKey, ""), "a key without kid"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Register("client-2", []byte(test.jwks))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			want := http.StatusNoContent
			if test.want != "" {
				want = http.StatusBadRequest
			}
			if status := put(t, s, "/dashboard/apikeys/client-2", test.jwks); status != want {
				t.Errorf("PUT: HTTP %d, want %d", status, want)
			}
		})
	}
	// Register replaces the keys, so without Lag the old key is unknown at once.
	if err := s.Register(clientID, []byte(`{"keys":[`+public+`]}`)); err != nil {
		t.Fatal(err)
	}
	if status, answer := good(t, s, time.Now()).send(t, s); status != 400 ||
		!strings.HasPrefix(answer["error_description"].(string), "Public key not found") {
		t.Errorf("the old key: HTTP %d %v", status, answer)
	}
}

func put(t *testing.T, s *redoxtest.Sandbox, path, body string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	status, _ = do(t, req)
	return status
}

// A fault affects as many token requests as was set, or all until it is removed.
func TestFaults(t *testing.T) {
	s, log := start(t, redoxtest.Options{})
	ask := func() int {
		status, _ := good(t, s, time.Now()).send(t, s)
		return status
	}
	if status := put(t, s, "/dashboard/fault?name=503&times=2", ""); status != 204 {
		t.Fatalf("ordering a fault: HTTP %d", status)
	}
	for i, want := range []int{503, 503, 200} {
		if got := ask(); got != want {
			t.Errorf("request %d: HTTP %d, want %d", i, got, want)
		}
	}
	put(t, s, "/dashboard/fault?name=429", "")
	for i, want := range []int{429, 200} {
		if got := ask(); got != want {
			t.Errorf("request %d: HTTP %d, want %d", i, got, want)
		}
	}
	s.SetFault(redoxtest.FaultRedirect, -1)
	for range 3 {
		if got := ask(); got != http.StatusTemporaryRedirect {
			t.Errorf("HTTP %d, want 307", got)
		}
	}
	if s.Redirected() != 0 {
		t.Error("a redirect counts as followed that was not")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/redirected", nil)
	if err != nil {
		t.Fatal(err)
	}
	if do(t, req); s.Redirected() != 1 {
		t.Error("a redirect was followed and is not counted")
	}
	put(t, s, "/dashboard/fault?name=", "")
	if left := s.FaultsLeft(); left != 0 {
		t.Errorf("without a fault %d requests get one", left)
	}
	if got := ask(); got != 200 {
		t.Errorf("after the fault: HTTP %d", got)
	}
	for _, bad := range []string{"name=nonsense", "name=503&times=many"} {
		if status := put(t, s, "/dashboard/fault?"+bad, ""); status != 400 {
			t.Errorf("%s: HTTP %d", bad, status)
		}
	}
	if !strings.Contains(log.String(), "fault 503") {
		t.Errorf("logged %s", log)
	}
	for _, f := range redoxtest.Faults() {
		if got, err := redoxtest.ParseFault(string(f)); got != f || err != nil {
			t.Errorf("ParseFault(%q) = %q, %v", f, got, err)
		}
	}
}

// SetClockOffset moves the clock that the Date header and the check of an assertion's times
// use.
func TestClockOffset(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	s.SetClockOffset(-time.Minute)
	resp, err := http.DefaultClient.Get(s.URL()) //nolint:noctx // a test of a header
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || time.Since(date) < 55*time.Second {
		t.Errorf("Date %v, %v", date, err)
	}
	if status, _ := good(t, s, time.Now()).send(t, s); status != 400 {
		t.Errorf("an assertion a minute ahead: HTTP %d", status)
	}
	if status, _ := good(t, s, time.Now().Add(-time.Minute)).send(t, s); status != 200 {
		t.Errorf("an assertion in time: HTTP %d", status)
	}
}

// If Options.URL is set, the token URL begins with it.
func TestURL(t *testing.T) {
	s, _ := start(t, redoxtest.Options{URL: "http://redox:8080"})
	if s.TokenURL() != "http://redox:8080/v2/auth/token" {
		t.Errorf("token URL %s", s.TokenURL())
	}
}

// A sandbox that does not listen can be closed.
func TestCloseWithoutServer(*testing.T) { redoxtest.New(redoxtest.Options{}).Close() }

func TestStartFails(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	if _, err := redoxtest.Start(redoxtest.Options{Listen: strings.TrimPrefix(s.URL(), "http://")}); err == nil {
		t.Error("two sandboxes listen on one port")
	}
}

// An assertion is accepted only once. Another assertion with the same jti is refused for 10
// minutes and 20 seconds, and accepted a second later.
func TestReplay(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	s, _ := start(t, redoxtest.Options{Now: func() time.Time { return now }})
	r := good(t, s, now)
	if status, answer := r.send(t, s); status != 200 {
		t.Fatal(status, answer)
	}
	if status, _ := r.send(t, s); status != 400 {
		t.Errorf("the same assertion again: HTTP %d", status)
	}
	jti := r.claims["jti"]
	r = good(t, s, now)
	r.claims["jti"], r.claims["exp"] = jti, now.Unix()+200
	if status, _ := r.send(t, s); status != 400 {
		t.Errorf("another assertion with the same jti: HTTP %d", status)
	}
	sent := now
	for life, want := range map[time.Duration]int{10*time.Minute + 20*time.Second: 400, 10*time.Minute +
		21*time.Second: 200} {
		s, _ := start(t, redoxtest.Options{Now: func() time.Time { return now }})
		now = sent
		r = good(t, s, now)
		r.claims["jti"] = jti
		if status, answer := r.send(t, s); status != 200 {
			t.Fatal(status, answer)
		}
		now = sent.Add(life)
		r = good(t, s, now)
		r.claims["jti"] = jti
		if status, answer := r.send(t, s); status != want {
			t.Errorf("the same jti after %v: HTTP %d %v", life, status, answer)
		}
	}
}
