package redox

import (
	"crypto/rsa"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// rereadAfter is how long a view is used before storage is read again. Every write on
// this node and every Invalidate call of Vault drops the view at once. The limit is
// for other changes: somebody repairs storage by hand, or a write that seemed to fail
// reaches storage later.
const rereadAfter = 10 * time.Second

// view is a client as it was stored. It is read concurrently, so it must not be
// changed.
type view struct {
	config      *config // nil when there is none
	ring        *keyring.Ring
	jwks        []byte // nil unless config has public_jwks
	fingerprint string // digest of all settings that affect a token; empty when there is no key
	where       string // fingerprint of the settings that decide whether Redox accepts a key, see config.where
	readAt      time.Time

	mu      sync.Mutex // guards private
	private map[keyring.ID]*rsa.PrivateKey
}

// signer returns the parsed private half of a key of the ring. It parses each key
// once: parsing takes an eighth of the time of a signature.
func (v *view) signer(k *keyring.Key) (*rsa.PrivateKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if private := v.private[k.ID]; private != nil {
		return private, nil
	}
	private, err := k.Private()
	if err != nil {
		return nil, err
	}
	v.private[k.ID] = private
	return private, nil
}

// views keeps in memory what reads of token and jwks need, because each read of
// storage is a call to Vault's process. Functions that write must read storage
// instead.
type views struct {
	onPut func(client string) // called with mu held, for a client that has a config

	mu     sync.Mutex // guards places; no storage access while it is held
	places map[string]*place
}

// place holds the view of a client. A change of the client replaces the place, so a
// view that was read before the change cannot be stored.
type place struct{ view *view }

func newViews() *views { return &views{places: map[string]*place{}} }

// place returns the place of a client, and creates it if needed. It also returns the
// view there, nil for none.
func (s *views) place(client string) (*place, *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[client] == nil {
		s.places[client] = &place{}
	}
	return s.places[client], s.places[client].view
}

// put stores v in the place at. It does nothing if the client was changed since at
// was its place: v may be out of date then.
func (s *views) put(client string, at *place, v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.places[client] != at:
	case v != nil && v.config != nil:
		at.view = v
		s.onPut(client)
	case at.view == nil:
		delete(s.places, client) // requests for names that do not exist must not fill the memory
	}
}

// has reports whether a client's view is in memory.
func (s *views) has(client string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.places[client] != nil && s.places[client].view != nil
}

// forget drops a client's view, and with it the parsed private keys.
func (s *views) forget(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, client)
}
