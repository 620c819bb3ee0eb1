package redox

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestConfig(t *testing.T) {
	m := newMount(t)
	before := snapshot(t, m.storage)
	m.fails(404, logical.ReadOperation, "config", nil)
	m.fails(404, logical.PatchOperation, "config", map[string]any{"client_id": "x"},
		"there is no config to patch: write redox/config")
	m.fails(400, logical.UpdateOperation, "config", map[string]any{"region": "ca"}, "client_id is required")
	m.unchanged(before)

	want := map[string]any{
		"client_id": clientID, "region": "us", "token_url": "https://api.redoxengine.com/v2/auth/token",
		"audience": "https://api.redoxengine.com/v2/auth/token",
		"scope":    "", "assertion_ttl": 300.0, "clock_leeway": 5.0, "request_timeout": 10.0, "max_retries": 2.0,
		"ca_pem":      "",
		"public_jwks": false, "reuse_tokens": false, "rotation_period": 0.0, "publish_window": 900.0, "retire_after": 86400.0,
		"platform_client": "", "manages": []any{},
	}
	if diff := cmp.Diff(want, m.write("config", map[string]any{"client_id": " " + clientID + "\n"})); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, m.read("config")); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

// A write and a patch change the fields that they name and keep the others. null restores a default. So
// does an empty string in audience and ca_pem.
func TestConfigMerges(t *testing.T) {
	all := map[string]any{
		"client_id": "c", "region": "ca", "token_url": "https://redox.example/token",
		"audience": "https://redox.example/aud", "scope": "a b",
		"assertion_ttl": "1m", "clock_leeway": 0, "request_timeout": "30s", "max_retries": 5, "ca_pem": testdata(t,
			"certificate.pem"),
		"public_jwks": "true", "reuse_tokens": "true", "rotation_period": "2160h", "publish_window": "1h",
		"retire_after":    "48h",
		"platform_client": "", "manages": "acme=id-1, default=i=d,",
	}
	stored := map[string]any{
		"client_id": "c", "region": "ca", "token_url": "https://redox.example/token",
		"audience": "https://redox.example/aud", "scope": "a b",
		"assertion_ttl": 60.0, "clock_leeway": 0.0, "request_timeout": 30.0, "max_retries": 5.0, "ca_pem": testdata(t,
			"certificate.pem"),
		"public_jwks": true, "reuse_tokens": true, "rotation_period": 7776000.0, "publish_window": 3600.0,
		"retire_after":    172800.0,
		"platform_client": "", "manages": []any{"acme=id-1", "default=i=d"},
	}
	for field, test := range map[string]struct{ value, want any }{
		"client_id":       {"d", "d"},
		"region":          {nil, "us"},
		"token_url":       {"https://redox.example/other", "https://redox.example/other"},
		"audience":        {"", "https://redox.example/token"},
		"scope":           {nil, ""},
		"assertion_ttl":   {nil, 300.0},
		"clock_leeway":    {nil, 5.0},
		"request_timeout": {"20", 20.0},
		"max_retries":     {nil, 2.0},
		"ca_pem":          {"", ""},
		"public_jwks":     {nil, false},
		"reuse_tokens":    {nil, false},
		"rotation_period": {nil, 0.0},
		"publish_window":  {nil, 900.0},
		"retire_after":    {nil, 86400.0},
		"manages":         {[]any{"a=b"}, []any{"a=b"}},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(fmt.Sprint(op, " ", field), func(t *testing.T) {
				m := newMount(t)
				m.allow("redox.example")
				if diff := cmp.Diff(stored, m.write("config", all)); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
				want := map[string]any{}
				for name, value := range stored {
					want[name] = value
				}
				want[field] = test.want
				if diff := cmp.Diff(want, m.must(op, "config", map[string]any{field: test.value})); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(want, m.read("config")); diff != "" {
					t.Errorf("read (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestConfigRegions(t *testing.T) {
	m := newMount(t)
	m.allow("redox.example")
	got := m.write("config", map[string]any{"client_id": "c", "region": "ca"})
	if got["token_url"] != "https://api.ca.redoxengine.com/v2/auth/token" || got["audience"] != got["token_url"] {
		t.Errorf("ca: %v, audience %v", got["token_url"], got["audience"])
	}
	if got := m.write("config", map[string]any{"region": ""}); got["region"] != "us" {
		t.Errorf("the empty region is %v", got["region"])
	}
	m.write("config", map[string]any{"token_url": "https://redox.example/token"})
	resp, err := m.request(context.Background(), logical.UpdateOperation, "config", map[string]any{"max_retries": 1})
	if err != nil || len(resp.Warnings) != 0 {
		t.Errorf("without region: %v, %v", resp, err)
	}
	resp, err = m.request(context.Background(), logical.UpdateOperation, "config", map[string]any{"region": "ca"})
	if err != nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0],
		"region has no effect while token_url is set") {
		t.Errorf("region beside token_url: %v, %v", resp, err)
	}
	// Both hosts belong to Redox, so one may be in the token URL and the other in the
	// audience.
	m.write("config", map[string]any{"token_url": "", "region": "us",
		"audience": "https://api.ca.redoxengine.com/v2/auth/token"})
}

func TestConfigPublishesOneWay(t *testing.T) {
	m := newMount(t)
	m.write("config", map[string]any{"client_id": "c", "platform_client": "platform"})
	m.fails(400, logical.UpdateOperation, "config", map[string]any{"public_jwks": true},
		"platform_client and public_jwks exclude each other")
	m.write("config", map[string]any{"public_jwks": true, "platform_client": ""})
}

func TestConfigTakesURLs(t *testing.T) {
	m := newMount(t)
	m.allow("redox.example", "redox.example:8443", "[2001:db8::1]", "127.0.0.1:1", "127.9.9.9:80", "localhost:65535",
		"[::1]:8080", "192.0.2.1")
	for _, good := range []string{
		"https://redox.example", "https://redox.example:8443/a/b", "https://REDOX.example/token",
		"https://[2001:db8::1]/token", "https://[2001:db8::1]:443/token",
		"http://127.0.0.1:1/x", "http://127.9.9.9/x", "http://localhost:65535/x", "http://[::1]:8080/x",
		"https://192.0.2.1/token",
	} {
		if got := m.write("config", map[string]any{"client_id": "c", "token_url": good}); got["token_url"] != good {
			t.Errorf("%s became %v", good, got["token_url"])
		}
	}
}

func TestConfigDurations(t *testing.T) {
	m := newMount(t)
	for _, test := range []struct {
		value any
		want  float64
	}{{60, 60}, {60.0, 60}, {"60", 60}, {"60s", 60}, {"1m", 60}, {"1m0s", 60}, {"0.5m", 30}} {
		if got := m.write("config", map[string]any{"client_id": "c",
			"assertion_ttl": test.value})["assertion_ttl"]; got != test.want {
			t.Errorf("%#v became %v", test.value, got)
		}
	}
}

func TestDeleteConfigKeepsKeys(t *testing.T) {
	m := newMount(t)
	key := m.ready("", nil)
	m.must(logical.DeleteOperation, "config", nil)
	m.fails(404, logical.ReadOperation, "config", nil)
	if got := m.read("keys")["active"]; got != key {
		t.Errorf("the active key is %v", got)
	}
	m.must(logical.DeleteOperation, "config", nil)
}

// Config accepts values at the limits of its rules. TestConfigTakesPeriods checks the limits of
// rotation_period, publish_window and retire_after.
func TestConfigTakesLimits(t *testing.T) {
	m := newMount(t)
	m.allow("redox.example", "redox.example:1", "redox.example:65535", "127.0.0.1:80")
	url := "https://redox.example/"
	for _, limits := range []map[string]any{
		{"client_id": strings.Repeat("x", 256), "scope": strings.Repeat("x", 1024), "token_url": url +
			strings.Repeat("x", 1024-len(url))},
		{"assertion_ttl": "30s", "clock_leeway": "0s", "request_timeout": "1s", "max_retries": 0,
			"token_url": "https://redox.example:1/"},
		{"assertion_ttl": "5m", "clock_leeway": "10s", "request_timeout": "30s", "max_retries": 5,
			"token_url": "https://redox.example:65535/"},
		{"client_id": "!~", "scope": "! ~", "token_url": ""},
	} {
		m.write("config", limits)
	}
	ca := testdata(t, "certificate.pem")
	m.write("config", map[string]any{"ca_pem": " \n", "token_url": "https://redox.example:443/t",
		"audience": "https://REDOX.example/"})
	m.write("config", map[string]any{"token_url": "http://127.0.0.1/t", "audience": "http://127.0.0.1:80/"})
	m.write("config", map[string]any{"token_url": "", "audience": ""})
	m.write("config", map[string]any{"ca_pem": ca + strings.Repeat("\n", 256<<10-len(ca))})
	m.fails(400, logical.UpdateOperation, "config", map[string]any{"ca_pem": ca +
		strings.Repeat("\n", 256<<10-len(ca)+1)}, "ca_pem must be at most 256 KiB")
	var managed []string
	for i := range 256 {
		managed = append(managed, fmt.Sprint("c", i, "=id"))
	}
	m.write("config", map[string]any{"manages": strings.Join(managed, ",")})
}

// The shortest rotation_period depends on publish_window and retire_after. The longest is
// ten years.
func TestConfigTakesPeriods(t *testing.T) {
	m := newMount(t)
	m.write("config", map[string]any{"client_id": clientID, "assertion_ttl": 300})
	for _, test := range []struct{ window, retire, least int }{
		{0, 300, 60}, {168 * hour, 300, 168*hour + 60}, // a minute more than the window
		{900, 24 * hour, 14550}, {900, 24*hour + 1, 14551}, {0, 8760 * hour, 5256000}, // a sixth of both, rounded up
	} {
		settings := map[string]any{"publish_window": test.window, "retire_after": test.retire, "rotation_period": test.least}
		m.write("config", settings)
		settings["rotation_period"] = 10 * year
		m.write("config", settings)
		for _, wrong := range []int{test.least - 1, 10*year + 1} {
			settings["rotation_period"] = wrong
			m.fails(400, logical.UpdateOperation, "config", settings, fmt.Sprint("or at least ", test.least, "s with"))
		}
	}
}

// Config accepts values in forms that Vault accepts for its own settings. It ignores blanks and line
// ends around a value, because a file that is given with @ may end with a line end.
func TestConfigForms(t *testing.T) {
	m := newMount(t)
	for _, test := range []struct {
		field      string
		given, got any
	}{
		{"rotation_period", "90d", 7776000.0}, {"rotation_period", " 2160h\n", 7776000.0}, {"retire_after", "1d", 86400.0},
		{"max_retries", "3\n", 3.0},
		{"reuse_tokens", "True", true}, {"reuse_tokens", "0", false}, {"reuse_tokens", 1.0, true},
		{"reuse_tokens", "F ", false},
		{"client_id", clientID + "\r\n", clientID}, {"scope", "\ta b ", "a b"}, {"region", "ca\n", "ca"},
		{"manages", []any{" acme=x\n"}, []any{"acme=x"}}, {"manages", " acme=y , b=z\n", []any{"acme=y", "b=z"}},
	} {
		if _, is := test.given.(float64); test.field != "client_id" && !is {
			m.write("config", map[string]any{"client_id": clientID})
		}
		if got := m.write("config", map[string]any{test.field: test.given})[test.field]; !cmp.Equal(got, test.got) {
			t.Errorf("%s=%q shows %#v, want %#v", test.field, test.given, got, test.got)
		}
	}
	for _, bad := range []string{"90D", "1.5d", "1d12h", "d", "", " ", "0.5s", "106752d"} {
		m.fails(400, logical.UpdateOperation, "config", map[string]any{"rotation_period": bad},
			"rotation_period must be a whole number of seconds, or a duration such as 30s, 15m or 90d")
	}
	for _, bad := range []any{"yes", "2", 2.0, "", "truth"} {
		m.fails(400, logical.UpdateOperation, "config", map[string]any{"reuse_tokens": bad}, "must be true or false")
	}
	for _, bad := range []string{`"` + clientID + `"`, "'x'", "x`"} {
		m.fails(400, logical.UpdateOperation, "config", map[string]any{"client_id": bad}, "client_id must not have quotes")
	}
}

// What a read shows can be written back and means the same. A token URL and an audience that followed
// from the region still do after that.
func TestConfigWrittenBack(t *testing.T) {
	m := newMount(t)
	m.write("config", map[string]any{"client_id": clientID, "ca_pem": "# ours\n" + testdata(t, "certificate.pem")})
	before := snapshot(t, m.storage)
	shown := m.read("config")
	if diff := cmp.Diff(shown, m.write("config", shown)); diff != "" {
		t.Errorf("written back it is another (-want +got):\n%s", diff)
	}
	m.unchanged(before)
	got := m.write("config", map[string]any{"region": "ca"})
	if want := tokenURLs["ca"]; got["token_url"] != want || got["audience"] != want {
		t.Errorf("with another region: %v", got)
	}
	m.write("config", map[string]any{"token_url": tokenURLs["us"]})
	if got := m.read("config"); got["token_url"] != tokenURLs["us"] || got["audience"] != tokenURLs["us"] {
		t.Errorf("a token URL that is not the region's: %v", got)
	}
}

// Terraform compares what it reads with what was written. If settles is true, a read shows the value as
// it was written. The README of the example names the other forms.
func TestConfigOfTerraform(t *testing.T) {
	ca := testdata(t, "certificate.pem")
	for name, test := range map[string]struct {
		field   string
		given   any
		settles bool
	}{
		"seconds": {"rotation_period", 7776000.0, true}, "zero": {"rotation_period", 0.0, true},
		"a duration": {"rotation_period", "2160h", false}, "seconds as text": {"rotation_period", "7776000", false},
		"null": {"scope", nil, false}, "true": {"reuse_tokens", true, true}, "true as text": {"reuse_tokens", "true", false},
		"a number": {"max_retries", 3.0, true}, "a number as text": {"max_retries", "3", false},
		"a list": {"manages", []any{"z=1", "b=2"}, true}, "a list as text": {"manages", "z=1,b=2", false},
		"no scope": {"scope", "", true}, "no token URL": {"token_url", "", false},
		"PEM": {"ca_pem", ca, true}, "PEM without final newline": {"ca_pem", strings.TrimSpace(ca), true},
		"PEM with CRLF":    {"ca_pem", strings.ReplaceAll(ca, "\n", "\r\n"), true},
		"PEM with comment": {"ca_pem", "# the hospital's\n" + ca, true},
		"PEM twice":        {"ca_pem", ca + "\n" + ca, true},
	} {
		m := newMount(t)
		for range 2 {
			m.write("config", map[string]any{"client_id": clientID, test.field: test.given})
			if got := m.read("config")[test.field]; cmp.Equal(got, test.given) != test.settles {
				t.Errorf("%s: written %#v, read %#v", name, test.given, got)
			}
		}
		if c, err := loadConfig(t.Context(), m.storage, defaultClient); err != nil || strings.Contains(c.CAPEM, "#") {
			t.Errorf("%s: stored %q, %v", name, c.CAPEM, err)
		}
	}
}

// A read shows ca_pem as it was given, if that was certificates and otherwise only blanks and lines that
// begin with #. Else it shows the certificates alone.
func TestShownCA(t *testing.T) {
	ca := testdata(t, "certificate.pem")
	m := newMount(t)
	for given, shown := range map[string]string{
		"# ours\r\n" + ca + " \n": "# ours\r\n" + ca + " \n", " \n": "", "": "", "subject=CN=x\n" + ca: ca, ca + canary: ca,
		strings.TrimSpace(ca) + canary: ca, strings.Replace(ca, "\n", "\nname: "+canary+"\n", 1): ca,
		"ca.crt: |\n  " + strings.ReplaceAll(ca, "\n", "\n  "): ca,
	} {
		m.write("config", map[string]any{"client_id": clientID, "ca_pem": given})
		if got := m.read("config")["ca_pem"]; got != shown {
			t.Errorf("given %q, shown %q", given, got)
		}
		m.write("config", map[string]any{"max_retries": 1})
		if got := m.read("config")["ca_pem"]; got != shown {
			t.Errorf("given %q, after another write shown %q", given, got)
		}
	}
}

// normalCA accepts certificates in many forms, and returns them as PEM without other text. If it refuses
// a text, its error says what is wrong.
func TestCAPEM(t *testing.T) {
	ca := testdata(t, "certificate.pem")
	block, _ := pem.Decode([]byte(ca))
	inBase64 := base64.StdEncoding.EncodeToString
	for name, test := range map[string]struct{ text, want string }{
		"comments":             {"# A comment\n" + ca + "another", ca},
		"two":                  {"subject=CN=one\n" + ca + "\nsubject=CN=two\n" + ca, ca + ca},
		"Windows":              {"\ufeff" + strings.ReplaceAll(ca, "\n", "\r\n"), ca},
		"escaped":              {"CA_PEM=" + strconv.Quote(ca), ca},
		"YAML":                 {"ca.crt: |\n  " + strings.ReplaceAll(ca, "\n", "\n  "), ca},
		"base64 of PEM":        {inBase64([]byte(ca + ca)), ca + ca},
		"base64 of DER":        {inBase64(block.Bytes), ca},
		"trusted by OpenSSL":   {strings.ReplaceAll(testdata(t, "cases/099"), "TRUSTED ", ""), testdata(t, "cases/098")},
		"with OpenSSL's trust": {pemOf("TRUSTED CERTIFICATE", append(block.Bytes, 0x30, 0)), ca},
	} {
		if got, err := normalCA(test.text); err != nil || got != test.want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	for name, test := range map[string]struct{ text, want string }{
		"the second of three": {ca + pemOf("CERTIFICATE", block.Bytes[:200]) + ca,
			"certificate 2 of 3 cannot be read (x509: malformed certificate)"},
		"bytes behind it": {pemOf("CERTIFICATE", append(block.Bytes, 0x30, 0)),
			"certificate 1 of 1 cannot be read (x509: trailing data)"},
		"cut":             {ca[:300], "the END line is missing"},
		"a private key":   {ca + testdata(t, "pkcs8.pem"), "a block of another kind, such as a key"},
		"PKCS#7":          {testdata(t, "cases/082"), "openssl pkcs7 -print_certs"},
		"DER":             {string([]rune(string(block.Bytes))), "openssl x509 -inform DER"},
		"UTF-16":          {strings.Join(strings.Split(ca, ""), "\x00"), "is in UTF-16"},
		"a file's name":   {"ca bundle.CRT", `did you mean ca_pem=@"ca bundle.CRT"?`},
		"prose":           {"the usual one", "no CERTIFICATE block was found"},
		"base64 of prose": {inBase64([]byte("the usual one")), "no CERTIFICATE block was found"},
	} {
		if got, err := normalCA(test.text); err == nil || !strings.Contains(err.Error(), test.want) || got != "" {
			t.Errorf("%s: %v, want %q\n%s", name, err, test.want, got)
		}
	}
}

func pemOf(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}
