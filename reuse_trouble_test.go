package redox

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// While Redox cannot be had, the token is handed out to its last second, with a
// warning once it is in its margin, and nobody waits for what has just failed.
func TestReuseRidesOutAnOutage(t *testing.T) {
	m := reusing(t)
	first := m.read("token")["access_token"]
	m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
	read := func(after time.Duration, left float64, requests int) []string {
		t.Helper()
		m.landed()
		m.pass(after)
		resp, err := m.request(t.Context(), logical.ReadOperation, "token", nil)
		if err != nil || resp.IsError() {
			t.Fatalf("with %v s left: %v, %v", left, resp, err)
		}
		m.landed()
		if got := resp.Data; got["access_token"] != first || got["expires_in"] != left || m.asked() != requests {
			t.Errorf("with %v s left: %v s, the same token %v, %d requests, want %d", left, got["expires_in"], got["access_token"] == first, m.asked(), requests)
		}
		if ttl := resp.Data["ttl"].(float64); left <= 60 && (ttl < 1 || ttl > 5 || ttl > max(1, left/2)) {
			t.Errorf("with %v s left: ttl %v", left, ttl)
		}
		return resp.Warnings
	}
	if warned := read(226*time.Second, 74, 2); len(warned) != 0 {
		t.Errorf("before the margin it warns: %v", warned)
	}
	read(4*time.Second, 70, 2) // tried just now
	read(time.Second, 69, 3)
	warned := read(9*time.Second, 60, 4)
	if len(warned) != 1 || !strings.Contains(warned[0], "near its end") || !strings.Contains(warned[0], "HTTP 503") || !strings.Contains(warned[0], "Redox may be in trouble") {
		t.Errorf("in the margin it warns: %v", warned)
	}
	read(4*time.Second, 56, 4)
	read(55*time.Second, 1, 5)
	m.pass(500 * time.Millisecond)
	m.fails(502, logical.ReadOperation, "token", nil, "HTTP 503")
	m.fails(502, logical.ReadOperation, "token", nil, "HTTP 503")
	if n := m.asked(); n != 7 {
		t.Errorf("%d requests, want one for each that failed", n)
	}
	m.sandbox.SetFault("", 0)
	if m.later(0)["access_token"] == first {
		t.Error("after the outage the old token is handed out")
	}
	if log := m.log.String(); strings.Count(log, "there is no new token to hand out again") != 1 {
		t.Errorf("the log says\n%s", log)
	}
}

// The outage begins when the token is in its margin already: who meets it first
// gets the token after all, with a warning.
func TestReuseMeetsAnOutageInTheMargin(t *testing.T) {
	m := reusing(t)
	first := m.read("token")["access_token"]
	m.sandbox.SetFault(redoxtest.FaultReset, -1)
	m.pass(250 * time.Second)
	resp, err := m.request(t.Context(), logical.ReadOperation, "token", nil)
	if err != nil || resp.IsError() || resp.Data["access_token"] != first || len(resp.Warnings) != 1 {
		t.Errorf("%v, %v", resp, err)
	}
	m.sandbox.SetFault("", 0)
	if resp, err = m.request(t.Context(), logical.ReadOperation, "token", nil); err != nil || resp.Data["access_token"] != first {
		t.Errorf("just after a failure somebody waited: %v, %v", resp, err)
	}
	if m.later(5 * time.Second)["access_token"] == first {
		t.Error("after the outage there is no new token")
	}
}

// A failure that is past says nothing of now: who reads in the margin gets a new
// token, though nobody has asked since Redox is well.
func TestReuseAfterAFailureThatIsPast(t *testing.T) {
	m := reusing(t)
	first := m.read("token")["access_token"]
	m.sandbox.SetFault(redoxtest.FaultUnavailable, 1)
	m.later(226 * time.Second) // fails behind the reader's back
	if got := m.later(73 * time.Second); got["access_token"] == first {
		t.Errorf("a token with %v s left is handed out", got["expires_in"])
	}
}

// While a machine is suspended its monotonic clock stands still, and tokens end.
func TestReuseAfterASuspension(t *testing.T) {
	m := reusing(t)
	first := m.read("token")["access_token"]
	const gone = 400 * time.Second
	suspended := m.now
	*(*uint64)(unsafe.Pointer(&suspended)) += uint64(gone/time.Second) << 30 // of time.Time, the seconds of the wall clock alone
	if suspended.Sub(m.now) != 0 || suspended.Round(0).Sub(m.now.Round(0)) != gone {
		t.Fatal("time.Time is not made as this test believes")
	}
	m.now = suspended
	m.sandbox.SetClockOffset(m.ahead + gone)
	got := m.read("token")
	if got["access_token"] == first || !m.sandbox.Live(got["access_token"].(string)) {
		t.Error("a token that has ended is handed out")
	}
}

// A token that is not worth showing when it comes is none.
func TestTokenThatEndsAtOnce(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		m := newMount(t)
		m.ready("", map[string]any{"reuse_tokens": reuse, "max_retries": 0})
		m.sandbox.SetTokenTTL(2 * time.Second)
		clock := m.now
		m.backend.now = func() time.Time {
			return clock.Add(time.Duration(len(m.sandbox.Assertions())) * 1500 * time.Millisecond)
		}
		m.fails(502, logical.ReadOperation, "token", nil, "the token had ended before it came")
	}
}

// A refusal does not pass by itself: who reads in the margin learns of it.
// Before that, Redox is not asked at every read.
func TestReuseRefused(t *testing.T) {
	m := reusing(t)
	first := m.read("token")["access_token"]
	if err := m.sandbox.Register(clientID, []byte(`{"keys":[]}`)); err != nil {
		t.Fatal(err)
	}
	m.pass(226 * time.Second)
	for range 3 {
		if m.read("token")["access_token"] != first {
			t.Error("another token")
		}
		m.landed()
	}
	if n := m.asked(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
	m.pass(15 * time.Second)
	for range 2 {
		m.fails(400, logical.ReadOperation, "token", nil, "Public key not found", "press Save Changes")
	}
	m.publish("")
	if m.later(0)["access_token"] == first {
		t.Error("an old token")
	}
}

// panics is a network that panics, with a value that may be a secret.
type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) { panic(canary) }

// A panic in the request that readers share is an error of theirs, and does
// not end the process, nor what comes after it.
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

// When Vault stops the engine, no request of it goes on, and who waits is told.
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
