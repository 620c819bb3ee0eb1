package redox

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// A read of token succeeds after up to max_retries temporary failures.
func TestTokenRetries(t *testing.T) {
	t.Parallel()
	for _, f := range []redoxtest.Fault{redoxtest.FaultReset, redoxtest.FaultUnavailable, redoxtest.FaultTruncate,
		redoxtest.FaultNoToken} {
		t.Run(string(f), func(t *testing.T) {
			m := newMount(t)
			m.ready("", nil)
			m.sandbox.SetFault(f, 2)
			m.read("token")
			if n := len(m.sandbox.Assertions()); n != 3 {
				t.Errorf("%d assertions were sent, want 3", n)
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		m := newMount(t)
		m.ready("", map[string]any{"max_retries": 0})
		m.sandbox.SetFault(redoxtest.FaultReset, 1)
		m.fails(502, logical.ReadOperation, "token", nil)
		m.read("token")
	})
}

// If an answer has Retry-After, the engine waits at least that long before the next attempt. If there is not
// enough time for that, the read fails at once. After HTTP 429 there is no further attempt.
func TestTokenRetryAfter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status, attempts int
		after, want      string
	}{
		"an hour":   {503, 1, "3600", "answered HTTP 503, and asks to wait 1h0m0s: Redox may be"},
		"a second":  {503, 3, "1", "answered HTTP 503, and asks to wait 1s"},
		"of a 429":  {429, 1, "1", "answered HTTP 429, and asks to wait 1s: Redox allows"},
		"no number": {503, 3, "soon", "answered HTTP 503: Redox may be"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var attempts atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				attempts.Add(1)
				w.Header().Set("Retry-After", test.after)
				w.WriteHeader(test.status)
			}))
			t.Cleanup(server.Close)
			m := newMount(t)
			m.ready("", map[string]any{"token_url": server.URL})
			start := time.Now()
			m.fails(map[int]int{503: 502, 429: 429}[test.status], logical.ReadOperation, "token", nil, test.want)
			if n := int(attempts.Load()); n != test.attempts {
				t.Errorf("%d attempts, want %d", n, test.attempts)
			}
			if name == "a second" && time.Since(start) < 2*time.Second {
				t.Errorf("two pauses of a second took %v", time.Since(start))
			}
		})
	}
}

// The pause doubles with each retry, and is shortened at random by up to half. pause returns false without waiting
// if there is not enough time.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for tries, most := range []time.Duration{100, 200, 400} {
			most *= time.Millisecond
			start := time.Now()
			if !pause(t.Context(), int64(tries), 0, time.Hour) {
				t.Fatal("it gave up")
			}
			if took := time.Since(start); took > most || took < most/2 {
				t.Errorf("pause %d took %v, want %v to %v", tries, took, most/2, most)
			}
		}
		start := time.Now()
		if !pause(t.Context(), 0, 3*time.Second, time.Hour) || time.Since(start) != 3*time.Second {
			t.Errorf("asked to wait 3 s, it waited %v", time.Since(start))
		}
		for least, left := range map[time.Duration]time.Duration{0: 40 * time.Millisecond, time.Second: time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			defer cancel()
			start = time.Now()
			if pause(ctx, 0, least, time.Hour) || time.Since(start) != 0 {
				t.Errorf("it waited %v for nothing", time.Since(start))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Millisecond); cancel() }()
		if pause(ctx, 9, 0, time.Hour) {
			t.Error("the reader has gone, and it went on")
		}
	})
}
