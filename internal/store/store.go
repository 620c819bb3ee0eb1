// Package store reads and writes the engine's entries in Vault's storage.
// It is the only internal package that knows Vault; it knows nothing of what
// an entry means.
package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
)

// Version is the schema version that [Put] writes. A change of what is stored
// raises it and adds a golden file beside those of the versions before.
const Version = 1

// entry is the stored JSON: {"version": 1, "data": {…}}.
type entry[T any] struct {
	Version int `json:"version"`
	Data    *T  `json:"data"`
}

// UnreadableError is an entry that is there and cannot be read: it is damaged,
// or a newer plugin wrote it. The text says which, and quotes nothing of it.
type UnreadableError string

func (e UnreadableError) Error() string { return string(e) }

func unreadable(format string, args ...any) error {
	return UnreadableError(fmt.Sprintf(format, args...))
}

// Get returns the entry at key, nil when there is none. An entry that is not of
// a version up to [Version] is an [UnreadableError], never a reset: an older
// plugin must not overwrite what a newer one wrote.
func Get[T any](ctx context.Context, s logical.Storage, key string) (*T, error) {
	raw, err := s.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	if raw == nil {
		return nil, nil
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw.Value, &version); err != nil {
		// The decoder's message may quote what it read, which may be a key.
		return nil, unreadable("reading %s: the stored entry is not the JSON this plugin writes", key)
	}
	if version.Version > Version {
		return nil, unreadable("reading %s: stored by a newer plugin (schema version %d, this one knows %d): install "+
			"that plugin version again", key, version.Version, Version)
	}
	var e entry[T]
	if err := json.Unmarshal(raw.Value, &e); err != nil || e.Version < 1 || e.Data == nil {
		return nil, unreadable("reading %s: the stored entry is not of schema version %d", key, version.Version)
	}
	return e.Data, nil
}

// Put writes v at key, whole, in one storage operation.
func Put[T any](ctx context.Context, s logical.Storage, key string, v *T) error {
	raw, err := logical.StorageEntryJSON(key, entry[T]{Version: Version, Data: v})
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	if err := s.Put(ctx, raw); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return nil
}

// Delete removes the entry at key; that it was not there is no error.
func Delete(ctx context.Context, s logical.Storage, key string) error {
	if err := s.Delete(ctx, key); err != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

// List returns the names below prefix, those of folders with a trailing slash.
func List(ctx context.Context, s logical.Storage, prefix string) ([]string, error) {
	names, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", prefix, err)
	}
	return names, nil
}
