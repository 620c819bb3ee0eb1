package redoxtest_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// Each fault has its status and body, and the sandbox remembers the assertion and any token.
func TestEveryFault(t *testing.T) {
	wants := map[redoxtest.Fault]struct {
		status int // 0 for none, or an incomplete one
		body   string
	}{
		redoxtest.FaultTooMany:       {429, "Too Many Requests"},
		redoxtest.FaultUnavailable:   {503, "Service Unavailable"},
		redoxtest.FaultBadGateway:    {502, "<html>"},
		redoxtest.FaultHTML:          {200, "<html>"},
		redoxtest.FaultForbidden:     {403, "<html>"},
		redoxtest.FaultTruncate:      {0, ""},
		redoxtest.FaultReset:         {0, ""},
		redoxtest.FaultStall:         {0, ""},
		redoxtest.FaultSlow:          {200, `"expires_in":300`},
		redoxtest.FaultRedirect:      {307, ""},
		redoxtest.FaultNoToken:       {200, `"expires_in":300`},
		redoxtest.FaultStringExpires: {200, `"expires_in":"300"`},
		redoxtest.FaultNoExpires:     {200, `"token_type":"Bearer"}`},
		redoxtest.FaultEcho:          {400, "Unexpected value: the.assertion"},
		redoxtest.FaultBlank:         {400, `"error_description":""`},
		redoxtest.FaultUnasked:       {200, `"expires_in":300`},
		redoxtest.FaultHuge:          {200, strings.Repeat(" ", 1<<20)},
	}
	log.SetOutput(io.Discard) // net/http logs unsolicited responses
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	for _, f := range redoxtest.Faults() {
		t.Run(string(f), func(t *testing.T) {
			want, known := wants[f]
			if !known {
				t.Fatal("say what it does")
			}
			s, _ := start(t, redoxtest.Options{})
			s.SetFault(f, 1)
			r := good(t, s, time.Now())
			if f == redoxtest.FaultEcho {
				r.form.Set("client_assertion", "the.assertion")
			}
			client := &http.Client{Timeout: 10 * time.Second,
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			if f == redoxtest.FaultStall {
				client.Timeout = 50 * time.Millisecond
			}
			status, body := r.post(t, s, client)
			if status != want.status || !strings.Contains(body, want.body) {
				t.Errorf("HTTP %d %.200s, want %d %.200s", status, body, want.status, want.body)
			}
			if n := len(s.Assertions()); n != 1 {
				t.Errorf("%d assertions are remembered", n)
			}
			if issues := strings.Contains(body, "access_token"); issues != (len(s.Tokens()) == 1) {
				t.Errorf("%d tokens are remembered", len(s.Tokens()))
			}
		})
	}
}

// A request with a body that waits ends when its client hangs up.
func TestHangUp(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	token := tokenOf(t, s)
	s.SetPlatformFault(redoxtest.FaultStall, 0, 1)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+keysPath, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: &http.Transport{}, Timeout: 50 * time.Millisecond}
	if resp, err := client.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Error("a stalled request has an answer")
	}
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Second); s.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections stay open", s.Open())
		}
	}
}

// post sends the request and reads at most 2 MiB of the response. It returns status 0 if there
// is no response, or if it breaks off.
func (r *request) post(t *testing.T, s *redoxtest.Sandbox, client *http.Client) (status int, body string) {
	t.Helper()
	resp, err := client.Do(r.build(t, s))
	if err != nil {
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 2<<20))
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(raw)
}

func TestSearchPatient(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	_, answer := good(t, s, time.Now()).send(t, s)
	for query, total := range map[string]float64{
		"": 1, "family=Green": 1, "family=green&given=keva": 1, "given=Keva": 1, "family=Brown": 0,
		"family=Green&given=Bob": 0, "family=Brown&given=Keva": 0,
	} {
		form, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			s.URL()+"/fhir/R4/redox-fhir-sandbox/Development/Patient/_search", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+fmt.Sprint(answer["access_token"]))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		status, bundle := do(t, req)
		if status != 200 || bundle["resourceType"] != "Bundle" || bundle["total"] != total ||
			float64(len(bundle["entry"].([]any))) != total {
			t.Errorf("search %q: HTTP %d %v", query, status, bundle)
		}
	}
}

func TestConnections(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	client := &http.Client{Transport: &http.Transport{}}
	for i := range 2 {
		for range 3 {
			good(t, s, time.Now()).post(t, s, client)
		}
		if n := s.Connections(); n != i+1 {
			t.Errorf("%d connections were opened, want %d", n, i+1)
		}
		if n := s.Open(); n != 1 {
			t.Errorf("%d connections are open, want 1", n)
		}
		for deadline := time.Now().Add(10 * time.Second); s.Open() > 0; s.CloseIdle() {
			if time.Now().After(deadline) {
				t.Fatalf("%d connections stay open", s.Open())
			}
			time.Sleep(time.Millisecond)
		}
		client.CloseIdleConnections()
	}
}

func TestLeaks(t *testing.T) {
	secret := "abcdefghijklmnopqrstuvwx" + "ABCDEFGHIJKLMNOPQRSTUVWX" + "0123456"
	for text, want := range map[string]bool{
		"":                                false,
		"nothing here":                    false,
		secret:                            true,
		"x" + secret[:24] + "y":           true,
		"x" + secret[24:48] + "y":         true,
		secret[:23] + " " + secret[24:47]: false,
		secret[31:]:                       true,
		secret[32:]:                       false,
		strings.Repeat("x", 48) + " no":   false,
	} {
		if got := len(redoxtest.Leaks(map[string]string{"t": text}, map[string]string{"s": secret})) == 1; got != want {
			t.Errorf("%q: found %v", text, got)
		}
	}
	for text, want := range map[string]bool{"a short one": true, "a shor": false} {
		if got := len(redoxtest.Leaks(map[string]string{"t": text}, map[string]string{"s": "short"})) == 1; got != want {
			t.Errorf("%q: found %v", text, got)
		}
	}
	if found := redoxtest.Leaks(map[string]string{"t": "x"}, map[string]string{"s": ""}); len(found) != 0 {
		t.Errorf("an empty secret is found: %v", found)
	}
	got := redoxtest.Leaks(map[string]string{"log": "one two", "answer": "two"}, map[string]string{"b": "two", "a": "one"})
	if diff := cmp.Diff([]string{"a in log", "b in answer", "b in log"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all, err := redoxtest.KeySecrets("k", key(t))
	if err != nil || len(all) != 14 {
		t.Errorf("%d secrets of a key, %v", len(all), err)
	}
	for name, value := range all {
		if len(value) < 100 || slices.Contains([]string{"", "key"}, name) {
			t.Errorf("%s has %d characters", name, len(value))
		}
	}
}
