package redoxtest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// A fetched set is used as long as its Cache-Control allows, without another fetch even if a
// kid is unknown. After that, it is used while the URL answers with an error.
func TestJWKSURL(t *testing.T) {
	now := noon
	s, _ := start(t, redoxtest.Options{Now: func() time.Time { return now }})
	var fetches, broken atomic.Int32
	set, control := `{"keys":[]}`, "public, max-age=60"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		if r.Header.Get("Authorization") != "" || r.Method != http.MethodGet {
			t.Errorf("%s with %d headers", r.Method, len(r.Header))
		}
		if broken.Load() != 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Cache-Control", control)
		_, _ = io.WriteString(w, set)
	}))
	t.Cleanup(server.Close)
	if status := put(t, s, "/dashboard/apikeys/"+clientID+"?jwks_url="+url.QueryEscape(server.URL), ""); status != 204 {
		t.Fatalf("saving the URL: HTTP %d", status)
	}
	ask := func(want int, fetched int32) {
		t.Helper()
		if status, answer := good(t, s, now).send(t, s); status != want {
			t.Errorf("HTTP %d %v, want %d", status, answer, want)
		}
		if n := fetches.Load(); n != fetched {
			t.Errorf("%d fetches, want %d", n, fetched)
		}
	}
	ask(400, 1) // the pasted key is not used any more
	set = `{"keys":[` + publicJWK(t, &key(t).PublicKey, "k") + `]}`
	now = now.Add(59 * time.Second)
	ask(400, 1)
	now = now.Add(time.Second)
	ask(200, 2)
	now = now.Add(time.Minute)
	broken.Store(1)
	ask(200, 3)
	broken.Store(0)
	control = ""
	now = now.Add(time.Second)
	ask(200, 4)
	now = now.Add(time.Second)
	ask(200, 5) // without Cache-Control it is not kept
	set = `{"keys":[` + publicJWK(t, key(t), "k") + `]}`
	now = now.Add(time.Second)
	ask(200, 6) // a set with a private key is not accepted
}
