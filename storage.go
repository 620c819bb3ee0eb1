package redox

import (
	"context"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// A client has two entries below clients/<name>/, which is also the prefix
// that is seal-wrapped. Each is written whole, and nowhere but here: memory
// has to learn of every write.
const (
	clientsPrefix = "clients/"
	configEntry   = "config"
	keyringEntry  = "keyring"
)

func configKey(client string) string  { return clientsPrefix + client + "/" + configEntry }
func keyringKey(client string) string { return clientsPrefix + client + "/" + keyringEntry }

// getConfig reads a client's config, nil when there is none.
func getConfig(ctx context.Context, r *request) (*config, error) {
	return store.Get[config](ctx, r.Storage, configKey(r.client))
}

// getRing reads a client's ring, an empty one when there is none.
func getRing(ctx context.Context, r *request) (*keyring.Ring, error) {
	ring, err := store.Get[keyring.Ring](ctx, r.Storage, keyringKey(r.client))
	if err != nil {
		return nil, err
	}
	if ring == nil {
		ring = &keyring.Ring{}
	}
	return ring, nil
}

// stored reads both. What it returns is the caller's own, to change and write.
func stored(ctx context.Context, r *request) (*config, *keyring.Ring, error) {
	c, err := getConfig(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	ring, err := getRing(ctx, r)
	return c, ring, err
}

func (b *backend) putConfig(ctx context.Context, r *request, c *config) error {
	return b.memory.write(r.client, func() error {
		return store.Put(ctx, r.Storage, configKey(r.client), c)
	})
}

func (b *backend) deleteConfigEntry(ctx context.Context, r *request) error {
	return b.memory.write(r.client, func() error {
		return store.Delete(ctx, r.Storage, configKey(r.client))
	})
}

// putRing deletes the entry of a ring that is empty.
func (b *backend) putRing(ctx context.Context, r *request, ring *keyring.Ring) error {
	return b.memory.write(r.client, func() error {
		key := keyringKey(r.client)
		if len(ring.Keys) == 0 {
			return store.Delete(ctx, r.Storage, key)
		}
		return store.Put(ctx, r.Storage, key, ring)
	})
}
