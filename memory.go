package redox

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// rereadAfter is how long a view is used without another look at storage.
// Every change is told of, by a write here or by Vault's Invalidate; this is
// for the one that is not: that of somebody who repairs storage by hand, or of a
// write that was given up and carried out all the same.
const rereadAfter = 10 * time.Second

// memory holds what reads of token and jwks need of each client, so that they
// need no storage: each read of that is a call to Vault's process. Whatever
// writes, reads storage and not this.
type memory struct {
	mu      sync.Mutex // guards all below; nothing is read or written under it
	views   map[string]*view
	changes uint64 // how many views were dropped so far
}

// view is a client as it was stored. Many read it at once, so nothing changes it.
type view struct {
	config *config
	ring   *keyring.Ring
	jwks   []byte // nil unless config has public_jwks
	shape  string // all that shapes a token; empty when there is no key
	readAt time.Time
}

func newMemory() *memory { return &memory{views: map[string]*view{}} }

// recall returns a client's view. Its config is nil when there is none.
func (b *backend) recall(ctx context.Context, r *request) (*view, error) {
	v, changes := b.memory.get(r.client)
	if v != nil && b.now().Sub(v.readAt).Abs() < rereadAfter {
		return v, nil
	}
	v = &view{readAt: b.now()}
	var err error
	if v.config, v.ring, err = stored(ctx, r); err != nil {
		return nil, err
	}
	if v.config == nil {
		return v, nil // whoever asks for what is not there must not fill the memory
	}
	if v.config.PublicJWKS {
		set, err := v.ring.JWKS()
		if err != nil {
			return nil, err
		}
		v.jwks = []byte(set)
	}
	if k := v.ring.Active(); k != nil {
		config, err := json.Marshal(v.config)
		if err != nil {
			return nil, fmt.Errorf("encoding the config: %w", err)
		}
		v.shape = string(config) + " " + string(k.ID) + " " + k.N
	}
	b.memory.keep(r.client, v, changes)
	return v, nil
}

// get returns the view of a client, nil for none, and what keep is to be told.
func (m *memory) get(client string) (v *view, changes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.views[client], m.changes
}

// keep takes a view that was read from storage since get was called, unless
// anything has changed since: what was read may be from before.
func (m *memory) keep(client string, v *view, changes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == changes {
		m.views[client] = v
	}
}

// drop forgets a client's view.
func (m *memory) drop(client string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.views, client)
	m.changes++
}

// write has do write an entry of the client, and forgets the client however that
// ended: a write that failed may have been carried out. One that is carried out
// later yet is seen when storage is read again.
func (m *memory) write(client string, do func() error) error {
	defer m.drop(client)
	return do()
}
