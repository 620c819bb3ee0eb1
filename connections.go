package redox

import (
	"net/http"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// connections keeps each client's connection to Redox. of replaces a connection that was
// made with another ca_pem than the config has now. forget and keep only free memory and
// close idle sockets.
type connections struct {
	now       func() time.Time
	transport http.RoundTripper // makes all requests; nil: each client has one of its own

	mu      sync.Mutex // guards clients; nothing waits or connects under it
	clients map[string]*connection
}

func newConnections(now func() time.Time) *connections {
	return &connections{now: now, clients: map[string]*connection{}}
}

// connection is one client's HTTP transport. It also records that Redox did not know the
// client's active key.
type connection struct {
	caPEM string
	api   *redoxapi.Client

	mu           sync.Mutex // guards the two below
	unknown      keyring.ID // the active key that Redox said it did not know
	unknownUntil time.Time  // until then, try the retiring key first
}

// of returns the client's connection. It makes a new one if there is none, or if ca_pem
// has changed.
func (c *connections) of(client, caPEM string) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.clients[client]; known != nil && known.caPEM == caPEM {
		return known, nil
	}
	api, err := redoxapi.New(redoxapi.Options{
		CAPEM: caPEM, Version: Version, MaxConns: maxRequestsToHost, MaxIdleConns: maxReads, Now: c.now,
		Transport: c.transport,
	})
	if err != nil {
		return nil, err
	}
	c.forgetLocked(client)
	made := &connection{caPEM: caPEM, api: api}
	c.clients[client] = made
	return made, nil
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

// keep forgets the connections of the clients that are not in clients; nil forgets all.
func (c *connections) keep(clients map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client := range c.clients {
		if !clients[client] {
			c.forgetLocked(client)
		}
	}
}

// unknownFor is the time during which client.issue tries the retiring key first. It starts
// when Redox accepts the retiring key but does not know the active one.
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
