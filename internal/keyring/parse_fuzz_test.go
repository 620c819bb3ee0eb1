package keyring_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// quotesNothing fails the test if the error repeats 17 characters of a word of text. Up to 16 are
// allowed, because an error may quote alg, use or kty. It does not check errors that name a file or
// a member.
func quotesNothing(t *testing.T, text string, err error) {
	t.Helper()
	if strings.Contains(err.Error(), "did you mean private_key=@") || strings.Contains(err.Error(), "may be meant") {
		return // the names of a file and of a member are shown
	}
	for _, word := range strings.FieldsFunc(text,
		func(r rune) bool { return strings.ContainsRune(" \r\n\t\"\\-{}[]:,", r) }) {
		for i := 0; i+17 <= len(word); i++ {
			if strings.Contains(err.Error(), word[i:i+17]) {
				t.Fatalf("the error quotes the input: %q", err)
			}
		}
	}
}

// FuzzParse parses any text. Parse must not panic, and every error must be a Rule that passes
// quotesNothing. The private half of an accepted key must be readable and valid, with two
// primes and an exponent that the engine allows.
func FuzzParse(f *testing.F) {
	for _, name := range []string{
		"pkcs8.pem", "pkcs1.pem", "public.pem", "ec-pkcs8.pem", "ec-sec1.pem", "encrypted-pkcs1.pem",
		"three-primes-pkcs1.pem", "rsa1024.pem",
	} {
		f.Add(file(f, name), "")
	}
	for i := range 200 {
		if raw, err := os.ReadFile(fmt.Sprintf("testdata/cases/%03d", i)); err == nil {
			f.Add(string(raw), "")
		}
	}
	f.Add(privateJWK(f, nil), "")
	f.Add(privateJWK(f, map[string]any{"kid": "k"}), "k")
	f.Add(`{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB","p":"AQAB","q":"AQAB"}`, "x")
	f.Fuzz(func(t *testing.T, text, id string) {
		k, _, err := keyring.Parse(text, keyring.ID(id), noon)
		if err != nil {
			if !isRule(err) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			quotesNothing(t, text, err)
			return
		}
		private, err := k.Private()
		if err != nil {
			t.Fatal(err)
		}
		if err := private.Validate(); err != nil {
			t.Fatal(err)
		}
		if private.E < 65537 || private.E%2 == 0 || int64(private.E) > 1<<31-1 || len(private.Primes) != 2 {
			t.Fatalf("exponent %d, %d primes", private.E, len(private.Primes))
		}
		if _, err := k.PublicPEM(); err != nil {
			t.Fatal(err)
		}
	})
}
