package redox

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// Every second token request reaches a machine of Redox that does not know the new key yet. No read fails, and for
// a minute after a refusal the old key is tried first.
func TestSecondTry(t *testing.T) {
	m := newMount(t)
	old := m.ready("", nil)
	m.rotate() // Redox accepts the first key
	next := m.write("keys/generate", nil)["key_id"]
	m.publish("")
	m.write("keys/"+next.(string)+"/activate", nil)
	m.sandbox.SetStale(true)
	m.signs(old) // the new key was refused, the old one accepted
	if !strings.Contains(m.log.String(), "Redox, or a part of it, does not know the active key") {
		t.Error("the log does not tell of it")
	}
	sent := len(m.sandbox.Assertions())
	m.signs(old)
	m.signs(old)
	m.expect(map[string]float64{"redox_retiring_key_tokens_total{client=default}": 3})
	if n := len(m.sandbox.Assertions()) - sent; n != 2 {
		t.Errorf("two reads sent %d assertions: the refusal is not remembered", n)
	}
	m.sandbox.SetStale(false)
	m.pass(time.Minute)
	m.signs(next)
	m.expect(map[string]float64{"redox_retiring_key_tokens_total{client=default}": 3})

	// The old key would be tried first, but is deleted: the new key signs.
	m.sandbox.SetStale(true)
	m.signs(old)
	m.sandbox.SetStale(false)
	m.must(logical.DeleteOperation, "keys/"+old, nil)
	m.publish("")
	m.signs(next)
}

// If Redox knows neither the active key nor the earlier one, the error names the active key. The log does not say
// that an earlier key signs, and the next read tries the active key first.
func TestSecondTryFails(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.rotate()
	next := m.write("keys/generate", nil)["key_id"].(string)
	m.write("keys/"+next+"/activate", map[string]any{"force": true})
	m.register(clientID, `{"keys":[]}`)
	m.fails(400, logical.ReadOperation, "token", nil, "Redox does not know key "+next)
	if n := len(m.sandbox.Assertions()); n != 3 || strings.Contains(m.log.String(), "an earlier key signs") {
		t.Errorf("%d assertions were sent; the log holds %s", n, m.log)
	}
	m.publish("")
	m.signs(next)
}

// A second try, with the earlier key, is made as long as that key is in the ring, even after retire_after. There
// is none if the refusal has no description, or if Redox accepted the earlier key with another audience.
func TestNoSecondTry(t *testing.T) {
	m := newMount(t)
	old := m.ready("", map[string]any{"retire_after": "1h"})
	m.rotate()
	next := m.write("keys/generate", nil)["key_id"].(string)
	m.publish("")
	m.write("keys/"+next+"/activate", nil)
	once := func(want string) {
		t.Helper()
		sent := len(m.sandbox.Assertions())
		m.fails(400, logical.ReadOperation, "token", nil, want)
		if n := len(m.sandbox.Assertions()) - sent; n != 1 {
			t.Errorf("%d assertions were sent", n)
		}
	}
	m.sandbox.SetFault(redoxtest.FaultBlank, 1)
	once("no reason when a claim is wrong")
	m.sandbox.SetStale(true)
	m.pass(time.Hour)
	m.signs(old)
	m.write("config", map[string]any{"audience": strings.ToUpper(m.sandbox.TokenURL())})
	once("Redox does not know key " + next)
}
