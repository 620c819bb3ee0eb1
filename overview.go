package redox

import (
	"maps"
	"sync"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// overviews keeps what the endpoint metrics shows of each client's keys and rotation, so
// that a scrape reads no storage. A write on this node renews a client's overview, and so
// does each step of the client's worker.
type overviews struct {
	mu sync.Mutex // guards of; nothing waits under it
	of map[string]overview
}

// overview is a client without its secrets, and without what is large.
type overview struct {
	unreadable bool // damaged in storage, or written by a newer plugin: nothing else is known
	configured bool
	policy     keyring.Policy
	ring       *keyring.Ring
}

func newOverviews() *overviews { return &overviews{of: map[string]overview{}} }

// note makes a client's overview from s. It forgets a client that has neither a config nor
// keys.
func (o *overviews) note(client string, s *state) {
	if s.Config == nil && len(s.Ring.Keys) == 0 {
		o.forget(client)
		return
	}
	seen := overview{ring: s.Ring.Public()}
	if s.Config != nil {
		seen.configured, seen.policy = true, s.Config.policy()
	}
	o.set(client, seen)
}

func (o *overviews) set(client string, seen overview) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[client] = seen
}

func (o *overviews) forget(client string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.of, client)
}

// keep forgets all but these clients.
func (o *overviews) keep(clients map[string]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.of, func(client string, _ overview) bool { return !clients[client] })
}

// all returns the overviews of all clients.
func (o *overviews) all() map[string]overview {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.of)
}
