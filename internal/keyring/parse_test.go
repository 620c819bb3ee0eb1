package keyring_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"html"
	"net/url"
	"os"
	"strconv"
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

// privateJWK returns the test key as a JWK with the given members changed. A member
// that is nil is removed.
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

// TestParse tests what testdata/cases does not: other wrappings of a key, several wrappings at once,
// unusual members of a JWK, and the argument id.
func TestParse(t *testing.T) {
	pkcs8, certificate := file(t, "pkcs8.pem"), file(t, "certificate.pem")
	named := privateJWK(t, map[string]any{"kid": "from-jwk"})
	indented := strings.NewReplacer(`,"`, ",\n  \"", `{"`, "{\n  \"").Replace(named)
	lines := func(before, after string) string {
		return before + strings.ReplaceAll(strings.TrimSpace(pkcs8), "\n", after+"\n"+before) + after
	}
	quoted := func(text string) string { return strconv.Quote(text) }
	for name, test := range map[string]struct {
		text   string
		id     keyring.ID
		wantID keyring.ID // the thumbprint when empty
	}{
		"with an ID":                 {text: pkcs8, id: "mine", wantID: "mine"},
		"JWK without kid, with ID":   {text: privateJWK(t, nil), id: "given", wantID: "given"},
		"JWK with kid and the same":  {text: named, id: "from-jwk", wantID: "from-jwk"},
		"JWK in base64":              {text: base(named), wantID: "from-jwk"},
		"JWK assigned and escaped":   {text: "export REDOX_JWK=" + quoted(named), wantID: "from-jwk"},
		"JWK assigned in base64":     {text: "REDOX_JWK='" + base(named) + "'", wantID: "from-jwk"},
		"JWK escaped twice":          {text: quoted(quoted(indented)), wantID: "from-jwk"},
		"JWK in YAML":                {text: "jwk: |\n" + strings.ReplaceAll(indented, "\n", "\n    "), wantID: "from-jwk"},
		"JWK in a fence":             {text: "```json\n" + indented + "\n```\n", wantID: "from-jwk"},
		"JWK in HTML":                {text: "<pre><code>" + html.EscapeString(named) + "</code></pre>", wantID: "from-jwk"},
		"JWK of a form":              {text: url.QueryEscape(indented), wantID: "from-jwk"},
		"JWK in a program":           {text: "const key = " + indented + ";", wantID: "from-jwk"},
		"JWK and a prompt":           {text: named + "\nme@host:~$ ", wantID: "from-jwk"},
		"JWK introduced":             {text: "[me@host ~]$ cat key.json\n" + named, wantID: "from-jwk"},
		"JWK, key_ops null":          {text: privateJWK(t, map[string]any{"key_ops": nil, "oth": []any{}})},
		"JWK, only q":                {text: privateJWK(t, map[string]any{"p": nil, "d": nil})},
		"array of lines":             {text: "[" + strings.TrimSuffix(lines(`"`, `",`), ",") + "]"},
		"text of several literals":   {text: lines(`  "`, `\n" +`)},
		"escaped line ends":          {text: lines("", `\r\n`)},
		"ended by backslashes":       {text: lines("", ` \`)},
		"quoted in a mail":           {text: lines("> ", "")},
		"in comments":                {text: lines("// ", "")},
		"in a form":                  {text: url.QueryEscape(pkcs8)},
		"in a URL":                   {text: url.PathEscape(pkcs8)},
		"in a mail's encoding":       {text: strings.ReplaceAll(pkcs8, "=", "=3D")},
		"in HTML with breaks":        {text: lines("", "<br>")},
		"lines became commas":        {text: strings.ReplaceAll(pkcs8, "\n", ",")},
		"bytes of Python":            {text: "b'" + strings.ReplaceAll(pkcs8, "\n", `\n`) + "'"},
		"base64url without padding":  {text: base64.RawURLEncoding.EncodeToString([]byte(pkcs8))},
		"base64 of base64":           {text: base(base(pkcs8))},
		"base64 in YAML":             {text: "tls.key: " + base(pkcs8)},
		"bundle that lost its lines": {text: strings.ReplaceAll(certificate+pkcs8+certificate, "\n", "")},
		"under another label":        {text: strings.ReplaceAll(pkcs8, "PRIVATE KEY", "CERTIFICATE")},
		"with a header":              {text: strings.Replace(file(t, "pkcs1.pem"), "\n", "\nComment: my key\n\n", 1)},
		"a dash too many":            {text: strings.ReplaceAll(pkcs8, "-----", "------")},
		"prose that ends a key":      {text: "# the key - end of 2024\n- end of key\n" + pkcs8},
		"with an SSH public key":     {text: file(t, "cases/073") + pkcs8},
		"without padding":            {text: strings.ReplaceAll(pkcs8, "=", "")},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, err := keyring.Parse(test.text, test.id, noon)
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
			if !private.PublicKey.Equal(&testKey(t).PublicKey) {
				t.Error("another key was read than was given")
			}
			if k.Origin != keyring.Imported || !k.CreatedAt.Equal(noon) || k.Bits != 2048 || k.State != "" {
				t.Errorf("origin %q, created %v, %d bits, state %q", k.Origin, k.CreatedAt, k.Bits, k.State)
			}
		})
	}
}

func base(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// within returns the base64 between the BEGIN and the END line, without line ends.
func within(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[1:len(lines)-1], "")
}

func TestParseRefuses(t *testing.T) {
	pkcs8, named := file(t, "pkcs8.pem"), privateJWK(t, map[string]any{"kid": "k"})
	utf16 := strings.Join(strings.Split(pkcs8, ""), "\x00")
	member := func(name string, value any) string { return privateJWK(t, map[string]any{name: value}) }
	block := func(label, body string) string {
		return "-----BEGIN " + label + "-----\n" + body + "\n-----END " + label + "-----\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"too long":                  {strings.Repeat(" ", 256<<10+1), "more than 256 KiB"},
		"prose":                     {"my private key", "neither PEM nor JSON"},
		"prose with accents":        {"x" + strings.Repeat("é", 200), "neither PEM nor JSON"},
		"UTF-16, big-endian":        {utf16, "UTF-16"},
		"UTF-16 in base64":          {base(utf16), "UTF-16"},
		"base64 in four layers":     {base(base(base(base(pkcs8)))), "neither PEM nor JSON"},
		"no length, as in BER":      {block("PRIVATE KEY", "MIAAAA=="), "not a valid PKCS#8 or PKCS#1 RSA key"},
		"JWK, kty null":             {`{"kty":null,"n":"AQAB"}`, `the JWK of an RSA key has "kty":"RSA"`},
		"base64, cut":               {within(pkcs8)[:800], "cut short: 600 of its"},
		"base64 of a certificate":   {within(file(t, "certificate.pem")), "certificate"},
		"base64 of OpenSSH's":       {within(file(t, "openssh.pem")), "OpenSSH's own format"},
		"base64 of a keystore":      {base(file(t, "cases/077")), "it is base64; decoded, it is a Java keystore"},
		"base64 of SSH":             {strings.Fields(file(t, "cases/073"))[1], "SSH public key"},
		"binary":                    {"\x1f\x8b\x08\x00\x00abc\xff\xfe", "binary, in no format"},
		"JWE":                       {"eyJhbGciOiJkaXIifQ..abc.def.ghi", "encrypted (a JWE)"},
		"PKCS#1 public key":         {file(t, "public-pkcs1.pem"), "it is a public key"},
		"public key, another label": {strings.ReplaceAll(file(t, "public.pem"), "PUBLIC", "PRIVATE"), "it is a public key"},
		"request":                   {file(t, "request.pem"), "it is a certificate, a certificate request or"},
		"EC, PKCS#8":                {file(t, "ec-pkcs8.pem"), "EC private key"},
		"PGP":                       {block("PGP PRIVATE KEY BLOCK", "lQ==\n=abcd"), "a key of PGP"},
		"8192 bits":                 {file(t, "rsa8192.pem"), "8192 bits, and a key may have at most 4096"},
		"three primes, PKCS#1":      {file(t, "three-primes-pkcs1.pem"), "3 primes"},
		"a key and one encrypted":   {pkcs8 + file(t, "encrypted-pkcs8.pem"), "two private keys"},
		"three keys":                {pkcs8 + pkcs8 + file(t, "pkcs1.pem"), "3 private keys"},
		"a key after a damaged one": {strings.Replace(pkcs8, "-----END", "----END", 1) + file(t, "rsa3072.pem"),
			"dashes of the END line"},
		"a key after half a one":    {pkcs8[:800] + "\n" + file(t, "rsa3072.pem"), "END line is missing"},
		"no dashes":                 {strings.ReplaceAll(pkcs8, "-----", ""), "dashes of the BEGIN line"},
		"a BEGIN line alone":        {"-----BEGIN nothing", "its BEGIN line is damaged"},
		"unknown block":             {block("X", "AAAA"), "unknown type"},
		"a placeholder":             {block("PRIVATE KEY", "..."), "there is no base64"},
		"damaged DER":               {block("PRIVATE KEY", "AAAA"), "not a valid PKCS#8 or PKCS#1 RSA key"},
		"a length of eight octets":  {block("PRIVATE KEY", "MIgAAAAAAAAA//8="), "not a valid PKCS#8 or PKCS#1 RSA key"},
		"an algorithm that is none": {block("PRIVATE KEY", "MAgCAQAwAAQBAA=="), "not a valid PKCS#8 RSA key"},
		"damaged inside PKCS#8":     {block("PRIVATE KEY", "MBICAQAwCgYIKoZIhvcNAQEEAQA="), "another kind"},
		"JWK, cut":                  {named[:300], "the JSON is cut short"},
		"JWK, damaged in line 2":    {"{\n" + strings.Replace(named[1:], ":", "", 1), "the JSON is damaged at line 2"},
		"JWK, then a comment":       {named + "\n// redox", "after the JSON, at line 2, column 1"},
		"JWK, array":                {`{"kty":["RSA"]}`, "its kty has to be a string"},
		"JWK, long kty":             {`{"kty":"eyJhbGciOiJSUzM4NCJ9"}`, "its kty is not RSA: "},
		"JWK, long alg":             {member("alg", "eyJhbGciOiJSUzM4NCJ9"), "its alg is another, and"},
		"JWK, alg a number":         {member("alg", 7), "its alg has to be a string"},
		"JWK, use a number":         {member("use", 7), "its use has to be a string"},
		"JWK, key_ops a string":     {member("key_ops", "sign"), "key_ops has to be a list"},
		"JWK, no key_ops":           {member("key_ops", []string{}), "key_ops has no sign"},
		"JWK, reserved kid":         {member("kid", "generate"), "its kid cannot be used"},
		"JWK, kid with a tab":       {member("kid", "a\tb"), "the character U+0009"},
		"JWK, kid in Cyrillic":      {member("kid", "\u0430"), "the character U+0430"},
		"JWK, no n":                 {member("n", nil), "it has no n"},
		"JWK, damaged n":            {member("n", "!"), "its member n is not base64url"},
		"JWK, d a number":           {member("d", 7), "its member d has to be a string"},
		"JWK, decimal q":            {member("q", strings.Repeat("7", 309)), "its member q is in hexadecimal or decimal"},
		"JWK, negative e":           {member("e", -65537), "its member e has to be a string"},
		"JWK, wrong d": {privateJWK(t, map[string]any{"d": "AQAB", "p": nil, "q": nil}),
			"its d does not belong to its n and e"},
		"set of none":        {`{"keys":[]}`, "has no private key"},
		"set that is none":   {`{"keys":7}`, "no kty, so it is not a JWK"},
		"array of something": {`[{"a":1}]`, "no kty, so it is not a JWK"},
		"Postman environment": {`{"values":[{"key":"id","value":"x"},{"key":"redox_key","value":` +
			strconv.Quote(pkcs8) + `}]}`, "its variable redox_key may be meant"},
		"JWK in an environment": {`{"values":[{"key":"jwk","value":` + strconv.Quote(named) + `}]}`,
			"its variable jwk may be meant"},
		"Kubernetes Secret": {`{"kind":"Secret","data":{"tls.key":"` + base(pkcs8) + `"}}`,
			"its member tls.key may be meant"},
		"a public JWK beside": {`{"a":{"kty":"RSA","n":"AQAB"},"b":` + named + `}`, "its member b may be meant"},
		"a member not to be shown": {`{"` + strings.Repeat("a", 33) + `":` + strconv.Quote(pkcs8) + `}`,
			"one of its members holds a key"},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, err := keyring.Parse(test.text, "", noon)
			if k != nil || !isRule(err) {
				t.Fatalf("key %v, error %v, want a Rule", k, err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want it to say %q", err, test.want)
			}
			quotesNothing(t, test.text, err)
		})
	}
}

func TestParseRefusesAnotherKid(t *testing.T) {
	_, _, err := keyring.Parse(privateJWK(t, map[string]any{"kid": "one"}), "two", noon)
	if err == nil || !strings.Contains(err.Error(), "its kid differs from the field key_id") {
		t.Errorf("error %v", err)
	}
}

func TestParseID(t *testing.T) {
	for _, good := range []string{"a", "-", "a.b", "A_9:@~=+-", "...", strings.Repeat("x", 128), "generates",
		string(thumbprint(t))} {
		if id, err := keyring.ParseID(good); err != nil || string(id) != good {
			t.Errorf("ParseID(%q) = %q, %v", good, id, err)
		}
	}
	for _, bad := range []string{
		// The last one of the next line is a Cyrillic letter.
		"", ".", "..", "generate", "import", "rotate", "a b", "a/b", "a%2Fb", "a\nb", "a\n", "ключ", "a\x00", "а",
		strings.Repeat("x", 129), "a?b", "a#b", "a*b", `a"b`, "<a>",
	} {
		if id, err := keyring.ParseID(bad); err == nil || id != "" {
			t.Errorf("ParseID(%q) = %q, %v: want an error", bad, id, err)
		}
	}
}
