package redox

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestClients(t *testing.T) {
	m := newMount(t)
	m.fails(404, logical.ListOperation, "clients", nil)
	m.write("config", map[string]any{"client_id": clientID})
	acme := m.ready("clients/acme-prod/", nil)
	m.write("clients/b/keys/generate", nil)
	if diff := cmp.Diff([]any{"acme-prod", "b"}, m.must(logical.ListOperation, "clients", nil)["keys"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"client_id": clientID, "key_ids": []any{acme}},
		m.read("clients/acme-prod")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := m.read("clients/b"); got["client_id"] != "" {
		t.Errorf("a client without config has client_id %v", got["client_id"])
	}
	m.fails(404, logical.ReadOperation, "clients/nobody", nil)

	// Clients share neither a config nor keys.
	m.fails(400, logical.ReadOperation, "clients/b/token", nil, "no client ID")
	m.fails(404, logical.ReadOperation, "clients/b/keys/"+acme, nil)
	if got := m.read("clients/acme-prod/token")["key_id"]; got != acme {
		t.Errorf("signed by %v", got)
	}

	before := snapshot(t, m.storage)
	m.fails(400, logical.DeleteOperation, "clients/acme-prod", nil, "client acme-prod has keys", "force=true")
	m.unchanged(before)
	m.expect(map[string]float64{"redox_token_reads_total{client=acme-prod,outcome=issued}": 1})
	m.must(logical.DeleteOperation, "clients/acme-prod", map[string]any{"force": true})
	delete(before, "clients/acme-prod/config")
	delete(before, "clients/acme-prod/keyring")
	m.unchanged(before)
	m.must(logical.DeleteOperation, "clients/nobody", nil)
}

// The default client has only the bare paths. With a second path to it, a policy on the bare path could
// be bypassed.
func TestDefaultHasNoAlias(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	before := snapshot(t, m.storage)
	for _, path := range []string{"token", "config", "keys", "keys/x", "check"} {
		m.fails(404, logical.ReadOperation, "clients/default/"+path, nil, "the default client has the bare paths")
	}
	for _, path := range []string{"config", "keys/generate", "keys/import", "keys/x/activate"} {
		m.fails(404, logical.UpdateOperation, "clients/default/"+path, nil, "the default client has the bare paths")
	}
	m.fails(404, logical.DeleteOperation, "clients/default", nil, "the default client has the bare paths")
	m.unchanged(before)
}
