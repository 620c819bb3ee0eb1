package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, []byte(`{"keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan error)
	go func() { done <- run(ctx, []string{"-client-id", "c", "-jwks", jwks, "-fault", "503"}, in, io.Discard) }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("it says nothing")
	}
	address, says := strings.CutPrefix(lines.Text(), "sandbox listening on ")
	if !says {
		t.Fatalf("its first line is %q", lines.Text())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v2/auth/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("HTTP %d, want the fault", resp.StatusCode)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// With -url, the sandbox prints that URL, without a slash at its end, instead of the
// address that it listens on.
func TestURL(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan error)
	go func() { done <- run(ctx, []string{"-url", "http://redox:8080/"}, in, io.Discard) }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "sandbox listening on http://redox:8080" {
		t.Errorf("its first line is %q", lines.Text())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-nonsense":                   "not defined",
		"-fault nonsense":             "there is no fault of that name; there are 429, 503",
		"-token-ttl 1ms":              "at least 1s",
		"-client-id c":                "-client-id and -jwks must be used together",
		"-jwks f":                     "-client-id and -jwks must be used together",
		"-client-id c -jwks /missing": "no such file",
		"-client-id c -jwks main.go":  "main.go: not JSON",
		"-listen 256.0.0.1:1":         "starting the sandbox",
	} {
		if err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", args, err, want)
		}
	}
	var usage bytes.Buffer
	if err := run(t.Context(), []string{"-h"}, io.Discard, &usage); err != nil ||
		!strings.Contains(usage.String(), "429, 503, 502, html") {
		t.Errorf("-h: %v, %s", err, usage.String())
	}
}
