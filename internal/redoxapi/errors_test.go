package redoxapi

import (
	"strings"
	"testing"
	"time"
)

// UnknownKey returns true only if the description says "public key not found", in upper or lower
// case.
func TestUnknownKey(t *testing.T) {
	for description, want := range map[string]bool{
		"Public key not found for kid k": true, "PUBLIC KEY NOT FOUND": true, "": false, "key not found": false,
	} {
		if got := (&Error{Code: "invalid_client", Description: description}).UnknownKey(); got != want {
			t.Errorf("%q: %v", description, got)
		}
	}
}

func TestTransient(t *testing.T) {
	for kind, want := range map[Kind]bool{
		Unreachable: true, TimedOut: true, Unavailable: true, Unusable: true,
		RateLimited: false, NotRedox: false, Overloaded: false,
	} {
		if got := (&UpstreamError{Kind: kind}).Transient(); got != want {
			t.Errorf("kind %d: %v", kind, got)
		}
	}
}

// Text is cut by characters, not by bytes.
func TestQuotable(t *testing.T) {
	for text, want := range map[string]string{
		"ééé": "ééé", "éééé": "ééé…", "  é  ": "é", "": "",
		strings.Repeat("x", 39): "xxx…", strings.Repeat("x", 40): "[re…",
	} {
		if got := Quotable(text, 3); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestUpstreamErrorText(t *testing.T) {
	for want, err := range map[string]UpstreamError{
		"what was found":                                                 {What: "what was found", RetryAfter: time.Second},
		"the token endpoint answered HTTP 503":                           {Status: 503},
		"the token endpoint answered HTTP 503, and asks to wait 1s":      {Status: 503, RetryAfter: time.Second},
		"the token endpoint answered HTTP 302: a redirect":               {Status: 302, What: "a redirect"},
		"the token endpoint answered HTTP 200: x, and asks to wait 1m0s": {Status: 200, What: "x", RetryAfter: time.Minute},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%+v says %q, want %q", err, got, want)
		}
	}
}
