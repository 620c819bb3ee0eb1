package redox

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// A client keeps its connection until ca_pem changes or it is forgotten.
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
	slices.Sort(sent)
	if len(slices.Compact(sent)) != 3 {
		t.Errorf("%d different assertions, want 3", len(slices.Compact(sent)))
	}
}

// At most 64 requests of a client are in flight. A further one waits for a second and
// then fails. Other clients are not affected.
func TestTokenOverload(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"request_timeout": 30, "max_retries": 0})
	m.ready("clients/other/", nil)
	m.sandbox.SetFault(redoxtest.FaultStall, maxInFlight)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for range maxInFlight {
		go func() {
			_, err := m.request(ctx, logical.ReadOperation, "token", nil)
			done <- err
		}()
	}
	waitFor(t, "all slots to be taken", func() bool { return len(m.sandbox.Assertions()) == maxInFlight })
	m.fails(429, logical.ReadOperation, "token", nil, "too many token requests at once: 64 requests of")
	m.read("clients/other/token")
	m.read("check")
	cancel()
	for range maxInFlight {
		if err := <-done; err == nil {
			t.Error("a stalled request succeeded")
		}
	}
	m.read("token")
}

// A request that waits for Redox holds no lock: while Redox stalls, the config can be
// written and keys can be added.
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

// A request that waits for a slot gets the next free one. It gives up after a second,
// or when its reader gives up.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots{make(chan struct{}, 2), make(chan struct{}, 3)}
		var release []func()
		for range 2 {
			done, err := s.acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			release = append(release, done)
		}
		go func() {
			time.Sleep(slotWait - time.Millisecond)
			release[0]()
		}()
		if _, err := s.acquire(t.Context()); err != nil {
			t.Errorf("a slot became free in time: %v", err)
		}
		start := time.Now()
		_, err := s.acquire(t.Context())
		var up *redoxapi.UpstreamError
		if !errors.As(err, &up) || up.Kind != redoxapi.Overloaded || time.Since(start) != slotWait {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), slotWait/2)
		defer cancel()
		if _, err := s.acquire(ctx); !errors.As(err, &up) || up.Kind != redoxapi.TimedOut {
			t.Errorf("the reader gave up: %v", err)
		}
		if taken := [2]int{len(s[0]), len(s[1])}; taken != [2]int{2, 2} {
			t.Errorf("slots taken: %v", taken)
		}
		// The second kind has no free slot: the slot of the first kind is given back.
		release[1]()
		s[1] <- struct{}{}
		s[1] <- struct{}{}
		if _, err := s.acquire(t.Context()); !errors.As(err, &up) || up.Kind != redoxapi.Overloaded || len(s[0]) != 1 {
			t.Errorf("%v, %d slots taken", err, len(s[0]))
		}
	})
}
