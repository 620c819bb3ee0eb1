package redox

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// lines calls do and returns the lines that were logged meanwhile, without the time.
func (m *mount) lines(do func()) []string {
	before := len(m.log.String())
	do()
	lines := []string{}
	for line := range strings.Lines(m.log.String()[before:]) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
		lines = append(lines, line)
	}
	return lines
}

// Each change in the table writes one log line. It names the mount and the client, and the request unless
// the worker made the change.
func TestLogOfChanges(t *testing.T) {
	m := newMount(t)
	const redoxDefault = " client=default mount=redox/ request_id=request-1 "
	var key, next string
	for _, step := range []struct {
		do   func()
		want func() string
	}{
		{func() { key = m.ready("", nil) }, func() string {
			return "[INFO]  key added:" + redoxDefault + "key_id=" + key + " state=active origin=imported\n" +
				"[INFO]  config written:" + redoxDefault + `fields=["client_id", "token_url"]`
		}},
		{func() { next = m.write("keys/generate", nil)["key_id"].(string) }, func() string {
			return "[INFO]  key added:" + redoxDefault + "key_id=" + next + " state=pending origin=generated"
		}},
		{func() { m.publish(""); m.write("keys/"+next+"/activate", nil) }, func() string {
			return "[INFO]  signing key changed:" + redoxDefault + "key_id=" + next + " proved=true"
		}},
		{func() { m.write("keys/"+key+"/activate", map[string]any{"force": true}) }, func() string {
			return "[INFO]  signing key changed:" + redoxDefault + "key_id=" + key + " proved=false"
		}},
		{func() { m.must(logical.DeleteOperation, "keys/"+next, nil) }, func() string {
			return "[INFO]  key deleted:" + redoxDefault + "key_id=" + next + " state=retiring"
		}},
		{func() { next = m.write("keys/rotate", nil)["key_id"].(string) }, func() string {
			return "[INFO]  rotation begins:" + redoxDefault + "key_id=" + next
		}},
		{func() { m.publish(""); m.rotate() }, func() string {
			return "[INFO]  signing key changed: client=default mount=redox/ key_id=" + next + " proved=true"
		}},
		{func() { m.must(logical.DeleteOperation, "config", nil) }, func() string {
			return "[INFO]  config deleted: client=default mount=redox/ request_id=request-1"
		}},
		{func() { m.write("clients/acme/keys/generate", nil) }, func() string {
			return "[INFO]  key added: client=acme mount=redox/ request_id=request-1 key_id=" +
				m.read("clients/acme/keys")["active"].(string) + " state=active origin=generated"
		}},
		{func() { m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true}) }, func() string {
			return "[INFO]  client deleted: client=acme mount=redox/ request_id=request-1 keys=1"
		}},
	} {
		got := m.lines(step.do)
		if diff := cmp.Diff(strings.Split(step.want(), "\n"), got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// These reads succeed and write no log line. Neither does a wrong request, or an activation of the key
// that is active. Vault's audit log has all of these.
func TestLogOfReads(t *testing.T) {
	m := newMount(t)
	key := m.ready("", map[string]any{"public_jwks": true})
	got := m.lines(func() {
		for _, path := range []string{"token", "check", "config", "keys", "keys/" + key, "jwks", "metrics"} {
			m.read(path)
		}
		m.write("keys/"+key+"/activate", nil) // is active already, so nothing changes
		m.fails(http.StatusBadRequest, logical.UpdateOperation, "config", map[string]any{"assertion_ttl": "6m"})
		m.fails(http.StatusBadRequest, logical.UpdateOperation, "keys/import", map[string]any{"private_key": "key.pem"})
		m.fails(http.StatusNotFound, logical.ReadOperation, "keys/none", nil)
		m.fails(http.StatusBadRequest, logical.ReadOperation, "clients/acme/token", nil)
	})
	if diff := cmp.Diff([]string{}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A request that fails at Redox writes one log line, with the whole text that the reader got.
func TestLogOfFailures(t *testing.T) {
	m := newMount(t)
	m.ready("clients/acme/", map[string]any{"max_retries": 0})
	for _, c := range []struct {
		fault  redoxtest.Fault
		status int
		path   string
		want   string
	}{
		{redoxtest.FaultBlank, http.StatusBadRequest, "token", "[WARN]  Redox refused: "},
		{redoxtest.FaultBlank, http.StatusBadRequest, "check", "[WARN]  Redox refused: "},
		{redoxtest.FaultUnavailable, http.StatusBadGateway, "token", "[WARN]  no usable answer from Redox: "},
	} {
		m.sandbox.SetFault(c.fault, 1)
		var said string
		got := m.lines(func() { said = m.fails(c.status, logical.ReadOperation, "clients/acme/"+c.path, nil) })
		want := c.want + "client=acme mount=redox/ path=clients/acme/" + c.path + " request_id=request-1 error="
		if len(got) != 1 || !strings.HasPrefix(got[0], want) || !strings.HasSuffix(got[0],
			strings.Trim(strconv.Quote(said), `"`)+`"`) {
			t.Errorf("said %q, and logged\n  %s\nwant one line that begins\n  %s", said, strings.Join(got, "\n  "), want)
		}
	}
}

// If many requests of one client fail at once, only ten of them write a log line. A second later, the
// next failure writes one line, which says how many were skipped. A failure of another client is still
// logged.
func TestLogOfAFlood(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.ready("clients/other/", nil)
	m.sandbox.SetFault(redoxtest.FaultBlank, -1)
	flood := func(prefix string, n int) []string {
		return m.lines(func() {
			for range n {
				m.fails(http.StatusBadRequest, logical.ReadOperation, prefix+"token", nil)
			}
		})
	}
	if got := flood("", 80); len(got) != 10 {
		t.Errorf("%d lines of 80 failures at once, want 10", len(got))
	}
	if got := flood("clients/other/", 1); len(got) != 1 || strings.Contains(got[0], "lines_skipped") {
		t.Errorf("the other client's failure leaves %q", got)
	}
	m.pass(time.Second)
	if got := flood("", 80); len(got) != 1 || !strings.Contains(got[0], " lines_skipped=70 ") {
		t.Errorf("of 80 failures a second later: %q", got)
	}
	m.must(logical.DeleteOperation, "config", nil)
	m.must(logical.DeleteOperation, "clients/other", map[string]any{"force": true})
	if _, err := m.backend.work(m.storage).List(t.Context()); err != nil || len(m.backend.log.clients) != 1 {
		t.Errorf("%v, failures of %d clients are kept", err, len(m.backend.log.clients))
	}
}

// However many clients have failures, the mount logs at most 50 failures at once.
func TestLogOfManyClients(t *testing.T) {
	l, lines := newMountLog(), 0
	for client := range 200 {
		if _, write := l.mayWrite(fmt.Sprint(client), noon); write {
			lines++
		}
	}
	if lines != 50 {
		t.Errorf("%d lines", lines)
	}
}

// If a request gets no slot, the log says that there is too much at once, and does not blame Redox.
func TestLogOfOverload(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	release, err := m.backend.generating.acquire(t.Context(), defaultClient, false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	got := m.lines(func() { m.fails(429, logical.UpdateOperation, "keys/generate", nil) })
	if len(got) != 1 || !strings.HasPrefix(got[0], "[WARN]  too much at once: client=default ") {
		t.Errorf("%q", got)
	}
}

// If a proxy in the environment cannot be used, the log says so when the mount starts.
func TestLogOfProxyTrouble(t *testing.T) {
	defer func(was func() string) { redoxapi.ProxyTrouble = was }(redoxapi.ProxyTrouble)
	for trouble, want := range map[string][]string{
		"": {}, "HTTPS_PROXY is wrong": {"[WARN]  HTTPS_PROXY is wrong"},
	} {
		redoxapi.ProxyTrouble = func() string { return trouble }
		m := newMount(t)
		got := m.lines(func() {
			if err := m.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}); err != nil {
				t.Error(err)
			}
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// The worker has no request that names the mount. Its log lines have the path of the mount from the last
// request.
func TestLogKnowsTheMount(t *testing.T) {
	m := newMount(t)
	if at := m.backend.log.mountPoint(); at != "" {
		t.Errorf("before any request: %q", at)
	}
	for _, mount := range []string{"redox/", "redox/", "health/redox/"} {
		req := &logical.Request{Operation: logical.ReadOperation, Path: "config", MountPoint: mount, Storage: m.storage}
		if _, err := m.backend.HandleRequest(context.Background(), req); err != nil {
			t.Fatal(err)
		}
		if at := m.backend.log.mountPoint(); at != mount {
			t.Errorf("mount %q after a request at %s", at, mount)
		}
	}
}
