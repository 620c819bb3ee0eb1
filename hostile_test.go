package redox

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// hostile is one bad input. The engine must refuse it with the HTTP status in status, and with a message
// that contains each text in want.
type hostile struct {
	path   string
	op     logical.Operation // update when empty
	field  string            // empty: the bad value is in the path
	value  any
	status int // 400 when zero
	want   []string
}

// Bad values for many fields.
var (
	list   = []any{"a"}
	object = map[string]any{"kty": "RSA", "d": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}
	huge   = strings.Repeat("x", 1<<20)
	long   = strings.Repeat("x", 1<<16) // for the path, which is matched against regular expressions
)

func each(path, field, rule string, values ...any) []hostile {
	var all []hostile
	for _, value := range values {
		all = append(all, hostile{path: path, field: field, value: value, want: []string{field, rule}})
	}
	return all
}

func hostileStrings(certificate string) []hostile {
	const text, printable = "must be a string", "printable ASCII characters"
	return slices.Concat(
		each("config", "client_id", text, 7, true, 1.5, list, object),
		each("config", "client_id", "is required", "", " \n", nil),
		each("config", "client_id", printable, "a b", "a\x00b", "a\nb", "clіent" /* Cyrillic */, "a\u202eb", "\ufeffa",
			huge, strings.Repeat("x", 257)),
		each("config", "region", text, 1, false, list, object),
		each("config", "region", "must be us or ca", "eu", "US", "u s", "uѕ", "us\x00", huge, "../ca"),
		each("config", "scope", text, 1, true, list, object),
		each("config", "scope", printable, "a\nb", "a\tb", "scоpe", "\x7f", huge, strings.Repeat("x", 1025)),
		each("config", "ca_pem", text, 1, true, list, object),
		each("config", "ca_pem", "must be PEM", "/etc/ssl/ca.pem", "nonsense", "-----BEGIN CERTIFICATE-----", "\x00",
			"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		each("config", "ca_pem", "at most 256 KiB", huge),
		each("config", "ca_pem", "dashes of the",
			certificate+"-----BEGIN PRIVATE KEY-----\nAAAA\n----END PRIVATE KEY-----\n", certificate[1:]+certificate),
		each("config", "ca_pem", "certificate 2 of 2 cannot be read (x509: malformed certificate)",
			certificate+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		each("config", "ca_pem", "CERTIFICATE blocks only", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
	)
}

func hostileURLs() []hostile {
	var all []hostile
	for _, field := range []string{"token_url", "audience"} {
		all = append(all, slices.Concat(
			each("config", field, "must be a string", 1, true, list, object),
			each("config", field, "must be an absolute URL", "redox.example", "/v2/auth/token", "https:", "https://",
				"https:redox.example", "https://a b/",
				"https://redox.example/\x00", "https://redox.example/\n/", "https://rеdox.example/", "https://[::1",
				"https://redox.example:port/",
				"https://redox.example:-1/", huge, "https://"+strings.Repeat("x", 1024)),
			each("config", field, "must begin with https://", "http://redox.example/", "ftp://redox.example/",
				"file://redox.example/etc", "HTTP://192.0.2.1/",
				"http://[2001:db8::1]/", "http://127.0.0.1.redox.example/", "http://localhost.redox.example/", "http://0.0.0.0/",
				"http://[::]/"),
			each("config", field, "must not hold a user name or password", "https://user@redox.example/",
				"https://user:c2VjcmV0LXNlY3JldC1zZWNyZXQ@redox.example/", "https://:@redox.example/"),
			each("config", field, "must not have a query or a fragment", "https://redox.example/?a=b",
				"https://redox.example/?", "https://redox.example/#f", "https://redox.example/#"),
			each("config", field, "must name a host", "https://:443/"),
			each("config", field, "must name a host: its port must be 1 to 65535", "https://redox.example:0/",
				"https://redox.example:65536/", "https://redox.example:/", "https://redox.example:99999999999/"),
			each("config", field, "must name a host", "https://evil.example;.redoxengine.com/", "https://*.redoxengine.com/",
				"https://.redoxengine.com/", "https://api.redoxengine.com./", "https://evil.example%EF%BC%8F.redoxengine.com/",
				"https://api..redoxengine.com/", "https://-.redoxengine.com/", "https://127.1/", "https://0x7f000001/",
				"https://[fe80::1%25eth0]/"),
		)...)
	}
	return slices.Concat(all, each("config", "audience", "must name the host of the token URL",
		"https://evil.example/v2/auth/token", "https://api.redoxengine.com.evil.example/", "https://evilredoxengine.com/",
		"https://api.redoxengine.com:8443/", "https://www.redoxengine.com/"),
		each("config", "token_url", "a host that this mount may not talk to: allowed are",
			"https://evil.example/v2/auth/token", "https://api.redoxengine.com.evil.example/", "https://evilredoxengine.com/",
			"https://api.redoxengine.com:8443/", "https://www.redoxengine.com/", "https://10.0.0.1:8200/",
			"https://[::1]:8200/", "http://127.0.0.1:8200/v1/auth/token", "http://localhost/"))
}

func hostileHosts() []hostile {
	const item = "must list hosts as host or host:port"
	return slices.Concat(
		each("hosts", "allowed", "must be a list of strings", 7, true, object, []any{1}, []any{nil}, []any{list}),
		each("hosts", "allowed", item+", such as gateway.example:8443; item 2 is", []any{"a", ""}, "a,https://b", "a,b/"),
		each("hosts", "allowed", "it is empty", []any{""}, []any{" \n"}),
		each("hosts", "allowed", "it is a URL", "https://gateway.example", "http://127.0.0.1:1/"),
		each("hosts", "allowed", "it has a path", "gateway.example/v2", "/", `a\b`),
		each("hosts", "allowed", "it has a *", "*", "*.example", "gateway.*"),
		each("hosts", "allowed", "its port must be 1 to 65535", "a:0", "a:", "a:65536", "a:-1", "a:+1", "a:080", "a:https",
			"[::1]:0", ":"),
		each("hosts", "allowed", "needs brackets", "2001:db8::1", "::1", "a:1:2"),
		each("hosts", "allowed", "must be an IPv6 address", "[2001:db8::1", "[127.0.0.1]", "[fe80::1%eth0]", "[a]", "[]:1"),
		each("hosts", "allowed", "ends with a dot", "gateway.example.", "gateway.example.:443"),
		each("hosts", "allowed", "not printable ASCII", "gаteway.example", "evil.example／.redoxengine.com",
			"a b", "a\x00b", "ｇateway.example", "a\u200db"),
		each("hosts", "allowed", "at most 253 characters", ".redoxengine.com", "evil.example;.redoxengine.com", "a..b",
			"-a", "a-", "user@a", "a?b", "a#b", "a%2eb", ":443", strings.Repeat("a", 64), huge,
			strings.Repeat("a.", 127)+"a"),
		each("hosts", "allowed", "ends like an IPv4 address", "127.1", "2130706433", "0x7f000001", "1.2.3.256", "a.1",
			"127.0.0.01"),
		each("hosts", "allowed", "must name at most 1000 hosts", strings.Repeat("a,", 1001)),
	)
}

func hostileNumbers() []hostile {
	const seconds, whole = "must be a whole number of seconds, or a duration", "must be a whole number"
	var all []hostile
	for _, field := range []string{"assertion_ttl", "clock_leeway", "request_timeout", "publish_window", "retire_after",
		"rotation_period"} {
		all = append(all, each("config", field, "must not be negative", -1, "-5m", "-9223372036s")...)
		all = append(all, each("config", field, seconds,
			"", " ", "soon", true, list, object, 1.5, "1.5s", "500ms", "1D", "1.5d", "9223372036854775808", 1e300,
			"5m\x00", "٣", huge, "9999999999999h", "9223372036854775807", "9223372037")...)
	}
	return slices.Concat(all,
		each("config", "assertion_ttl", "must be 30s to 5m", 0, "29s", "301s", 9223372036, "2562047h"),
		each("config", "clock_leeway", "must be 0s to 10s", 11, "1h"),
		each("config", "request_timeout", "must be 1s to 30s", 0, 31, "1h"),
		each("config", "publish_window", "must be 0s to 168h", "169h", "2562047h"),
		each("config", "retire_after", "must be at least assertion_ttl (300s) and at most 8760h", 0, 299, "8761h"),
		each("config", "rotation_period", "must be 0 (off), or at least 14550s with this publish_window and retire_after",
			1, "4h2m29s", "87601h"),
		each("config", "manages", "must be a list of strings, or one string with commas", 7, true, 1.5, object),
		each("config", "manages", "must be a list of strings", []any{1}, []any{nil}, []any{list}, []any{object},
			[]any{"acme=c", 7}),
		each("config", "manages", "must list clients as name=client ID", list, "acme", "acme=", "=c", "a b=c", "acme=c d",
			"acme=c\x00", "аcme=c", "../acme=c", "acme =c", []any{""}, []any{"acme=c,zeta=d e"}, huge,
			"acme="+strings.Repeat("x", 257)),
		each("config", "manages", "must name each client once", "acme=a,acme=b", []any{"default=a", "default=a"}),
		each("config", "manages", "must name at most 256 clients", strings.Repeat("a=b,", 257)),
		each("config", "platform_client", "must be a string", 7, true, list, object),
		each("config", "platform_client", "must be the name of a client", "a b", "../acme", "-a", "а", "a\x00", "ac me",
			"clients/acme", huge, strings.Repeat("x", 65)),
		each("config", "reuse_tokens", "must be true or false", "", "yes", 2, list, object, huge),
		each("config", "public_jwks", "must be true or false", "", "yes", 2, list, object, huge),
		each("config", "max_retries", whole, "", "two", 1.5, true, list, object, "0x2", "1e1", 1<<53, "9223372036854775808",
			huge),
		each("config", "max_retries", "must be 0 to 5", -1, 6, "100", 9007199254740991),
		each("keys/generate", "key_bits", whole, "", "big", 2048.5, true, list, object, "0x800", "99999999999999999999",
			huge),
		each("keys/generate", "key_bits", "must be 2048, 3072 or 4096", 0, -2048, 1024, 2047, 2049, 8192, 1<<40, "1024"),
	)
}

func hostileKeys(t *testing.T) []hostile {
	pem := testdata(t, "pkcs8.pem")
	all := slices.Concat(
		each("keys/import", "private_key", "must be a string", 1, true),
		each("keys/import", "private_key", "private_key: it", list, object),
		each("keys/import", "private_key", "it is empty", "", nil, " \n"),
		each("keys/import", "private_key", "it is neither PEM nor JSON", "kеy"),
		each("keys/import", "private_key", "more than 256 KiB", huge),
		each("keys/import", "private_key", "UTF-16", "\x00"),
		each("keys/import", "private_key", "it is a public key", testdata(t, "public.pem")),
		each("keys/import", "private_key", "two private keys", pem+pem),
		each("keys/import", "private_key", "did you mean private_key=@", "../key.pem"),
	)
	for _, bad := range []any{"a/b", "a b", "..", ".", "generate", "import", "rotate", "kеy", "a\x00", "a\nb", "%2e%2e",
		huge, 7, true, list, object} {
		want := "a key ID has 1 to 128 of the characters"
		switch text, is := bad.(string); {
		case !is:
			want = "must be a string"
		case text == "generate" || text == "import" || text == "rotate":
			want = "is reserved and cannot be a key ID"
		case text == "." || text == "..":
			want = "cannot be a key ID"
		}
		all = append(all, hostile{path: "keys/import", field: "key_id", value: bad, want: []string{"key_id", want}})
	}
	for _, path := range []struct {
		path string
		op   logical.Operation
	}{{"keys/ring-key", logical.DeleteOperation}, {"keys/ring-key/activate", logical.UpdateOperation}, {"clients/acme",
		logical.DeleteOperation}} {
		for _, bad := range []any{"", "yes", "TrUE", "2", 2, list, object, huge} {
			all = append(all, hostile{path: path.path, op: path.op, field: "force", value: bad,
				want: []string{"force", "must be true or false"}})
		}
	}
	return all
}

// hostilePaths returns inputs with a bad value in the path: a client name or a key ID.
func hostilePaths() []hostile {
	var all []hostile
	for _, name := range []string{"-a", "a-", ".a", "a..b", "a b", "a\x00", "ключ", "асme", "a%2Fb", "a;b", "*", "+",
		strings.Repeat("x", 65), long} {
		for path, op := range map[string]logical.Operation{
			"token": logical.ReadOperation, "check": logical.ReadOperation, "config": logical.UpdateOperation,
			"keys":          logical.ListOperation,
			"keys/generate": logical.UpdateOperation, "keys/import": logical.UpdateOperation,
			"keys/rotate": logical.UpdateOperation, "jwks": logical.ReadOperation, "keys/k": logical.DeleteOperation,
			"keys/k/activate": logical.UpdateOperation,
		} {
			all = append(all, hostile{path: "clients/" + name + "/" + path, op: op,
				want: []string{"client must have 1 to 64 of the characters"}})
		}
		all = append(all, hostile{path: "clients/" + name, op: logical.DeleteOperation,
			want: []string{"client must have 1 to 64 of the characters"}})
	}
	for _, id := range []string{"a b", "a%2Fb", "ключ", "a\x00", "*", strings.Repeat("x", 129), long} {
		all = append(all,
			hostile{path: "keys/" + id, op: logical.ReadOperation, want: []string{"key_id: a key ID has 1 to 128"}},
			hostile{path: "keys/" + id, op: logical.DeleteOperation, want: []string{"key_id: a key ID has 1 to 128"}},
			hostile{path: "keys/" + id + "/activate", want: []string{"key_id: a key ID has 1 to 128"}})
	}
	return append(all,
		hostile{path: "keys/rotate", op: logical.DeleteOperation, status: 405, want: []string{"unsupported operation"}},
		hostile{path: "keys/../activate", want: []string{"key_id", "cannot be a key ID"}})
}

// hostileFields returns inputs with a field that the operation does not accept, or that belongs in the
// path.
func hostileFields() []hostile {
	var all []hostile
	for path, accepts := range map[string]string{
		"config": "assertion_ttl, audience", "keys/generate": "accepts key_bits",
		"keys/import": "accepts key_id, private_key", "keys/ring-key/activate": "accepts force",
	} {
		for _, field := range []string{"clientid", "CLIENT_ID", "client_id ", "platform_clients", "a\nb",
			strings.Repeat("f", 1000)} {
			want := []string{"unknown field", accepts}
			all = append(all, hostile{path: path, field: field, value: "x", want: want},
				hostile{path: "clients/acme/" + path, field: field, value: "x", want: want})
		}
	}
	for path, op := range map[string]logical.Operation{
		"config": logical.UpdateOperation, "keys/generate": logical.UpdateOperation, "token": logical.ReadOperation,
		"check": logical.ReadOperation,
		"keys":  logical.ReadOperation, "keys/ring-key": logical.DeleteOperation, "clients/acme": logical.DeleteOperation,
		"clients/acme/token": logical.ReadOperation,
	} {
		all = append(all, hostile{path: path, op: op, field: "client", value: "acme",
			want: []string{"client belongs in the path"}})
	}
	for path, op := range map[string]logical.Operation{
		"keys/ring-key": logical.ReadOperation, "keys/ring-key/activate": logical.UpdateOperation,
		"clients/acme/keys/k": logical.DeleteOperation,
	} {
		all = append(all, hostile{path: path, op: op, field: "key_id", value: "other",
			want: []string{"key_id belongs in the path"}})
	}
	return append(all,
		hostile{path: "config", op: logical.DeleteOperation, field: "client_id", value: "x",
			want: []string{`unknown field "client_id": this path accepts no fields`}},
		hostile{path: "config", op: logical.PatchOperation, field: "leeway", value: 5,
			want: []string{`unknown field "leeway"`}},
		hostile{path: "keys/ring-key", op: logical.DeleteOperation, field: "forced", value: true,
			want: []string{`unknown field "forced"`, "accepts force"}})
}

// Each bad input is refused with its status and with the texts in want, and storage does not change. A
// mount without a config and a key refuses the input too, with any status from 400 to 499, and stores
// nothing.
func TestHostileInput(t *testing.T) {
	t.Parallel()
	full, empty := newMount(t), newMount(t)
	full.ready("", nil)
	full.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "ring-key"})
	full.ready("clients/acme/", nil)
	full.write("config", map[string]any{"token_url": ""})
	before, nothing := snapshot(t, full.storage), snapshot(t, empty.storage)

	tests := slices.Concat(hostileStrings(testdata(t, "certificate.pem")), hostileURLs(), hostileHosts(), hostileNumbers(),
		hostileKeys(t), hostilePaths(), hostileFields())
	for _, test := range tests {
		if test.op == "" {
			test.op = logical.UpdateOperation
		}
		if test.status == 0 {
			test.status = 400
		}
		var data map[string]any
		if test.field != "" {
			data = map[string]any{test.field: test.value}
		}
		if test.path == "keys/import" && test.field == "key_id" {
			data["private_key"] = testdata(t, "pkcs8.pem")
		}
		message := full.fails(test.status, test.op, test.path, data, test.want...)
		if len(message) > 1000 {
			t.Errorf("%s %s %s: a message of %d characters", test.op, test.path, test.field, len(message))
		}
		if strings.Contains(message, "c2VjcmV0") || strings.ContainsAny(message, "\x00\n") {
			t.Errorf("%s %s %s quotes what it was given: %q", test.op, test.path, test.field, message)
		}
		onNothing := maps.Clone(data)
		if test.path == "config" && test.field != "client_id" && test.field != "client" {
			onNothing["client_id"] = "c"
		}
		resp, err := empty.request(t.Context(), test.op, test.path, onNothing)
		if status, text := outcome(test.op, resp, err); status < 400 || status >= 500 {
			t.Errorf("%s %s %s of an empty engine: HTTP %d %s", test.op, test.path, test.field, status, text)
		}
	}
	full.unchanged(before)
	empty.unchanged(nothing)
	covers(t, full, tests)
	t.Logf("%d hostile inputs", len(tests))
	if len(tests) < 150 {
		t.Errorf("%d hostile inputs, want at least 150", len(tests))
	}
}

// covers checks that there is a bad input for each field of each path.
func covers(t *testing.T, m *mount, tests []hostile) {
	t.Helper()
	tested := map[string]bool{}
	for _, test := range tests {
		route := m.backend.Route(test.path)
		if route == nil {
			t.Fatalf("%s has no route", test.path)
		}
		tested[route.Pattern+" "+test.field] = true
		if strings.HasPrefix(test.path, "clients/") && test.field == "" {
			tested[route.Pattern+" client"] = true
		}
		if strings.HasPrefix(test.path, "keys/") && test.field == "" {
			tested[route.Pattern+" key_id"] = true
		}
	}
	for _, path := range m.backend.Paths {
		for field := range path.Fields {
			if !tested[path.Pattern+" "+field] {
				t.Errorf("no hostile input for field %s of %s", field, path.Pattern)
			}
		}
	}
}

// The framework refuses paths that do not exist, and nothing is stored.
func TestUnsupported(t *testing.T) {
	m := newMount(t)
	before := snapshot(t, m.storage)
	for _, path := range []string{"", "tokens", "token/", "config/x", "keys/generate/x", "keys/a/activate/b",
		"clients/a/b", "clients/a/clients/b/token", "Token"} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation,
			logical.ListOperation, logical.PatchOperation} {
			resp, err := m.request(t.Context(), op, path, nil)
			if status, _ := outcome(op, resp, err); status != 404 && status != 405 {
				t.Errorf("%s %q: HTTP %d", op, path, status)
			}
		}
	}
	m.unchanged(before)
}
