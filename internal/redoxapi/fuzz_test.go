package redoxapi

import (
	"strings"
	"testing"
	"time"
)

// FuzzTokenAnswer: each answer of a server gives either a token that can be sent in a header, or an
// error of one line that is not too long.
func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, []byte(`{"access_token":"t","token_type":"Bearer","expires_in":300,"scope":"s"}`))
	f.Add(200, []byte(`{"access_token":"t","expires_in":"1e400"}`))
	f.Add(200, []byte(`{"error":"e","error_description":"d"}`))
	f.Add(400, []byte(`{"error":"e","error_description":"eyJhbGciOiJSUzM4NCJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl",`+
		`"error_uri":"https://docs.redoxengine.com/x"}`))
	f.Add(400, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		got, err := parseAnswer(status, raw, Skew{})
		if (got == nil) == (err == nil) {
			t.Fatalf("%v and %v", got, err)
		}
		if got != nil {
			if got.Value == "" || strings.ContainsAny(got.Value, " \r\n\x00") || got.Lifetime < 0 ||
				got.Lifetime > 24*time.Hour {
				t.Fatalf("a token of %q, living %v", got.Value, got.Lifetime)
			}
			return
		}
		if text := err.Error(); len(text) > 2500 || strings.ContainsAny(text, "\r\n\x00") {
			t.Fatalf("error %q", text)
		}
	})
}

// FuzzAPIKey: each answer of the Platform API gives an API key with a list of keys or a JWKS URL,
// or else an error that is not too long.
func FuzzAPIKey(f *testing.F) {
	f.Add([]byte(`{"payload":{"apikey":{"id":"c","jwksURL":"https://redox.example",` +
		`"jwkSet":{"keys":[{"kid":"k"},null,"x"]}}}}`))
	f.Add([]byte(`{"payload":{"apikey":{"id":"c","jwkSet":null}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, err := parseAPIKey(raw, "c")
		switch {
		case (found == nil) == (err == nil):
			t.Fatalf("%v and %v", found, err)
		case found != nil && found.Keys == nil && found.JWKSURL == "":
			t.Fatal("an API key without a list of keys, which an update would replace")
		case err != nil && len(err.Error()) > 300:
			t.Fatalf("error %q", err)
		}
	})
}
