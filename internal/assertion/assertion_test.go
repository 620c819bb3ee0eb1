package assertion_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"flag"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

var update = flag.Bool("update", false, "write the golden file anew")

func testKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	raw, err := os.ReadFile("../keyring/testdata/pkcs8.pem")
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := keyring.Parse(string(raw), "", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	private, err := k.Private()
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func claims() assertion.Claims {
	return assertion.Claims{
		ClientID: "e3b0c442-98fc-4c14-9afb-f4c8996fb924",
		KeyID:    "key-1",
		Audience: "https://api.redoxengine.com/v2/auth/token",
		ID:       "ZXEQYMBNHPLK3TVC7DAWGRUFSO",
		IssuedAt: time.Date(2026, 11, 20, 12, 30, 15, 999_999_999, time.FixedZone("", 3600)),
		TTL:      5 * time.Minute,
	}
}

// Sign returns the assertion in the golden file. RS384 is deterministic, so the test can
// compare the whole text.
func TestGolden(t *testing.T) {
	const file = "testdata/assertion.jws"
	got, err := assertion.Sign(testKey(t), claims())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.TrimSpace(string(want)) {
		t.Errorf("the assertion differs from %s; if that is meant, run the test with -update", file)
	}
}

// This test verifies the signature and the claims without a JWT library.
func TestVerifiesWithTheStandardLibrary(t *testing.T) {
	key := testKey(t)
	c := claims()
	c.Scope = "system/Patient.read system/*.write"
	compact, err := assertion.Sign(key, c)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		t.Fatalf("the assertion has %d parts, want 3", len(parts))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha512.Sum384([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA384, digest[:], signature); err != nil {
		t.Errorf("the signature is not RSASSA-PKCS1-v1_5 with SHA-384: %v", err)
	}
	for i, want := range []map[string]any{
		{"alg": "RS384", "typ": "JWT", "kid": "key-1"},
		{
			"iss": c.ClientID, "sub": c.ClientID, "aud": c.Audience, "jti": c.ID, "scope": c.Scope,
			"iat": 1795174215.0, "exp": 1795174515.0,
		},
	} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("part %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestVerifiesWithGoJose(t *testing.T) {
	key := testKey(t)
	compact, err := assertion.Sign(key, claims())
	if err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.RS384})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jws.Verify(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"aud", "exp", "iat", "iss", "jti", "sub"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("claims without a scope (-want +got):\n%s", diff)
	}
}

func TestLifetimeIsWholeSeconds(t *testing.T) {
	for name, test := range map[string]struct {
		ttl  time.Duration
		life float64
	}{
		"a whole number": {30 * time.Second, 30},
		"a fraction":     {30*time.Second + 900*time.Millisecond, 30},
	} {
		t.Run(name, func(t *testing.T) {
			c := claims()
			c.TTL = test.ttl
			compact, err := assertion.Sign(testKey(t), c)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[1])
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Iat, Exp float64 }
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if got.Exp-got.Iat != test.life {
				t.Errorf("the assertion lives %v s, want %v", got.Exp-got.Iat, test.life)
			}
		})
	}
}

// With a key that cannot sign, Sign returns an error. The error names the key's ID, and
// quotes neither the modulus nor the private exponent.
func TestKeyThatCannotSign(t *testing.T) {
	tooSmall := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: testKey(t).Primes[0], E: 65537}, D: testKey(t).D}
	_, err := assertion.Sign(tooSmall, claims())
	if err == nil {
		t.Fatal("a broken key signed")
	}
	if !strings.Contains(err.Error(), "key-1") {
		t.Errorf("the error does not name the key: %v", err)
	}
	for _, secret := range []*big.Int{tooSmall.D, tooSmall.N} { // N is a prime of the test key
		for _, form := range []string{secret.String(), secret.Text(16), base64.StdEncoding.EncodeToString(secret.Bytes()),
			base64.RawURLEncoding.EncodeToString(secret.Bytes())} {
			if strings.Contains(err.Error(), form) {
				t.Error("the error quotes the key")
			}
		}
	}
}

func TestIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := assertion.NewID()
		if len(id) < 26 { // base32 of 128 bits
			t.Fatalf("%q holds fewer than 128 bits", id)
		}
		seen[id] = true
	}
	if n := len(seen); n != 1000 {
		t.Errorf("1000 IDs, %d different", n)
	}
}

func BenchmarkSign(b *testing.B) {
	key := testKey(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := assertion.Sign(key, claims()); err != nil {
			b.Fatal(err)
		}
	}
}
