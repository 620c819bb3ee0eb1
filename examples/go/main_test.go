package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// vault starts a server in the place of Vault, and sets VAULT_ADDR to it. Each answer has the
// status *status, and an access token that lives five minutes and must be renewed at once.
// *asked counts the requests.
func vault(t *testing.T, status *int) (asked *int) {
	asked = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		*asked++
		w.WriteHeader(*status)
		_, _ = fmt.Fprint(w, `{"data":{"access_token":"first","ttl":0,"expires_in":300}}`)
	}))
	t.Cleanup(server.Close)
	t.Setenv("VAULT_ADDR", server.URL)
	return asked
}

// If the file with the Vault token is missing, accessToken returns the old access token until
// that ends. After that it returns an error, without waiting.
func TestTokenFile(t *testing.T) {
	status := http.StatusOK
	asked := vault(t, &status)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s.token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_TOKEN_FILE", file)
	r := &redox{}
	for range 2 { // the second time without the file
		if token, err := r.accessToken(t.Context()); token != "first" || err != nil {
			t.Fatalf("%q, %v", token, err)
		}
		_ = os.Remove(file)
	}
	r.end = time.Now()
	start := time.Now()
	if token, err := r.accessToken(t.Context()); token != "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", token, err)
	}
	if took := time.Since(start); took > 900*time.Millisecond || *asked != 1 {
		t.Errorf("an error after %v, and Vault was asked %d times", took, *asked)
	}
}

// If the caller gives up while accessToken waits before it asks Vault again, accessToken
// returns at once, with the error of the caller's context.
func TestGivenUp(t *testing.T) {
	status := http.StatusServiceUnavailable
	vault(t, &status)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := (&redox{}).accessToken(ctx)
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 900*time.Millisecond {
		t.Errorf("after %v: %v", took, err)
	}
}
