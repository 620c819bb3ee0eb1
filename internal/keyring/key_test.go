package keyring_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// thumbprint computes the test key's RFC 7638 thumbprint from its numbers,
// with the standard library alone.
func thumbprint(t testing.TB) keyring.ID {
	t.Helper()
	key := testKey(t)
	sum := sha256.Sum256(fmt.Appendf(nil, `{"e":%q,"kty":"RSA","n":%q}`, number(big.NewInt(int64(key.E))), number(key.N)))
	return keyring.ID(base64.RawURLEncoding.EncodeToString(sum[:]))
}

func TestGenerate(t *testing.T) {
	k, err := keyring.Generate(2048, noon.In(time.FixedZone("", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	private, err := k.Private()
	if err != nil {
		t.Fatal(err)
	}
	if private.N.BitLen() != 2048 || k.Bits != 2048 || private.E != 65537 {
		t.Errorf("%d bits, stored as %d, exponent %d", private.N.BitLen(), k.Bits, private.E)
	}
	if k.Origin != keyring.Generated || k.CreatedAt != noon {
		t.Errorf("origin %s, created %v", k.Origin, k.CreatedAt)
	}
	other, err := keyring.Generate(2048, noon)
	if err != nil {
		t.Fatal(err)
	}
	if k.ID == other.ID || len(k.ID) != 43 {
		t.Errorf("key IDs %s and %s", k.ID, other.ID)
	}
	if _, err := keyring.Generate(1, noon); err == nil {
		t.Error("a key of 1 bit was generated")
	}
}

func TestLargestKey(t *testing.T) {
	k, _, err := keyring.Parse(file(t, "rsa4096.pem"), "", noon)
	if err != nil || k.Bits != keyring.MaxBits {
		t.Errorf("%v, %v", k, err)
	}
}

// go-jose reads a ring's JWK Set, which has the public half of each key and nothing
// else.
func TestJWKS(t *testing.T) {
	r := &keyring.Ring{}
	for _, k := range []*keyring.Key{imported(t, ""), generated(t)} {
		if _, _, err := r.Add(k, noon); err != nil {
			t.Fatal(err)
		}
	}
	text, err := r.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 2 {
		t.Fatalf("%d keys, want 2", len(set.Keys))
	}
	for i, got := range set.Keys {
		private, err := r.Keys[i].Private()
		if err != nil {
			t.Fatal(err)
		}
		public, isPublic := got.Key.(*rsa.PublicKey)
		if !isPublic || !public.Equal(&private.PublicKey) {
			t.Errorf("key %d is not the public half", i)
		}
		sum, err := got.Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if got.KeyID != base64.RawURLEncoding.EncodeToString(sum) || got.Algorithm != "RS384" || got.Use != "sig" {
			t.Errorf("kid %s, alg %s, use %s", got.KeyID, got.Algorithm, got.Use)
		}
	}
	var members struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatal(err)
	}
	for _, k := range members.Keys {
		var names []string
		for name := range k {
			names = append(names, name)
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{"alg", "e", "kid", "kty", "n", "use"}, names); diff != "" {
			t.Errorf("members (-want +got):\n%s", diff)
		}
	}
	if members.Keys[0]["kid"] != string(thumbprint(t)) {
		t.Errorf("kid %v is not the thumbprint %s", members.Keys[0]["kid"], thumbprint(t))
	}
	if empty, err := (&keyring.Ring{}).JWKS(); err != nil || empty != `{"keys":[]}` {
		t.Errorf("the empty set is %s, %v", empty, err)
	}
}

func generated(t testing.TB) *keyring.Key {
	t.Helper()
	k, err := keyring.Generate(2048, noon)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPublicPEM(t *testing.T) {
	text, err := imported(t, "x").PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	if text != file(t, "public.pem") {
		t.Errorf("OpenSSL writes the same key as\n%s, got\n%s", file(t, "public.pem"), text)
	}
}

// Private's errors quote nothing of a private half that is damaged or no RSA key. PublicPEM returns an
// error if the public numbers are damaged.
func TestDamagedKey(t *testing.T) {
	ec, _ := pem.Decode([]byte(file(t, "ec-pkcs8.pem")))
	if _, err := x509.ParsePKCS8PrivateKey(ec.Bytes); err != nil {
		t.Fatal(err)
	}
	for want, der := range map[string][]byte{"cannot be read": []byte("secret"), "is not an RSA key": ec.Bytes} {
		if _, err := (&keyring.Key{ID: "k", PKCS8: der}).Private(); err == nil ||
			err.Error() != "the stored private key k "+want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	for _, k := range []*keyring.Key{{ID: "k", N: "!", E: "AQAB"}, {ID: "k", N: "", E: ""}} {
		if text, err := k.PublicPEM(); err == nil {
			t.Errorf("a damaged public half became %q", text)
		}
	}
}

func BenchmarkJWKS(b *testing.B) {
	r := ring(b, "1", "2", "3")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.JWKS(); err != nil {
			b.Fatal(err)
		}
	}
}
