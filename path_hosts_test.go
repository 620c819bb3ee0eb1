package redox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// A write replaces the list of hosts. A read shows each host once, in its normal form.
func TestHosts(t *testing.T) {
	m := newMount(t)
	thousand := make([]any, maxHosts)
	for i := range thousand {
		thousand[i] = fmt.Sprintf("host-%d.example", i)
	}
	for name, test := range map[string]struct {
		given any
		want  []any
	}{
		"as the CLI sends it": {"b.example, a.example:8443,", []any{"b.example", "a.example:8443"}},
		"upper case":          {"Gateway.EXAMPLE:8443", []any{"gateway.example:8443"}},
		"port 443":            {[]any{"a.example:443", "[2001:db8::1]:443"}, []any{"a.example", "[2001:db8::1]"}},
		"port 80":             {"127.0.0.1:80", []any{"127.0.0.1:80"}},
		"twice":               {"a.example,A.example:443", []any{"a.example"}},
		"IPv6":                {"[2001:DB8:0:0::1]:8443,[::1]:1", []any{"[2001:db8::1]:8443", "[::1]:1"}},
		"blanks":              {[]any{" a.example \n"}, []any{"a.example"}},
		"names":               {"a,a_b.c-d,xn--bcher-kva.example", []any{"a", "a_b.c-d", "xn--bcher-kva.example"}},
		"the longest":         {strings.Repeat("a.", 126) + "a:65535", []any{strings.Repeat("a.", 126) + "a:65535"}},
		"a thousand":          {thousand, thousand},
		"none":                {[]any{}, []any{}},
		"null":                {nil, []any{}},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]any{"allowed": test.want, "always": []any{"api.redoxengine.com", "api.ca.redoxengine.com"}}
			if diff := cmp.Diff(want, m.write("hosts", map[string]any{"allowed": test.given})); diff != "" {
				t.Errorf("written (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, m.read("hosts")); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
		})
	}
	m.fails(400, logical.UpdateOperation, "hosts", nil, "allowed is required")
	m.write("hosts", map[string]any{"allowed": "a.example"})
	m.must(logical.DeleteOperation, "hosts", nil)
	if got := m.read("hosts")["allowed"]; len(got.([]any)) != 0 || len(snapshot(t, m.storage)) != 0 {
		t.Errorf("deleted, it is %v", got)
	}
	for _, want := range []string{"hosts written: ", "number=1000", "hosts deleted"} {
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if got := m.backend.SpecialPaths().Root; !cmp.Equal(got, []string{"hosts"}) {
		t.Errorf("sudo is needed for %v", got)
	}
}

// command carries out the command at the end of an error message, which allows a host.
func (m *mount) command(message string) {
	m.t.Helper()
	found := regexp.MustCompile(`vault write redox/hosts allowed='?([^' ]+)'?$`).FindStringSubmatch(message)
	if found == nil {
		m.t.Fatalf("no command in %s", message)
	}
	m.write("hosts", map[string]any{"allowed": found[1]})
}

// Config refuses a token_url with a host that is not allowed, in whatever form. The error says which
// hosts are allowed. After the command in the error, the same write succeeds.
func TestHostsGuardConfig(t *testing.T) {
	for url, host := range map[string]string{
		"http://127.0.0.1:8200/v1/auth/token": "127.0.0.1:8200",
		"http://localhost/":                   "localhost:80",
		"http://[::1]:8200/":                  "[::1]:8200",
		"https://127.0.0.1:8200/":             "127.0.0.1:8200",
		"https://10.0.0.1/":                   "10.0.0.1",
		"https://[2001:DB8::0:1]:8443/":       "[2001:db8::1]:8443",
		"https://api.redoxengine.com:8443/":   "api.redoxengine.com:8443",
		"https://eu.api.redoxengine.com/":     "eu.api.redoxengine.com",
		"https://Sub.Gateway.example/":        "sub.gateway.example",
		"https://gateway.example:8443/":       "gateway.example:8443",
	} {
		t.Run(url, func(t *testing.T) {
			m := newMount(t)
			m.write("hosts", map[string]any{"allowed": "gateway.example,other.example:1"})
			m.write("clients/acme/config", map[string]any{"client_id": "c"})
			before := snapshot(t, m.storage)
			data, text := map[string]any{"client_id": "c", "token_url": url}, ""
			for path, op := range map[string]logical.Operation{"config": logical.UpdateOperation,
				"clients/acme/config": logical.PatchOperation} {
				text = m.fails(400, op, path, data, "token_url names "+host+", a host that this mount may not talk to: allowed "+
					"are api.redoxengine.com, api.ca.redoxengine.com and gateway.example, other.example:1; ")
			}
			m.unchanged(before)
			m.command(text)
			m.write("config", data)
			// Config refuses Redox's audience for a host that is not Redox's, even if the host is allowed.
			m.fails(400, logical.UpdateOperation, "config", map[string]any{"audience": tokenURLs["us"]},
				"audience must name the host of the token URL ("+host+"), or both must be Redox's")
		})
	}
}

// A long list is not shown in each error.
func TestHostsErrorIsShort(t *testing.T) {
	m := newMount(t)
	all := strings.Repeat("a", 50) + ".example"
	for i := range 20 {
		all += fmt.Sprintf(",host-%d.example", i)
	}
	m.write("hosts", map[string]any{"allowed": all})
	if text := m.fails(400, logical.UpdateOperation, "config", map[string]any{"client_id": "c",
		"token_url": "https://gateway.example/"}, "and 21 others (vault read redox/hosts)",
		"vault write redox/hosts allowed=<those>,gateway.example"); len(text) > 400 {
		t.Errorf("it says %s", text)
	}
}

// unasked listens on a free port of this machine and returns the address. It fails the
// test if anybody connects.
func unasked(t *testing.T) (hostPort string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan bool)
	go func() {
		_, err := listener.Accept()
		connected <- err == nil
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		if <-connected {
			t.Error("somebody connected to a host that is not allowed")
		}
	})
	return listener.Addr().String()
}

// put stores the golden config and key ring in dir for a client, with tokenURL as the token URL.
func (m *mount) put(client, dir, tokenURL string) {
	m.t.Helper()
	for _, entry := range []string{"config", "keyring"} {
		raw, err := os.ReadFile("testdata/storage/" + dir + "/" + entry + ".json")
		if err != nil {
			m.t.Fatal(err)
		}
		text := strings.Replace(string(raw), "https://Gateway.example:8443/redox/v2/auth/token", tokenURL, 1)
		if err := m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: clientsPrefix + client + "/" + entry,
			Value: []byte(text)}); err != nil {
			m.t.Fatal(err)
		}
	}
}

// If an older version stored a config with a host that is not allowed, nothing is sent to that host, and
// each error has the command that allows the host. The errors are alike for an open port and a closed
// one. No command is shown for a host that is not valid.
func TestHostsOfAnOlderConfig(t *testing.T) {
	m := newMount(t)
	open, closed := unasked(t), "127.0.0.1:1"
	m.put(defaultClient, "v1-gateway", "https://Gateway.example:8443/redox/v2/auth/token")
	m.put("open", "v1-gateway", "http://"+open+"/v2/auth/token")
	m.put("closed", "v1-gateway", "http://"+closed+"/v2/auth/token")
	m.put("odd", "v1-gateway", "https://evil.example;.redoxengine.com/")
	for prefix, host := range map[string]string{"": "gateway.example:8443", "clients/open/": open,
		"clients/closed/": closed} {
		for path, op := range map[string]logical.Operation{"token": logical.ReadOperation, "check": logical.ReadOperation,
			"config": logical.UpdateOperation, "keys/first/activate": logical.UpdateOperation} {
			data := map[string]any{}
			if path == "config" {
				data["max_retries"] = 0
			}
			m.fails(400, op, prefix+path, data, "token_url names "+host+", a host that this mount may not talk to: allowed "+
				"are api.redoxengine.com, api.ca.redoxengine.com and "+hostOf(m.sandbox.TokenURL())+"; whoever has sudo on "+
				"redox/hosts allows it with: vault write redox/hosts allowed="+hostOf(m.sandbox.TokenURL())+","+host)
		}
		m.read(prefix + "config")
		m.read(prefix + "keys")
	}
	text := m.fails(400, logical.ReadOperation, "clients/odd/token", nil, "token_url must name a host")
	if strings.Contains(text, "vault write") {
		t.Errorf("an odd host is in a command: %s", text)
	}
	m.command(m.fails(400, logical.ReadOperation, "token", nil))
	m.write("config", map[string]any{"max_retries": 0})
	if log := m.log.String(); strings.Contains(log, "request failed") || strings.Contains(log, "no usable answer") {
		t.Errorf("the log holds %s", log)
	}
	m.expect(map[string]float64{"redox_token_reads_total{client=default,outcome=error}": 2})
	if n := m.metrics()["redox_request_duration_seconds{client=default}"]; n != 0 {
		t.Errorf("%v requests were sent", n)
	}
}

// A change of the list takes effect at once on the node that wrote it. On another node it takes effect
// when Vault invalidates the entry, or else after ten seconds. No token from memory is returned if its
// host is no longer allowed.
func TestHostsGuardUse(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.ready("clients/shared/", map[string]any{"reuse_tokens": true})
	node := newMountOn(t, m.storage, systemView(consts.ReplicationPerformanceStandby))
	host := hostOf(m.sandbox.TokenURL())
	reads := []string{"token", "check", "clients/shared/token"}
	both := func(what func(on *mount, path string)) {
		for _, path := range reads {
			what(m, path)
			what(node, path)
		}
	}
	both(func(on *mount, path string) { on.read(path) })
	sent := len(m.sandbox.Assertions())
	m.must(logical.DeleteOperation, "hosts", nil)
	node.backend.InvalidateKey(t.Context(), "hosts")
	both(func(on *mount, path string) {
		on.fails(400, logical.ReadOperation, path, nil, "token_url names "+host+", a host that this mount may not talk to: "+
			"allowed are api.redoxengine.com, api.ca.redoxengine.com and no other; whoever has sudo on redox/hosts allows it "+
			"with: vault write redox/hosts allowed="+host)
	})
	if n := len(m.sandbox.Assertions()); n != sent {
		t.Errorf("%d assertions were sent", n-sent)
	}
	m.allow(host)
	node.fails(400, logical.ReadOperation, "token", nil)
	node.pass(rereadAfter)
	both(func(on *mount, path string) { on.read(path) })
}

// A read of the list that began before a change does not leave its old result in
// memory.
func TestHostsDuringAChange(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	m.backend.hostsChanged()
	storage.got = func() {
		storage.got = nil
		m.must(logical.DeleteOperation, "hosts", nil)
	}
	_, _ = m.backend.hosts.current(t.Context(), storage)
	m.fails(400, logical.ReadOperation, "token", nil, "a host that this mount may not talk to")
}

// While the host of the token URL is not allowed, a rotation waits: it sends nothing, and keys says why.
// Once the host is allowed, the rotation goes on by itself within a minute.
func TestHostsGuardRotation(t *testing.T) {
	m := newMount(t)
	active := m.platformReady(map[string]any{"publish_window": "1m"})
	m.rotate()
	next := m.write("keys/rotate", nil)["key_id"].(string)
	m.rotate()
	sent, listed := len(m.sandbox.Assertions()), m.listed()
	m.must(logical.DeleteOperation, "hosts", nil)
	for range 5 {
		m.pass(time.Minute)
		m.rotate()
	}
	if n := len(m.sandbox.Assertions()); n != sent || m.listed() != listed {
		t.Errorf("%d assertions were sent, Redox lists %s", n-sent, m.listed())
	}
	host := hostOf(m.sandbox.TokenURL())
	if text := m.read("keys")["rotation"].(string); !strings.Contains(text, "failed: token_url names "+host+
		", a host that this mount may not talk to; the next is at "+m.now.Add(time.Minute).UTC().Format(time.RFC3339)) {
		t.Errorf("keys says %q", text)
	}
	m.pass(time.Hour)
	m.rotate()
	if text := m.publication(); !strings.Contains(text, "client platform, the platform client, gets no token: token_url "+
		"names "+host+", a host that this mount may not talk to; tried at") {
		t.Errorf("publication: %s", text)
	}
	m.command(m.fails(400, logical.ReadOperation, "check", nil, "a host that this mount may not talk to"))
	m.signs(active)
	m.pass(time.Minute)
	m.rotate()
	m.signs(next)
	if text := m.publication(); !strings.HasPrefix(text, "up to date") {
		t.Errorf("publication: %s", text)
	}
}

// If the host of the token URL is no longer allowed after a platform client got its token, no request is
// sent with that token.
func TestHostsGuardPlatform(t *testing.T) {
	m := newMount(t)
	m.platformReady(nil)
	r := &request{Request: &logical.Request{Storage: m.storage}, client: defaultClient}
	api, err := m.backend.platform(t.Context(), r, "platform")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Read(t.Context(), clientID); err != nil {
		t.Fatal(err)
	}
	m.must(logical.DeleteOperation, "hosts", nil)
	listed := m.listed()
	var host *hostError
	if _, err := api.Read(t.Context(), clientID); !errors.As(err, &host) {
		t.Errorf("reading: %v", err)
	}
	if err := api.Update(t.Context(), clientID, nil); !errors.As(err, &host) || m.listed() != listed {
		t.Errorf("updating: %v", err)
	}
}

// Each mount of a process has its own list.
func TestHostsOfTwoMounts(t *testing.T) {
	one, two := newMount(t), newMount(t)
	one.ready("", nil)
	two.ready("", nil)
	two.fails(400, logical.UpdateOperation, "config", map[string]any{"token_url": one.sandbox.TokenURL()},
		"a host that this mount may not talk to")
	two.must(logical.DeleteOperation, "hosts", nil)
	one.read("token")
	two.fails(400, logical.ReadOperation, "token", nil, "a host that this mount may not talk to")
}

// For Redox's own hosts the list is not read, so config can be written even if the list cannot be read.
// With another host, the write fails then.
func TestHostsNeedNoListForRedox(t *testing.T) {
	m := newMount(t)
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: hostsKey, Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	m.write("config", map[string]any{"client_id": "c", "region": "ca"})
	m.write("config", map[string]any{"token_url": "https://API.redoxengine.com:443/v2/auth/token"})
	m.fails(500, logical.UpdateOperation, "config", map[string]any{"token_url": "https://gateway.example/"},
		"reading hosts: the stored entry is not the JSON this plugin writes")
	m.fails(500, logical.UpdateOperation, "hosts", map[string]any{"allowed": "a"}, "reading hosts")
	m.must(logical.DeleteOperation, "hosts", nil)
	m.write("hosts", map[string]any{"allowed": "a"})
}

// The form in which a list is stored.
func TestGoldenHosts(t *testing.T) {
	const golden = `{"version":1,"data":{"allowed":["gateway.example","127.0.0.1:8080"]}}`
	m := newMount(t)
	m.write("hosts", map[string]any{"allowed": "gateway.example,127.0.0.1:8080"})
	if got := strings.TrimSpace(snapshot(t, m.storage)[hostsKey]); got != golden {
		t.Errorf("it is stored in another form: raise store.Version, and show that this one is still read: %s", got)
	}
}
