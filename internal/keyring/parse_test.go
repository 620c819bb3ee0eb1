package keyring_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func file(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func testKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode([]byte(file(t, "pkcs1.pem")))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// privateJWK returns the test key with the given members changed; nil removes.
func privateJWK(t testing.TB, changes map[string]any) string {
	t.Helper()
	raw, err := jose.JSONWebKey{Key: testKey(t)}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]any{}
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range changes {
		if members[name] = value; value == nil {
			delete(members, name)
		}
	}
	if raw, err = json.Marshal(members); err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// pkcs1 returns an RSA key of these numbers, whether or not they make sense.
func pkcs1(t testing.TB, n *big.Int, e int64) string {
	t.Helper()
	key := testKey(t)
	raw, err := asn1.Marshal(struct {
		Version                      int
		N                            *big.Int
		E                            *big.Int
		D, P, Q, Dp, Dq, Coefficient *big.Int
	}{0, n, big.NewInt(e), key.D, key.Primes[0], key.Primes[1], key.Precomputed.Dp, key.Precomputed.Dq, key.Precomputed.Qinv})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: raw}))
}

func number(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }

func TestParse(t *testing.T) {
	pkcs8 := file(t, "pkcs8.pem")
	for name, test := range map[string]struct {
		text   string
		id     keyring.ID
		wantID keyring.ID // the thumbprint when empty
	}{
		"PKCS#8":                     {text: pkcs8},
		"PKCS#1":                     {text: file(t, "pkcs1.pem")},
		"blanks around":              {text: "\n\t  " + pkcs8 + "\r\n "},
		"Windows line ends":          {text: strings.ReplaceAll(pkcs8, "\n", "\r\n")},
		"escaped line ends":          {text: strings.ReplaceAll(pkcs8, "\n", `\n`)},
		"escaped Windows line ends":  {text: strings.ReplaceAll(pkcs8, "\n", `\r\n`)},
		"escaped, with a line end":   {text: strings.ReplaceAll(pkcs8, "\n", `\n`) + "\n\n"},
		"half escaped":               {text: strings.Replace(pkcs8, "\n", `\n`, 3)},
		"text before the block":      {text: "Bag Attributes: none\n" + pkcs8},
		"with an ID":                 {text: pkcs8, id: "mine", wantID: "mine"},
		"JWK":                        {text: privateJWK(t, nil)},
		"JWK with blanks around":     {text: " \n" + privateJWK(t, nil) + "\n"},
		"JWK with kid":               {text: privateJWK(t, map[string]any{"kid": "from-jwk"}), wantID: "from-jwk"},
		"JWK with kid and the same":  {text: privateJWK(t, map[string]any{"kid": "same"}), id: "same", wantID: "same"},
		"JWK without kid, with ID":   {text: privateJWK(t, nil), id: "given", wantID: "given"},
		"JWK with alg and use":       {text: privateJWK(t, map[string]any{"alg": "RS384", "use": "sig"})},
		"JWK with members it lacks":  {text: privateJWK(t, map[string]any{"key_ops": []string{"sign"}, "ext": true})},
		"JWK without the CRT values": {text: privateJWK(t, map[string]any{"dp": nil, "dq": nil, "qi": nil})},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := keyring.Parse(test.text, test.id, noon)
			if err != nil {
				t.Fatal(err)
			}
			want := test.wantID
			if want == "" {
				want = thumbprint(t)
			}
			if k.ID != want {
				t.Errorf("key ID %q, want %q", k.ID, want)
			}
			private, err := k.Private()
			if err != nil {
				t.Fatal(err)
			}
			if !private.Equal(testKey(t)) {
				t.Error("another key was read than was given")
			}
			if k.Origin != keyring.Imported || !k.CreatedAt.Equal(noon) || k.Bits != 2048 || k.State != "" {
				t.Errorf("origin %q, created %v, %d bits, state %q", k.Origin, k.CreatedAt, k.Bits, k.State)
			}
		})
	}
}

type refusal struct{ text, want string }

func TestParseRefusesPEM(t *testing.T) {
	key := testKey(t)
	pkcs8 := file(t, "pkcs8.pem")
	refuses(t, map[string]refusal{
		"nothing":                   {"", "it is empty"},
		"blanks":                    {" \n\t", "it is empty"},
		"prose":                     {"my private key", "neither PEM nor JSON"},
		"base64 without a frame":    {strings.Join(strings.Split(pkcs8, "\n")[1:5], ""), "neither PEM nor JSON"},
		"a path":                    {"/etc/redox/key.pem", "did you mean private_key=@/etc/redox/key.pem?"},
		"a JWK's path":              {"key.jwk", "did you mean private_key=@key.jwk?"},
		"a path of 128":             {strings.Repeat("a", 124) + ".pem", "did you mean private_key=@aaa"},
		"a path of 129":             {strings.Repeat("a", 125) + ".pem", "neither PEM nor JSON"},
		"a path with a blank":       {"my key.pem", "neither PEM nor JSON"},
		"public key":                {file(t, "public.pem"), "it is a public key"},
		"PKCS#1 public key":         {file(t, "public-pkcs1.pem"), "it is a public key"},
		"certificate":               {file(t, "certificate.pem"), "it is a certificate or part of one"},
		"request":                   {file(t, "request.pem"), "it is a certificate or part of one"},
		"EC, SEC 1":                 {file(t, "ec-sec1.pem"), "it is an EC private key"},
		"EC, PKCS#8":                {file(t, "ec-pkcs8.pem"), "another kind"},
		"Ed25519":                   {file(t, "ed25519.pem"), "another kind"},
		"RSA-PSS":                   {file(t, "rsa-pss.pem"), "another kind (such as RSA-PSS)"},
		"a key after a damaged one": {strings.Replace(pkcs8, "-----END", "----END", 1) + file(t, "rsa3072.pem"), "more than one PEM block"},
		"OpenSSH":                   {file(t, "openssh.pem"), "OpenSSH's own format"},
		"encrypted PKCS#8":          {file(t, "encrypted-pkcs8.pem"), "encrypted with a passphrase"},
		"encrypted PKCS#1":          {file(t, "encrypted-pkcs1.pem"), "encrypted with a passphrase"},
		"1024 bits":                 {file(t, "rsa1024.pem"), "1024 bits, and a key needs at least 2048"},
		"8192 bits":                 {file(t, "rsa8192.pem"), "8192 bits, and a key may have at most 4096"},
		"three primes":              {file(t, "three-primes-pkcs1.pem"), "3 primes"},
		"three primes, PKCS#8":      {file(t, "three-primes.pem"), "3 primes"},
		"two blocks":                {pkcs8 + pkcs8, "more than one PEM block"},
		"with its certificate":      {pkcs8 + file(t, "certificate.pem"), "more than one PEM block"},
		"text after the block":      {pkcs8 + "and so on", "text after the PEM block"},
		"unknown block":             {"-----BEGIN X-----\nAAAA\n-----END X-----\n", "unknown type"},
		"half a block":              {pkcs8[:len(pkcs8)/2], "the PEM block is damaged"},
		"no line ends":              {strings.ReplaceAll(pkcs8, "\n", ""), "the PEM block is damaged"},
		"damaged PKCS#8":            {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a valid PKCS#8 RSA key"},
		"damaged PKCS#1":            {"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "not a valid PKCS#1 RSA key"},
		"even exponent":             {pkcs1(t, key.N, 65536), "exponent is even, too small or too large"},
		"exponent 1":                {pkcs1(t, key.N, 1), "exponent is even, too small or too large"},
		"huge exponent":             {pkcs1(t, key.N, 1<<40+1), "exponent is even, too small or too large"},
		"numbers of two keys":       {pkcs1(t, new(big.Int).Add(key.N, big.NewInt(2)), 65537), "not a valid PKCS#1 RSA key"},
	})
}

func TestParseRefusesJWK(t *testing.T) {
	key := testKey(t)
	refuses(t, map[string]refusal{
		"JWK, damaged":        {`{"kty":"RSA"`, "it is not a JWK"},
		"JWK, array":          {`{"kty":["RSA"]}`, "it is not a JWK"},
		"JWK, kid a number":   {privateJWK(t, map[string]any{"kid": 7}), "it is not a JWK"},
		"JWK, public":         {privateJWK(t, map[string]any{"d": nil}), "it is a public JWK"},
		"JWK Set":             {`{"keys":[` + privateJWK(t, nil) + `]}`, "it is a JWK Set"},
		"JWK, EC":             {`{"kty":"EC","crv":"P-256"}`, "its kty is not RSA"},
		"JWK, symmetric":      {`{"kty":"oct","k":"AAAA"}`, "its kty is not RSA"},
		"JWK, RS256":          {privateJWK(t, map[string]any{"alg": "RS256"}), "its alg is not RS384"},
		"JWK, for encryption": {privateJWK(t, map[string]any{"use": "enc"}), "its use is not sig"},
		"JWK, bad kid":        {privateJWK(t, map[string]any{"kid": "a/b"}), "its kid cannot be used"},
		"JWK, empty kid":      {privateJWK(t, map[string]any{"kid": ""}), "its kid cannot be used"},
		"JWK, reserved kid":   {privateJWK(t, map[string]any{"kid": "generate"}), "its kid cannot be used"},
		"JWK, no primes":      {privateJWK(t, map[string]any{"p": nil, "q": nil}), "without its primes p and q"},
		"JWK, no q":           {privateJWK(t, map[string]any{"q": nil}), "without its primes p and q"},
		"JWK, wrong d":        {privateJWK(t, map[string]any{"d": number(key.N)}), "not a valid JWK RSA key"},
		"JWK, damaged n":      {privateJWK(t, map[string]any{"n": "!"}), "not a valid JWK RSA key"},
		"JWK, even exponent":  {privateJWK(t, map[string]any{"e": number(big.NewInt(65536))}), "exponent is even, too small or too large"},
	})
}

func refuses(t *testing.T, tests map[string]refusal) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			k, err := keyring.Parse(test.text, "", noon)
			if k != nil {
				t.Error("a key was read")
			}
			var rule keyring.Rule
			if !errors.As(err, &rule) {
				t.Fatalf("error %v, want a Rule", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want it to say %q", err, test.want)
			}
			quotesNothing(t, test.text, err)
		})
	}
}

// quotesNothing fails if the error repeats any 16 characters of the base64 in text.
func quotesNothing(t *testing.T, text string, err error) {
	t.Helper()
	if err == nil || strings.Contains(err.Error(), "did you mean private_key=@") {
		return // narrow enough that it cannot be a key: see looksLikePath
	}
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \r\n\t\"\\-{}[]:,", r) }) {
		for i := 0; i+16 <= len(word); i++ {
			if strings.Contains(err.Error(), word[i:i+16]) {
				t.Fatalf("the error quotes the input: %q", err)
			}
		}
	}
}

func TestParseRefusesAnotherKid(t *testing.T) {
	_, err := keyring.Parse(privateJWK(t, map[string]any{"kid": "one"}), "two", noon)
	if err == nil || !strings.Contains(err.Error(), "its kid differs from the field key_id") {
		t.Errorf("error %v", err)
	}
}

func TestParseID(t *testing.T) {
	for _, good := range []string{"a", "-", "a.b", "A_9:@~=+-", "...", strings.Repeat("x", 128), "generates", string(thumbprint(t))} {
		if id, err := keyring.ParseID(good); err != nil || string(id) != good {
			t.Errorf("ParseID(%q) = %q, %v", good, id, err)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "generate", "import", "rotate", "a b", "a/b", "a%2Fb", "a\nb", "a\n", "ключ", "a\x00", "а", // the last is Cyrillic
		strings.Repeat("x", 129), "a?b", "a#b", "a*b", `a"b`, "<a>",
	} {
		if id, err := keyring.ParseID(bad); err == nil || id != "" {
			t.Errorf("ParseID(%q) = %q, %v: want an error", bad, id, err)
		}
	}
}

// FuzzParse: nothing panics, every refusal is a Rule that quotes nothing, and
// what is taken signs, and is the same after a round trip.
func FuzzParse(f *testing.F) {
	for _, name := range []string{
		"pkcs8.pem", "pkcs1.pem", "public.pem", "ec-pkcs8.pem", "ec-sec1.pem", "encrypted-pkcs1.pem", "three-primes-pkcs1.pem", "rsa1024.pem",
	} {
		f.Add(file(f, name), "")
	}
	f.Add(privateJWK(f, nil), "")
	f.Add(privateJWK(f, map[string]any{"kid": "k"}), "k")
	f.Add(`{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB","p":"AQAB","q":"AQAB"}`, "x")
	f.Fuzz(func(t *testing.T, text, id string) {
		k, err := keyring.Parse(text, keyring.ID(id), noon)
		if err != nil {
			var rule keyring.Rule
			if !errors.As(err, &rule) {
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
		if private.E < 3 || private.E%2 == 0 || int64(private.E) > 1<<31-1 || len(private.Primes) != 2 {
			t.Fatalf("exponent %d, %d primes", private.E, len(private.Primes))
		}
		if _, err := k.PublicPEM(); err != nil {
			t.Fatal(err)
		}
	})
}
