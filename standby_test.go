package redox

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// standbyOf returns another node of m's mount, in that replication state. It has m's sandbox, and m's clock as it
// is now.
func standbyOf(m *mount, state consts.ReplicationState) *mount {
	m.t.Helper()
	node := newMountOn(m.t, m.storage, systemView(state))
	node.sandbox = m.sandbox
	node.ahead = m.ahead
	node.now = m.now
	node.pass(0)
	return node
}

// forwards reads token. If want is true, the node must answer with the error that makes Vault forward the read,
// else with HTTP 400.
func (m *mount) forwards(want bool) {
	m.t.Helper()
	resp, err := m.request(context.Background(), logical.ReadOperation, "token", nil)
	if want && (err == nil || err.Error() != logical.ErrReadOnly.Error()) { // Vault compares the text
		m.t.Errorf("the node answers %v, %v", resp, err)
	}
	if status, message := outcome(logical.ReadOperation, resp, err); !want && status != 400 {
		m.t.Errorf("the node answers HTTP %d %s", status, message)
	}
}

// If somebody has emptied Redox's list of keys, a standby forwards a refused read to the active node, at most once
// in ten seconds. The active node repairs the list.
func TestStandbyForwards(t *testing.T) {
	m := newMount(t)
	active := m.platformReady(nil)
	m.rotate()
	m.pass(10 * time.Minute)
	standby := standbyOf(m, consts.ReplicationPerformanceStandby)
	before := snapshot(t, m.storage)
	m.register(clientID, `{"keys":[]}`)
	standby.forwards(true)
	standby.forwards(false)
	standby.pass(recheckAfter - time.Second)
	standby.forwards(false)
	standby.pass(time.Second)
	standby.forwards(true)
	standby.unchanged(before)
	standbyOf(m, consts.ReplicationPerformanceSecondary).forwards(true)
	standby.expect(map[string]float64{
		"redox_token_reads_total{client=default,outcome=refused}": 2,
		"redox_token_reads_total{client=default,outcome=error}":   0, // the active node counts what was forwarded
	})
	v, err := m.backend.entries.view(t.Context(), m.storage, defaultClient)
	if err != nil || m.backend.mayForward(defaultClient, v) {
		t.Errorf("the active node would forward to itself: %v", err)
	}

	m.forwards(false) // the forwarded read arrives
	m.rotate()
	m.signs(active)
	standby.signs(active)
}

// A standby does not forward a refused read if no platform client publishes the keys, if the refusal does not say
// that the key is unknown, or if reuse_tokens is on: then many readers share one call.
func TestStandbyKeeps(t *testing.T) {
	for name, test := range map[string]struct {
		settings map[string]any
		fault    redoxtest.Fault
	}{
		"of a list that no platform client keeps": {map[string]any{"platform_client": ""}, ""},
		"of another kind":                         {nil, redoxtest.FaultBlank},
		"of a call for many readers":              {map[string]any{"reuse_tokens": true}, ""},
	} {
		t.Run("a refusal "+name, func(t *testing.T) {
			m := newMount(t)
			m.platformReady(test.settings)
			standby := standbyOf(m, consts.ReplicationPerformanceStandby)
			m.register(clientID, `{"keys":[]}`)
			m.sandbox.SetFault(test.fault, -1)
			standby.forwards(false)
		})
	}
}

// A standby returns a token that it got with a retiring key. That does not delay the forwarding of a later read
// that fails.
func TestStandbyHasAToken(t *testing.T) {
	m := newMount(t)
	old := m.platformReady(nil)
	m.rotate() // Redox accepts the first key
	next := m.write("keys/generate", nil)["key_id"].(string)
	m.write("keys/"+next+"/activate", map[string]any{"force": true})
	standby := standbyOf(m, consts.ReplicationPerformanceStandby)
	standby.signs(old)
	m.register(clientID, `{"keys":[]}`)
	standby.forwards(true)
}

// If Redox refuses a refresh ahead of time on a standby, the reader gets the old token.
func TestStandbyRefreshesAhead(t *testing.T) {
	m := newMount(t)
	m.platformReady(map[string]any{"reuse_tokens": true})
	standby := standbyOf(m, consts.ReplicationPerformanceStandby)
	first := standby.read("token")["access_token"]
	m.register(clientID, `{"keys":[]}`)
	sent := standby.asked()
	if got := standby.later(230 * time.Second)["access_token"]; got != first || standby.asked() != sent+1 {
		t.Errorf("another token, or %d requests", standby.asked()-sent)
	}
}
