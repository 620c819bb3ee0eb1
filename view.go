package redox

import (
	"crypto/rsa"
	"maps"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// rereadAfter is how long a view, or the list of hosts, is used before storage is read
// again. A write on this node and Vault's Invalidate call after a write on another node
// drop it at once. The limit is for other changes: somebody repairs storage by hand, or a
// write that seemed to fail reaches storage later.
const rereadAfter = 10 * time.Second

// view is a client as it was stored. Goroutines share it: only the field private changes,
// under mu.
type view struct {
	config      *config // nil when there is none
	ring        *keyring.Ring
	jwks        []byte // nil unless config has public_jwks
	fingerprint string // the stored config and the active key; empty when one is missing
	where       string // fingerprint of the settings that decide whether Redox accepts a key, see config.where
	readAt      time.Time

	mu      sync.Mutex // guards private
	private map[keyring.ID]*rsa.PrivateKey
}

// signer returns the parsed private half of a key of the ring. It parses each key once
// per view: parsing takes an eighth of the time of a signature.
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
	onRead func(client string, v *view) // called under mu with what is stored

	mu     sync.Mutex // guards places; no storage access while it is held
	places map[string]*place
}

// place is where the view of a client is kept. A change of the client deletes the place,
// so that a view that was read before the change is not kept.
type place struct {
	view    *view     // nil for none
	reading *viewRead // nil when nobody reads storage for the next one
}

// viewRead is one look at storage for all who need the view at that time.
type viewRead struct {
	done chan struct{} // closed when the two below are there
	view *view
	err  error
}

func newViews() *views { return &views{places: map[string]*place{}} }

// look returns the client's view if that is fresh at the time now. Else it returns the read
// of storage to wait for. first is true for only one of the callers: that one must read
// storage, and then call put with at.
func (s *views) look(client string, now time.Time) (v *view, reading *viewRead, at *place, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.places[client]
	if at == nil {
		at = &place{}
		s.places[client] = at
	}
	switch {
	case at.view != nil && now.Sub(at.view.readAt).Abs() < rereadAfter:
		return at.view, nil, at, false
	case at.reading != nil:
		return nil, at.reading, at, false
	}
	at.reading = &viewRead{done: make(chan struct{})}
	return nil, at.reading, at, true
}

// put ends the read of storage that look began for at. It keeps the new view if the client
// has a config, unless the client has changed meanwhile: the view may be older than the
// change.
func (s *views) put(client string, at *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	read := at.reading
	at.reading = nil
	defer close(read.done)
	if s.places[client] != at {
		return
	}
	configured := read.err == nil && read.view.config != nil
	if read.err == nil {
		s.onRead(client, read.view)
	}
	switch {
	case configured:
		at.view = read.view
	case read.err == nil || at.view == nil:
		delete(s.places, client) // requests for names that do not exist must not fill the memory
	}
}

// unused drops the views that were read from storage more than a minute ago. Nobody has
// used them recently: the use of a view older than rereadAfter reads storage again. So only
// the clients that are in use take memory.
func (s *views) unused(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.places, func(_ string, at *place) bool {
		return at.view != nil && at.reading == nil && now.Sub(at.view.readAt).Abs() > time.Minute
	})
}

// forget drops a client's view, and with it the parsed private keys.
func (s *views) forget(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, client)
}

// clear drops the views of all clients.
func (s *views) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.places)
}
