package redox

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/schedule"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// pass sets the clocks of the engine and of the sandbox ahead by d, or back if d is negative.
func (m *mount) pass(d time.Duration) {
	m.now = m.now.Add(d)
	m.backend.now = func() time.Time { return m.now }
	m.ahead += d
	m.sandbox.SetClockOffset(m.ahead)
}

// rotateAll does one step for each client, and returns the earliest time at which a next step is due, zero for
// none.
func (m *mount) rotateAll(ctx context.Context) (look time.Time) {
	m.t.Helper()
	under := m.storage
	if faulty, is := under.(*faultyStorage); is {
		under = faulty.Storage
	}
	names, err := store.List(context.Background(), under, clientsPrefix)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range names {
		at, err := m.backend.work(m.storage).Step(ctx, strings.TrimSuffix(name, "/"))
		if err != nil {
			at = m.backend.now().Add(schedule.LookAgain)
		}
		if !at.IsZero() && (look.IsZero() || at.Before(look)) {
			look = at
		}
	}
	return look
}

// rotate does all steps that are due, and returns the time until the next one, zero if none is planned.
func (m *mount) rotate() time.Duration {
	m.t.Helper()
	for range 20 {
		look := m.rotateAll(context.Background())
		if look.IsZero() {
			return 0
		}
		if wait := look.Sub(m.backend.now()); wait > 0 {
			return wait.Round(time.Second)
		}
	}
	m.t.Fatal("the rotator does not come to rest")
	return 0
}

// signs reads a token, and fails the test unless the token was requested with the key keyID.
func (m *mount) signs(keyID any) {
	m.t.Helper()
	if got := m.read("token")["key_id"]; got != keyID {
		m.t.Errorf("key %v signed, want %v", got, keyID)
	}
}

// If somebody has to paste the keys, the engine repeats the proof of the new key until Redox accepts it. Until
// then the old key signs.
func TestRotatePasted(t *testing.T) {
	m := newMount(t)
	old := m.ready("", nil)
	begun := m.write("keys/rotate", nil)
	next := begun["key_id"].(string)
	if begun["state"] != "pending" || begun["key_bits"] != 2048.0 ||
		!strings.Contains(begun["next"].(string), "press Save Changes; key "+next+" then signs by itself") {
		t.Errorf("begun: %v", begun)
	}
	if wait := m.rotate(); wait != time.Minute {
		t.Errorf("after a refusal it waits %v", wait)
	}
	text := m.read("keys")["rotation"].(string)
	for _, part := range []string{"under way: give Redox the public half", "failed: Redox refused the token request",
		"Public key not found", "the next is at "} {
		if !strings.Contains(text, part) {
			t.Errorf("keys says %q, want %q", text, part)
		}
	}
	resp, err := m.request(t.Context(), logical.ReadOperation, "check", nil)
	if err != nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0],
		"the rotation to key "+next+" makes no progress: give Redox the public half") {
		t.Errorf("check: %v, %v", resp, err)
	}
	m.signs(old)
	before := snapshot(t, m.storage)
	m.fails(400, logical.UpdateOperation, "keys/rotate", nil, "a rotation to key "+next+" is under way already")
	m.unchanged(before)

	m.pass(time.Minute)
	if wait := m.rotate(); wait != 2*time.Minute {
		t.Errorf("after two refusals it waits %v", wait)
	}
	m.publish("")
	m.pass(2 * time.Minute)
	if wait := m.rotate(); wait != 24*time.Hour {
		t.Errorf("after the switch it waits %v", wait)
	}
	m.signs(next)
	if state := m.read("keys/" + old); state["state"] != "retiring" || state["published_until"] == "" {
		t.Errorf("the old key: %v", state)
	}
	m.pass(24 * time.Hour)
	if wait := m.rotate(); wait != 0 {
		t.Errorf("when all is done it waits %v", wait)
	}
	m.fails(404, logical.ReadOperation, "keys/"+old, nil)
	m.signs(next)
	if got := m.read("keys")["rotation"]; got != "off: there is no rotation_period" {
		t.Errorf("keys says %q", got)
	}
}

// With public_jwks, nobody has to do anything during a rotation. The answer to keys/rotate says so, rotation in
// keys says that the new key is published, and check does not warn.
func TestRotateNeedsNobody(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	begun := m.write("keys/rotate", nil)
	waits := "key " + begun["key_id"].(string) + " is published at redox/jwks since "
	if next := begun["next"].(string); !strings.HasPrefix(next, "nothing: "+waits) {
		t.Errorf("next: %s", next)
	}
	if text := m.read("keys")["rotation"].(string); !strings.HasPrefix(text, "under way: "+waits) {
		t.Errorf("rotation: %s", text)
	}
	if resp, err := m.request(t.Context(), logical.ReadOperation, "check", nil); err != nil || len(resp.Warnings) != 0 {
		t.Errorf("check warns of a key that was not tried yet: %v, %v", resp, err)
	}
}

// With public_jwks and a rotation_period, rotations happen without anybody's help. A new key signs only after its
// publish window.
func TestRotateFetched(t *testing.T) {
	m := newMount(t)
	active := any(m.ready("", map[string]any{"public_jwks": true, "rotation_period": "24h", "publish_window": "15m",
		"retire_after": "1h"}))
	for round := range 5 {
		m.pass(m.rotate())
		if wait := m.rotate(); wait != 15*time.Minute {
			t.Fatalf("round %d: with the next key published it waits %v", round, wait)
		}
		m.signs(active)
		next := m.read("keys")["pending"]
		if text := m.read("keys")["rotation"].(string); !strings.Contains(text,
			"under way: key "+next.(string)+" is published at redox/jwks since "+m.now.UTC().Format(time.RFC3339)+" and is "+
				"proved from ") {
			t.Errorf("keys says %q", text)
		}
		m.publish("") // stands for Redox's fetch of the set
		m.pass(15*time.Minute - time.Second)
		m.rotate()
		m.signs(active)
		m.pass(time.Second)
		m.rotate()
		m.signs(next)
		m.pass(time.Hour)
		m.rotate()
		if n := len(m.must(logical.ListOperation, "keys", nil)["keys"].([]any)); n != 1 {
			t.Errorf("round %d ends with %d keys", round, n)
		}
		active = next
	}
}

// With public_jwks, the step that adds a key also stores since when the key is published.
func TestRotationNotesPublication(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true, "rotation_period": "24h"})
	m.pass(m.rotate())
	m.rotateAll(t.Context())
	if text := m.read("keys")["rotation"].(string); !strings.Contains(text, "is published at redox/jwks since ") {
		t.Errorf("rotation: %s", text)
	}
}

// keys/rotate uses a key that is pending already. In an empty ring it generates the first key. With a key and no
// config it fails, and says what is missing.
func TestRotateAdopts(t *testing.T) {
	m := newMount(t)
	if first := m.write("keys/rotate", nil); first["state"] != "active" {
		t.Errorf("in an empty ring: %v", first)
	}
	m.fails(400, logical.UpdateOperation, "keys/rotate", nil, "no client ID")
	m.write("config", map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL()})
	imported := m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "mine"})
	if got := m.write("keys/rotate", nil); got["key_id"] != imported["key_id"] {
		t.Errorf("rotating to %v", got)
	}
	m.publish("")
	m.rotate()
	m.signs("mine")
	next := m.write("keys/rotate", nil)
	if next["key_bits"] != 3072.0 {
		t.Errorf("the successor of 3072 bits has %v", next["key_bits"])
	}
	// Deleting the pending key ends the rotation.
	m.must(logical.DeleteOperation, "keys/"+next["key_id"].(string), nil)
	if wait := m.rotate(); wait != 24*time.Hour {
		t.Errorf("it waits %v", wait)
	}
	m.signs("mine")
}

// keys/rotate fails, and says why, if the pending key is deleted after keys/rotate has read the ring.
func TestRotateOvertaken(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	active := m.ready("", nil)
	next := m.write("keys/generate", nil)["key_id"].(string)
	storage.got = func() {
		storage.got = nil // at the first read of the ring
		m.must(logical.DeleteOperation, "keys/"+next, nil)
	}
	m.fails(400, logical.UpdateOperation, "keys/rotate", nil, "the pending key was deleted or activated meanwhile: repeat")
	if got := m.read("keys"); got["active"] != active || got["pending"] != "" {
		t.Errorf("the ring: %v", got)
	}
}

// If any one storage operation of a rotation fails, every read of token between the steps succeeds, and the
// rotation completes.
func TestRotationSurvivesStorage(t *testing.T) {
	t.Parallel()
	for at := 0; ; at++ {
		storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
		m := newMountOn(t, storage, systemView(0))
		old := m.ready("", map[string]any{"rotation_period": "24h", "retire_after": "1h"})
		m.pass(24 * time.Hour)
		storage.countdown = at
		for range 6 {
			m.rotateAll(t.Context())
			left := storage.countdown
			storage.countdown = -1
			m.read("token")
			m.publish("")
			storage.countdown = left
			m.pass(20 * time.Minute)
		}
		untouched := storage.countdown >= 0
		storage.countdown = -1
		for range 3 {
			m.rotate()
			m.publish("")
			m.pass(time.Hour)
		}
		m.rotate()
		m.fails(404, logical.ReadOperation, "keys/"+old, nil)
		m.signs(m.read("keys")["active"])
		for _, line := range []string{"rotation begins", "signing key changed", "rotation ends"} {
			if n := strings.Count(m.log.String(), line); n != 1 {
				t.Errorf("with a fault at operation %d the log says %d times: %s", at, n, line)
			}
		}
		if n := len(m.must(logical.ListOperation, "keys", nil)["keys"].([]any)); n != 1 {
			t.Errorf("with a fault at operation %d there are %d keys in the end", at, n)
		}
		if untouched {
			if at < 8 {
				t.Errorf("a rotation has %d storage operations", at)
			}
			break
		}
	}
}

// The result of a proof is not used if, during the proof, the config was deleted or its
// client_id or ca_pem was changed.
func TestRotationOvertaken(t *testing.T) {
	t.Parallel()
	for name, overtake := range map[string]func(m *mount){
		"another client ID": func(m *mount) { m.write("config", map[string]any{"client_id": "another"}) },
		"another authority": func(m *mount) {
			m.write("config", map[string]any{"ca_pem": testdata(m.t, "certificate.pem")})
		},
		"no config": func(m *mount) { m.must(logical.DeleteOperation, "config", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			old := m.ready("", nil)
			m.rotate() // Redox accepts the first key, so that the next step is the proof
			m.write("keys/rotate", nil)
			m.publish("")
			m.sandbox.SetFault(redoxtest.FaultSlow, 1)
			done := make(chan time.Time)
			go func() { done <- m.rotateAll(context.Background()) }()
			waitFor(t, "the proof", func() bool { return m.sandbox.FaultsLeft() == 0 })
			overtake(m)
			<-done
			if got := m.read("keys")["active"]; got != old || strings.Contains(m.log.String(), "panic") {
				t.Errorf("the active key is %v; the log holds %s", got, m.log)
			}
		})
	}
}

// A standby rotates no keys. The keys of a client without a config are not rotated.
func TestRotationElsewhere(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"rotation_period": "24h"})
	m.pass(48 * time.Hour)
	before := snapshot(t, m.storage)
	standby := newMountOn(t, m.storage, systemView(consts.ReplicationPerformanceStandby))
	standby.pass(48 * time.Hour)
	if wait := standby.rotate(); wait != 0 {
		t.Errorf("a standby waits %v", wait)
	}
	m.unchanged(before)
	m.must(logical.DeleteOperation, "config", nil)
	if wait := m.rotate(); wait != 0 {
		t.Errorf("without a config it waits %v", wait)
	}
}

// start calls Initialize, as Vault does, which starts the schedule.
func (m *mount) start() {
	m.t.Helper()
	if err := m.backend.Initialize(m.t.Context(), &logical.InitializationRequest{Storage: m.storage}); err != nil {
		m.t.Fatal(err)
	}
}

// If the server of one client stalls, the rotations of another client are not delayed.
func TestRotatorSideBySide(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	stalled, err := redoxtest.Start(redoxtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stalled.Close)
	stalled.SetFault(redoxtest.FaultStall, -1)
	m.ready("clients/acme/", map[string]any{"token_url": stalled.TokenURL(), "request_timeout": "30s", "max_retries": 0})
	m.write("clients/acme/keys/rotate", nil)
	m.start()
	waitFor(t, "the proof that stalls", func() bool { return len(stalled.Assertions()) > 0 })
	for range 2 {
		next := m.write("keys/generate", nil)["key_id"]
		m.publish("")
		m.write("keys/rotate", nil)
		waitFor(t, "the other client's switch", func() bool { return m.read("keys")["active"] == next })
	}
	if n := len(stalled.Assertions()); n != 1 {
		t.Errorf("the stalled proof was given up, as one of %d", n)
	}
}

// If listing the clients fails or panics, that is logged, but not the value of the panic.
func TestRotatorLists(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	for _, want := range []string{"the storage is gone", "panic in a rotation"} {
		storage.countdown = 0
		if _, err := m.backend.work(storage).List(t.Context()); err == nil || !strings.Contains(m.log.String(), want) {
			t.Errorf("%v; the log holds %s", err, m.log)
		}
		storage.panics = true
	}
	storage.countdown = -1
	if _, err := m.backend.work(storage).List(t.Context()); err != nil || strings.Contains(m.log.String(), "nil pointer") {
		t.Errorf("%v; the log holds %s", err, m.log)
	}
}

// The schedule begins a step of each client. A deleted client has no overview. After Cleanup no worker runs.
func TestRotatorKnowsClients(t *testing.T) {
	m := newMount(t)
	seen := func(client string) bool { return m.backend.overviews.all()[client].ring != nil }
	m.write("keys/generate", nil)
	m.write("clients/acme/keys/generate", nil)
	m.backend.overviews.keep(nil) // those that the writes made
	m.start()
	waitFor(t, "both", func() bool { return seen("default") && seen("acme") })
	m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	if unread, _ := m.backend.schedule.Unread(); unread != 0 || seen("acme") {
		t.Errorf("%d clients unread; it shows one that was deleted: %v", unread, seen("acme"))
	}
	m.backend.Cleanup(t.Context())
	if n := m.backend.schedule.Workers(); n != 0 {
		t.Errorf("%d workers after Cleanup", n)
	}
}

// Although Vault calls Initialize and PeriodicFunc several times, a rotation is done once. It needs no further
// calls. After Cleanup no worker runs.
func TestRotator(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	for range 2 {
		if err := m.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
		if err := m.backend.PeriodicFunc(t.Context(), &logical.Request{Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
	}
	next := m.write("keys/generate", nil)["key_id"]
	m.publish("")
	m.write("keys/rotate", nil)
	waitFor(t, "the switch", func() bool { return m.read("keys")["active"] == next })
	m.signs(next)
	if n := strings.Count(m.log.String(), "signing key changed"); n != 1 {
		t.Errorf("the key changed %d times", n)
	}
	m.backend.Cleanup(t.Context())
	if n := m.backend.schedule.Workers(); n != 0 {
		t.Errorf("%d workers after Cleanup", n)
	}
}

// If a step panics, that is logged, and the next step is due in a minute. A later rotation succeeds.
func TestRotatorPanics(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1, panics: true}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	storage.countdown = 0
	if wait := m.rotate(); wait != time.Minute || strings.Count(m.log.String(), "panic in a rotation") != 1 {
		t.Errorf("it waits %v; the log holds %s", wait, m.log)
	}
	next := m.write("keys/generate", nil)["key_id"]
	m.publish("")
	m.write("keys/rotate", nil)
	m.rotate()
	m.signs(next)
}
