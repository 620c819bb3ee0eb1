// Package store reads and writes the engine's entries in Vault's storage. It is the only
// internal package in the plugin that imports Vault's SDK. It does not know what an entry
// means.
package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
)

// Version is the schema version that [Put] writes. Raise it if an older plugin would
// misread a new form of an entry. testdata/storage has golden files of each form.
const Version = 1

// entry is the stored JSON: {"version": 1, "data": {…}}.
type entry[T any] struct {
	Version int `json:"version"`
	Data    *T  `json:"data"`
}

// UnreadableError means that an entry exists but cannot be read: it is damaged, or a
// newer plugin wrote it. The text says which, and quotes nothing of the entry but its
// schema version.
type UnreadableError string

func (e UnreadableError) Error() string { return string(e) }

func unreadable(format string, args ...any) error {
	return UnreadableError(fmt.Sprintf(format, args...))
}

// Get returns the entry at key, nil if there is none. If the entry is damaged, or a newer
// plugin wrote it, Get returns an [UnreadableError]: an older plugin must not overwrite
// what a newer one wrote.
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
		// Do not show the decoder's error: it may quote the entry, which may hold a
		// key.
		return nil, unreadable("reading %s: the stored entry is not the JSON this plugin writes", key)
	}
	if version.Version > Version {
		return nil, unreadable("reading %s: stored by a newer plugin (schema version %d, this one knows %d): install "+
			"that plugin version again", key, version.Version, Version)
	}
	var e entry[T]
	if err := json.Unmarshal(raw.Value, &e); err != nil || e.Version < 1 || e.Data == nil {
		return nil, unreadable("reading %s: the stored entry does not have the form of schema version %d", key,
			version.Version)
	}
	return e.Data, nil
}

// Put writes v at key in one storage operation.
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

// Delete deletes the entry at key. It is no error if there is none.
func Delete(ctx context.Context, s logical.Storage, key string) error {
	if err := s.Delete(ctx, key); err != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

// List returns the names directly below prefix. The name of a folder ends with a slash.
func List(ctx context.Context, s logical.Storage, prefix string) ([]string, error) {
	names, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", prefix, err)
	}
	return names, nil
}
