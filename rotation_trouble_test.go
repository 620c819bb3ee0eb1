package redox

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const window = 15 * time.Minute

// rotationTroubles has problems that occur during a rotation of a client with public_jwks.
var rotationTroubles = map[string]struct {
	happens func(m *mount, old, next string)
	signs   string // old or next
	says    string // part of rotation in keys
}{
	"Redox is down for the whole window": {func(m *mount, _, _ string) {
		m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
		m.pass(window)
		for range 3 {
			m.rotate()
			m.pass(time.Minute)
		}
		m.sandbox.SetFault("", 0)
		m.publish("")
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"Redox refuses the proof for days, and then does not": {func(m *mount, old, _ string) {
		m.pass(window)
		for range 72 {
			m.rotate()
			m.signs(old)
			m.pass(time.Hour)
		}
		m.publish("")
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"Redox refuses still": {func(m *mount, _, _ string) {
		m.pass(window)
		m.rotate()
	}, "old", "failed: Redox refused the token request"},
	"Redox takes the key and forgets it": {func(m *mount, old, _ string) {
		before := m.read("keys/" + old)["jwk"].(string)
		m.publish("")
		m.pass(window)
		m.rotate()
		if err := m.sandbox.Register(clientID, []byte(before)); err != nil {
			m.t.Fatal(err)
		}
	}, "old", "off: there is no rotation_period"},
	"a fetcher keeps the set longer than it was told": {func(m *mount, _, _ string) {
		m.pass(window)
		m.rotate()
		m.pass(30 * time.Second)
		m.publish("")
		m.pass(30 * time.Second)
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"the clock is set back by a day": {func(m *mount, _, _ string) {
		m.publish("")
		m.pass(-24 * time.Hour)
		m.rotate()
		m.pass(window)
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"the clock is set ahead by a day, and back": {func(m *mount, old, _ string) {
		m.pass(24 * time.Hour)
		m.rotate()
		m.pass(-24 * time.Hour)
		m.publish("")
		m.rotate()
		m.signs(old)
		m.pass(window + time.Hour)
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"the pending key is deleted": {func(m *mount, _, next string) {
		m.must(logical.DeleteOperation, "keys/"+next, nil)
		m.pass(window)
		m.rotate()
	}, "old", "off: there is no rotation_period"},
	"the retiring key is deleted": {func(m *mount, old, _ string) {
		m.publish("")
		m.pass(window)
		m.rotate()
		m.must(logical.DeleteOperation, "keys/"+old, nil)
		m.publish("")
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"somebody activates it before its window is over": {func(m *mount, _, next string) {
		m.publish("")
		m.write("keys/"+next+"/activate", nil)
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"the way back": {func(m *mount, old, _ string) {
		m.publish("")
		m.pass(window)
		m.rotate()
		m.write("keys/"+old+"/activate", nil)
		m.rotate()
	}, "old", "off: there is no rotation_period"},
	"it is no longer fetched but pasted": {func(m *mount, _, _ string) {
		m.publish("")
		m.write("config", map[string]any{"public_jwks": false})
		m.rotate()
	}, "next", "off: there is no rotation_period"},
	"the config goes, and comes back": {func(m *mount, _, _ string) {
		settings := map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL(), "public_jwks": true}
		m.publish("")
		m.must(logical.DeleteOperation, "config", nil)
		m.pass(window)
		m.rotate()
		m.write("config", settings)
		m.rotate()
	}, "next", "off: there is no rotation_period"},
}

// After each problem the expected key signs, and rotation in keys has the expected text.
func TestRotationTrouble(t *testing.T) {
	t.Parallel()
	for name, test := range rotationTroubles {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			keys := map[string]string{"old": m.ready("", map[string]any{"public_jwks": true})}
			keys["next"] = m.write("keys/rotate", nil)["key_id"].(string)
			m.rotate()
			m.signs(keys["old"])
			test.happens(m, keys["old"], keys["next"])
			m.signs(keys[test.signs])
			if says := m.read("keys")["rotation"].(string); !strings.Contains(says, test.says) {
				t.Errorf("keys says %q, want %q", says, test.says)
			}
		})
	}
}

// If many ask for a rotation at once, one begins. The others get a 400, because a rotation is under way, or a 429,
// because another of them is generating a key.
func TestRotateAtOnce(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	var mu sync.Mutex
	answers := map[int]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			resp, err := m.request(context.Background(), logical.UpdateOperation, "keys/rotate", nil)
			status, _ := outcome(logical.UpdateOperation, resp, err)
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
		})
	}
	all.Wait()
	if answers[200] != 1 || answers[400]+answers[429] != 7 {
		t.Errorf("answers %v", answers)
	}
	if n := len(m.must(logical.ListOperation, "keys", nil)["keys"].([]any)); n != 2 {
		t.Errorf("%d keys", n)
	}
}

// rotate returns the time until the first of several clients is due. If storage fails, the step returns an error.
// The error is logged, unless the work is being stopped.
func TestRotatorLooksAgain(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", map[string]any{"rotation_period": "48h"})
	m.ready("clients/acme/", map[string]any{"rotation_period": "24h"})
	m.ready("clients/zeta/", map[string]any{"rotation_period": "72h"})
	if wait := m.rotate(); wait != 24*time.Hour {
		t.Errorf("it waits %v", wait)
	}
	for at := range 6 { // two reads for each client
		storage.countdown = at
		stopped, cancel := context.WithCancel(t.Context())
		cancel()
		m.rotateAll(stopped)
		logged := strings.Contains(m.log.String(), "tried again in a minute")
		if logged {
			t.Fatal("it logs that it was stopped")
		}
	}
	for at := range 6 {
		storage.countdown = at
		look := m.rotateAll(t.Context())
		storage.countdown = -1
		if wait := look.Sub(m.backend.now()).Round(time.Second); wait != time.Minute {
			t.Errorf("after a failure of operation %d it waits %v", at, wait)
		}
	}
	if n := strings.Count(m.log.String(), "tried again in a minute"); n != 6 {
		t.Errorf("it logs %d times", n)
	}
}
