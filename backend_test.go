package redox

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// A standby and a secondary cluster answer a write with ErrReadOnly, so that Vault forwards it. They send
// nothing to Redox for it, and store nothing. Reads succeed there.
func TestReplication(t *testing.T) {
	for name, state := range map[string]consts.ReplicationState{
		"standby": consts.ReplicationPerformanceStandby, "secondary": consts.ReplicationPerformanceSecondary,
	} {
		t.Run(name, func(t *testing.T) {
			primary := newMount(t)
			primary.setUp()
			before := snapshot(t, primary.storage)
			m := newMountOn(t, primary.storage, systemView(state))
			for _, o := range append(everyOperation(t, ""), everyOperation(t, "clients/acme/")...) {
				writes := o.op != logical.ReadOperation && o.op != logical.ListOperation
				asked := len(primary.sandbox.Assertions())
				resp, err := m.backend.HandleRequest(t.Context(), m.overTheWire(&logical.Request{
					Operation: o.op, Path: o.path, Data: o.data, MountPoint: "redox/", Storage: m.storage,
				}))
				if writes && len(primary.sandbox.Assertions()) != asked {
					t.Errorf("%s %s asked Redox before it was forwarded", o.op, o.path)
				}
				if writes != errors.Is(err, logical.ErrReadOnly) {
					t.Errorf("%s %s: %v, %v", o.op, o.path, resp, err)
				}
				if !writes && (err != nil || resp.IsError()) {
					t.Errorf("%s %s fails: %v, %v", o.op, o.path, resp, err)
				}
			}
			m.unchanged(before)
		})
	}
}

// Vault calls InvalidateKey when another node has written an entry. If the entry is a client's config,
// the engine forgets the connection of that client, and no other.
func TestInvalidate(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.ready("clients/acme/", nil)
	m.read("token")
	m.read("clients/acme/token")
	has := func(client string) bool {
		m.backend.connections.mu.Lock()
		defer m.backend.connections.mu.Unlock()
		return m.backend.connections.clients[client] != nil
	}
	for _, key := range []string{"clients/acme/keyring", "config", "clients/", "clients/nobody/config", "clients/acme",
		""} {
		m.backend.InvalidateKey(t.Context(), key)
		if !has("default") || !has("acme") {
			t.Fatalf("invalidating %q freed a connection", key)
		}
	}
	for key := range snapshot(t, m.storage) {
		if strings.HasSuffix(key, "acme/config") {
			m.backend.InvalidateKey(t.Context(), key)
		}
	}
	if has("acme") || !has("default") {
		t.Error("the changed config's connections stayed, or another's did not")
	}
	m.read("clients/acme/token")
}

// When a mount has ended, it keeps no connection.
func TestCleanup(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.read("token")
	m.backend.Cleanup(t.Context())
	if n := len(m.backend.connections.clients); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A panic in a handler makes only that request fail: a request to another mount in
// the same process completes.
func TestPanic(t *testing.T) {
	other := newMount(t)
	other.ready("", nil)
	other.sandbox.SetFault(redoxtest.FaultSlow, 1)
	done := make(chan map[string]any)
	go func() {
		resp, err := other.request(context.Background(), logical.ReadOperation, "token", nil)
		if err != nil || resp.IsError() {
			t.Errorf("the other mount's request: %v, %v", resp, err)
			done <- nil
			return
		}
		done <- resp.Data
	}()

	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1, panics: true}
	m := newMountOn(t, storage, systemView(0))
	m.setUp()
	for _, o := range everyOperation(t, "") {
		storage.countdown = 0
		text := m.fails(500, o.op, o.path, o.data,
			"internal error: the log of the Vault server says more under request ID request-1")
		storage.countdown = -1
		if strings.Contains(text, "nil pointer") || strings.Contains(text, ".go") {
			t.Errorf("%s %s shows the panic: %s", o.op, o.path, text)
		}
	}
	if log := m.log.String(); !strings.Contains(log, "panic in a handler") ||
		!strings.Contains(log, "nil pointer dereference") || !strings.Contains(log, "faultyStorage") {
		t.Errorf("the log does not tell where it came from:\n%s", log)
	}
	m.write("config", map[string]any{"max_retries": 1}) // succeeds: the panic left no lock behind
	if (<-done)["access_token"] == nil {
		t.Error("the other mount's request did not end well")
	}
}

// If a handler panics with a value that is not a runtime.Error, the log shows the type
// of the value and not the value.
func TestPanicHidesItsValue(t *testing.T) {
	m := newMount(t)
	m.backend.Paths = append(m.backend.Paths, &framework.Path{
		Pattern: "boom",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{Callback: func(context.Context, *logical.Request,
				*framework.FieldData) (*logical.Response, error) {
				panic(errors.New("canary"))
			}},
		},
	})
	m.fails(500, logical.ReadOperation, "boom", nil, "internal error")
	if log := m.log.String(); strings.Contains(log, "canary") || !strings.Contains(log, "*errors.errorString") {
		t.Errorf("the log holds\n%s", log)
	}
}
