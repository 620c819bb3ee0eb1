package redox

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// A client has a connection of its own. It keeps that one until ca_pem changes, or until forget or keep
// removes the connection.
func TestConnections(t *testing.T) {
	c := newConnections(time.Now)
	of := func(client, ca string) *connection {
		t.Helper()
		conn, err := c.of(client, ca)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	ca := testdata(t, "certificate.pem")
	one := of("a", "")
	if of("a", "") != one {
		t.Error("the same client got another connection")
	}
	if of("b", "") == one {
		t.Error("two clients share a connection")
	}
	two := of("a", ca)
	if two == one {
		t.Error("ca_pem changed, and the connection stayed")
	}
	if _, err := c.of("a", "nonsense"); err == nil {
		t.Error("a nonsensical ca_pem made a connection")
	}
	if of("a", ca) != two {
		t.Error("a failed change took the connection away")
	}
	c.forget("a")
	if of("a", ca) == two {
		t.Error("a forgotten connection came back")
	}
	c.keep(nil)
	if len(c.clients) != 0 {
		t.Errorf("%d connections are kept", len(c.clients))
	}
}

// If a client's connection is replaced or removed, the idle TCP connection in it is closed.
func TestConnectionsClose(t *testing.T) {
	ca := testdata(t, "certificate.pem")
	for name, end := range map[string]func(c *connections) error{
		"ca_pem changed":   func(c *connections) error { _, err := c.of("a", ca); return err },
		"it was forgotten": func(c *connections) error { c.forget("a"); return nil },
		"its client went":  func(c *connections) error { c.keep(map[string]bool{"b": true}); return nil },
	} {
		closed := make(chan struct{}, 1)
		server := httptest.NewUnstartedServer(answers(http.StatusServiceUnavailable, ""))
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed <- struct{}{}
			}
		}
		server.Start()
		c := newConnections(time.Now)
		conn, err := c.of("a", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.api.Exchange(t.Context(), server.URL, "", ""); !isUpstream(err) {
			t.Fatal(err)
		}
		if err := end(c); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the end of a connection when "+name, func() bool { return len(closed) == 1 })
		server.Close()
	}
}

// If Redox closes an idle connection, no read fails, and no assertion is sent twice.
func TestTokenOnAClosedConnection(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	for range 3 {
		m.read("token")
		waitFor(t, "the connection to be idle", func() bool { return m.sandbox.CloseIdle() == 1 })
		waitFor(t, "the connection to be closed", func() bool { return m.sandbox.CloseIdle() == 0 })
	}
	sent := m.sandbox.Assertions()
	n := len(sent)
	slices.Sort(sent)
	if different := len(slices.Compact(sent)); n != 3 || different != 3 {
		t.Errorf("%d assertions, %d of them different, want 3", n, different)
	}
}

// A read that waits for Redox blocks no other request: meanwhile the config can be written, a key can be
// added, and another read gets a token.
func TestWritesWhileRedoxStalls(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.sandbox.SetFault(redoxtest.FaultStall, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = m.request(ctx, logical.ReadOperation, "token", nil)
	}()
	waitFor(t, "the request to be under way", func() bool { return len(m.sandbox.Assertions()) == 1 })
	m.write("config", map[string]any{"max_retries": 1})
	m.write("keys/generate", nil)
	m.must(logical.ListOperation, "keys", nil)
	m.read("token")
	cancel()
	<-done
}
