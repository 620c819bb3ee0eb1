package redox

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// checked reads check and returns its warnings.
func (m *mount) checked() string {
	m.t.Helper()
	resp, err := m.request(m.t.Context(), logical.ReadOperation, "check", nil)
	if err != nil || resp.IsError() {
		m.t.Fatal(resp, err)
	}
	return strings.Join(resp.Warnings, "\n")
}

// If a step fails for another reason than Redox, check and keys say why, until a step succeeds. If a
// rotation should have begun five minutes ago, they say that too. The metric redox_rotation_overdue is
// 1 in both cases.
func TestOverdue(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", map[string]any{"rotation_period": "24h"})
	m.rotate()
	due := m.now.Add(24 * time.Hour).UTC().Format(time.RFC3339)
	const metric = "redox_rotation_overdue{client=default}"
	fail := func() string {
		storage.countdown = 0
		m.rotateAll(t.Context())
		storage.countdown = -1
		return "the last step failed at " + m.now.UTC().Format(time.RFC3339) + " and is tried again each minute: "
	}
	state := func(overdue float64, want string) {
		t.Helper()
		m.expect(map[string]float64{metric: overdue})
		warnings, rotation := m.checked(), m.read("keys")["rotation"].(string)
		if want == "" && warnings != "" || !strings.Contains(warnings, want) || !strings.Contains(rotation, want) {
			t.Errorf("check warns %q, keys says %q, want %q", warnings, rotation, want)
		}
	}
	state(0, "")
	state(1, fail()+"reading clients/default/config: the storage is gone")
	m.rotateAll(t.Context())
	state(0, "")

	m.pass(24*time.Hour + overdueAfter - time.Second)
	state(0, "")
	m.pass(time.Second)
	state(1, "the rotation has been overdue since "+due+": the last step on this node, if there was one, did not fail")
	state(1, "the rotation has been overdue since "+due+": "+fail())
	m.rotateAll(t.Context()) // the rotation begins
	state(0, "")
}

// If Vault could not start the plugin when the node became active, the plugin cannot write.
// Then the warning says what to do, and that a reload does not help.
func TestOverdueDuringSetup(t *testing.T) {
	for said, want := range map[string]string{
		"writing clients/default/keyring: cannot write to storage during setup": "mount since: run vault operator " +
			"step-down, or seal and unseal the node; a reload does not help",
		"writing clients/default/keyring: context canceled": "context canceled",
	} {
		ring := &keyring.Ring{Keys: []*keyring.Key{{State: keyring.Active, ActivatedAt: noon}}}
		s := status{config: &config{RotationPeriod: 24 * hour}, ring: ring, now: noon.Add(48 * time.Hour),
			failed: failure{noon, said}}
		for _, text := range []string{s.warnings()[0], s.rotation()} {
			if !strings.Contains(text, said) || !strings.HasSuffix(text, want) {
				t.Errorf("%q", text)
			}
		}
	}
}

// If a rotation should have begun and the ring is full, overdue says so.
func TestOverdueFullRing(t *testing.T) {
	ring := &keyring.Ring{Keys: []*keyring.Key{{State: keyring.Active, ActivatedAt: noon}}}
	for range 7 {
		ring.Keys = append(ring.Keys, &keyring.Key{State: keyring.Retiring})
	}
	s := status{config: &config{RotationPeriod: 24 * hour}, ring: ring, now: noon.Add(48 * time.Hour)}
	if text := s.overdue(); !strings.HasSuffix(text, ": the ring is full with 8 keys: delete a retiring one first") {
		t.Errorf("overdue: %q", text)
	}
}

// The failure of a client's last step is forgotten when the client is deleted.
func TestFailuresForget(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.ready("clients/acme/", nil)
	storage.countdown = 0
	m.rotateAll(t.Context())
	storage.countdown = -1
	if m.backend.failures.of("acme").text == "" {
		t.Error("the failure is not noted")
	}
	m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	if f := m.backend.failures.of("acme"); f.text != "" {
		t.Errorf("of a deleted client: %v", f)
	}
}

// check warns of refused proofs only while a rotation is under way: somebody asked for it,
// or it is due. It does not warn if a longer rotation_period has put the rotation off.
func TestRotationCalledOff(t *testing.T) {
	next := &keyring.Key{ID: "next", State: keyring.Pending, Proofs: keyring.Attempts{Failure: "no", Refusals: 1}}
	ring := &keyring.Ring{Keys: []*keyring.Key{{ID: "old", State: keyring.Active, ActivatedAt: noon}, next}}
	warns := func(rotating bool, period int64) bool {
		next.Rotating = rotating
		s := status{config: &config{RotationPeriod: period}, ring: ring, now: noon.Add(24 * time.Hour)}
		return len(s.warnings()) > 0
	}
	if !warns(true, 0) || !warns(false, 24*hour) {
		t.Error("it does not warn of a rotation that is under way")
	}
	if warns(false, 0) || warns(false, 24*hour+1) {
		t.Error("it warns of a rotation that is not under way")
	}
}
