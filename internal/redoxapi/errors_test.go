package redoxapi

import (
	"strings"
	"testing"
)

// Only the description tells that Redox knows no such key.
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
		Unreachable: true, TimedOut: true, Unavailable: true, Unusable: true, RateLimited: false, NotRedox: false, Overloaded: false,
	} {
		if got := (&UpstreamError{Kind: kind}).Transient(); got != want {
			t.Errorf("kind %d: %v", kind, got)
		}
	}
}

// Text is cut after so many characters, not bytes.
func TestQuotable(t *testing.T) {
	for text, want := range map[string]string{
		"ééé": "ééé", "éééé": "ééé…", "  é  ": "é", "": "", strings.Repeat("x", 39): "xxx…", strings.Repeat("x", 40): "[re…",
	} {
		if got := Quotable(text, 3); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
