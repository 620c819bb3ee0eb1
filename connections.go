package redox

import (
	"context"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// A request to Redox holds Vault's locks while it waits, so the number in flight
// is bounded, per client and in total. Proofs and checks have slots of their own,
// as they are needed most when all others are taken.
const (
	maxInFlight       = 64
	maxInFlightAll    = 256
	maxProofsInFlight = 2
)

// slotWait is how long a request waits for a slot when all are taken.
const slotWait = time.Second

// connections keeps each client's connection to Redox. It is derived from the
// client's config and compared on use, so a stale one cannot be used; forget
// only frees it early.
type connections struct {
	now func() time.Time
	all chan struct{} // slots that the clients share

	mu      sync.Mutex // guards clients; nothing waits or connects under it
	clients map[string]*connection
}

func newConnections(now func() time.Time) *connections {
	return &connections{now: now, all: make(chan struct{}, maxInFlightAll), clients: map[string]*connection{}}
}

// connection is one client's HTTP transport, its limits, and what was learned
// over it.
type connection struct {
	caPEM  string
	api    *redoxapi.Client
	reads  slots // for reads of token
	proofs slots // for proofs and checks

	mu           sync.Mutex // guards the two below
	unknown      keyring.ID // the active key that Redox said it did not know
	unknownUntil time.Time  // until then, try the previous key first
}

// of returns the client's connection. It makes a new one when ca_pem has changed.
func (c *connections) of(client, caPEM string) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.clients[client]; known != nil && known.caPEM == caPEM {
		return known, nil
	}
	api, err := redoxapi.New(redoxapi.Options{
		CAPEM: caPEM, Version: Version, MaxConns: maxInFlight + maxProofsInFlight, MaxIdleConns: maxInFlight, Now: c.now,
	})
	if err != nil {
		return nil, err
	}
	c.forgetLocked(client)
	made := &connection{
		caPEM: caPEM, api: api,
		reads:  slots{make(chan struct{}, maxInFlight), c.all},
		proofs: slots{make(chan struct{}, maxProofsInFlight)},
	}
	c.clients[client] = made
	return made, nil
}

// inFlight returns how many reads of the client wait for Redox.
func (c *connections) inFlight(client string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.clients[client]; of != nil {
		return len(of.reads[0])
	}
	return 0
}

func (c *connections) forget(client string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(client)
}

func (c *connections) forgetLocked(client string) {
	if of := c.clients[client]; of != nil {
		of.api.CloseIdleConnections()
		delete(c.clients, client)
	}
}

// keep forgets the connections of all clients but these; nil forgets all. Idle
// connections close, and those in use close when their request ends.
func (c *connections) keep(clients map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client := range c.clients {
		if !clients[client] {
			c.forgetLocked(client)
		}
	}
}

// unknownFor is how long the previous key is tried first after Redox did not know the
// active one.
const unknownFor = time.Minute

func (c *connection) noteUnknown(id keyring.ID, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown, c.unknownUntil = id, now.Add(unknownFor)
}

func (c *connection) isUnknown(id keyring.ID, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unknown == id && now.Before(c.unknownUntil)
}

// slots bounds the requests in flight: a request holds one slot of each kind.
type slots []chan struct{}

// acquire takes one slot of each kind; release gives them back.
func (s slots) acquire(ctx context.Context) (release func(), err error) {
	turn := time.NewTimer(slotWait)
	defer turn.Stop()
	for i, slot := range s {
		select {
		case slot <- struct{}{}:
			continue
		default:
		}
		select {
		case slot <- struct{}{}:
			continue
		case <-turn.C:
			err = &redoxapi.UpstreamError{Kind: redoxapi.Overloaded, What: "too many token requests at once"}
		case <-ctx.Done():
			err = &redoxapi.UpstreamError{Kind: redoxapi.TimedOut, What: "the request was given up while it waited for its turn"}
		}
		s[:i].release()
		return nil, err
	}
	return s.release, nil
}

func (s slots) release() {
	for _, slot := range s {
		<-slot
	}
}
