package redox

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// A client has at most two entries. They are below clients/<name>/, and Vault seal-wraps
// them if it can. Only the methods of the type entries write them.
const (
	clientsPrefix = "clients/"
	configEntry   = "config"
	keyringEntry  = "keyring"
)

func configKey(client string) string  { return clientsPrefix + client + "/" + configEntry }
func keyringKey(client string) string { return clientsPrefix + client + "/" + keyringEntry }

// state is a client as it is stored. Each load returns a new copy, so the caller may
// change it.
type state struct {
	Config *config       // nil when there is none
	Ring   *keyring.Ring // empty when there is none
}

// entries reads and writes the entries of clients. It keeps in memory what reads of
// token and jwks need, because each read of storage is a call to Vault's process.
type entries struct {
	ctx     context.Context // of the mount
	now     func() time.Time
	onWrite func(client string, w written)
	onRead  func(client string, configured bool) // called under the client's lock with what is stored

	// locks serialise read-modify-write of a client. Several clients may share a lock.
	// While a function holds one, it must not acquire a second one, make a request to
	// Redox, or generate a key.
	locks []*locksutil.LockEntry

	views *views
}

// written says what a write changed. After a failed write it says what may have
// changed.
type written struct {
	config  bool     // the config
	deleted bool     // the config
	active  bool     // which key signs
	managed []string // clients whose keys this one may publish, now or before
	after   *state   // as it was to be afterwards, nil for unknown
}

func newEntries(ctx context.Context, now func() time.Time) *entries {
	return &entries{ctx: ctx, now: now, locks: locksutil.CreateLocks(), views: newViews()}
}

// loadConfig reads a client's config from storage, nil when there is none.
func loadConfig(ctx context.Context, s logical.Storage, client string) (*config, error) {
	return store.Get[config](ctx, s, configKey(client))
}

// loadRing reads a client's key ring from storage, an empty one when there is none.
func loadRing(ctx context.Context, s logical.Storage, client string) (*keyring.Ring, error) {
	ring, err := store.Get[keyring.Ring](ctx, s, keyringKey(client))
	if err != nil {
		return nil, err
	}
	if ring == nil {
		ring = &keyring.Ring{}
	}
	return ring, nil
}

// loadState reads a client's config and key ring from storage.
func loadState(ctx context.Context, s logical.Storage, client string) (*state, error) {
	c, err := loadConfig(ctx, s, client)
	if err != nil {
		return nil, err
	}
	ring, err := loadRing(ctx, s, client)
	if err != nil {
		return nil, err
	}
	return &state{c, ring}, nil
}

// loadClients returns the names of all clients that have a stored entry.
func loadClients(ctx context.Context, s logical.Storage) ([]string, error) {
	names, err := store.List(ctx, s, clientsPrefix)
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], "/")
	}
	return names, err
}

// update loads the config and the ring of a client, calls change, and writes the one
// that has changed. It returns an error if both have. If change returns an error,
// update writes nothing and returns that error.
func (e *entries) update(ctx context.Context, s logical.Storage, client string, change func(*state) error) error {
	defer e.lock(client)()
	st, err := loadState(ctx, s, client)
	if err != nil {
		return err
	}
	before, err := st.encode()
	if err != nil {
		return err
	}
	e.onRead(client, st.Config != nil)
	if err := change(st); err != nil {
		return err
	}
	after, err := st.encode()
	if err != nil {
		return err
	}
	w := written{
		config:  !bytes.Equal(before.config, after.config),
		active:  before.active != after.active,
		managed: slices.Concat(before.managed, after.managed),
		after:   st,
	}
	ring := !bytes.Equal(before.ring, after.ring)
	switch {
	case w.config && ring:
		return errors.New("a change of a client would write two entries, which is not atomic: please report this")
	case w.config:
		return e.write(client, w, func() error { return store.Put(ctx, s, configKey(client), st.Config) })
	case ring && after.ring == nil:
		return e.write(client, w, func() error { return store.Delete(ctx, s, keyringKey(client)) })
	case ring:
		return e.write(client, w, func() error { return store.Put(ctx, s, keyringKey(client), st.Ring) })
	}
	return nil
}

// removeConfig deletes a client's config, even if that is damaged or a newer plugin wrote
// it.
func (e *entries) removeConfig(ctx context.Context, s logical.Storage, client string) error {
	defer e.lock(client)()
	return e.removeConfigLocked(ctx, s, client)
}

func (e *entries) removeConfigLocked(ctx context.Context, s logical.Storage, client string) error {
	c, err := loadConfig(ctx, s, client)
	var unreadable store.UnreadableError
	if err != nil && !errors.As(err, &unreadable) {
		return err
	}
	w := written{config: true, deleted: true}
	if c != nil {
		w.managed = managedNames(c.Manages)
	}
	return e.write(client, w, func() error { return store.Delete(ctx, s, configKey(client)) })
}

// remove deletes a client, unless check, which it calls with the client's ring, returns an
// error. It deletes the config before the ring: a crash in between leaves a client that
// gets no tokens and can be deleted again.
func (e *entries) remove(ctx context.Context, s logical.Storage, client string, check func(*keyring.Ring) error) error {
	defer e.lock(client)()
	ring, err := loadRing(ctx, s, client)
	if err == nil {
		err = check(ring)
	}
	if err == nil {
		err = e.removeConfigLocked(ctx, s, client)
	}
	if err != nil {
		return err
	}
	return e.write(client, written{active: true}, func() error { return store.Delete(ctx, s, keyringKey(client)) })
}

func (e *entries) lock(client string) (unlock func()) {
	lock := locksutil.LockForKey(e.locks, client)
	lock.Lock()
	return lock.Unlock
}

// write calls do, which writes or deletes an entry. Then it drops the client's view and
// calls onWrite, even if do failed: the change may have reached storage.
func (e *entries) write(client string, w written, do func() error) error {
	err := do()
	if err != nil {
		w.after = nil
	}
	e.views.forget(client)
	e.onWrite(client, w)
	return err
}

// encoded is a state as JSON, with what else update has to know before and after a change.
type encoded struct {
	config, ring []byte // nil for absent
	active       string // the key that signs
	managed      []string
}

func (s *state) encode() (e encoded, err error) {
	if s.Config != nil {
		e.managed = managedNames(s.Config.Manages)
		if e.config, err = json.Marshal(s.Config); err != nil {
			return encoded{}, fmt.Errorf("encoding the config: %w", err)
		}
	}
	if len(s.Ring.Keys) > 0 {
		if e.ring, err = json.Marshal(s.Ring); err != nil {
			return encoded{}, fmt.Errorf("encoding the key ring: %w", err)
		}
	}
	if k := s.Ring.Active(); k != nil {
		e.active = string(k.ID) + " " + k.N
	}
	return e, nil
}

// view returns a client's view, from memory if it is fresh there. Callers that need a new
// one at the same time share one look at storage, which goes on if the reader who began it
// hangs up.
func (e *entries) view(ctx context.Context, s logical.Storage, client string) (*view, error) {
	v, reading, at, first := e.views.look(client, e.now())
	if v != nil {
		return v, nil
	}
	if first {
		reading.err = errors.New("the look at storage was broken off") // by a panic
		defer e.views.put(client, at)
		reading.view, reading.err = e.readView(e.ctx, s, client)
		return reading.view, reading.err
	}
	select {
	case <-reading.done:
		return reading.view, reading.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *entries) readView(ctx context.Context, s logical.Storage, client string) (*view, error) {
	readAt := e.now()
	st, err := loadState(ctx, s, client)
	if err != nil {
		return nil, err
	}
	v := &view{config: st.Config, ring: st.Ring, readAt: readAt, private: map[keyring.ID]*rsa.PrivateKey{}}
	if v.config == nil {
		return v, nil
	}
	if v.config.PublicJWKS {
		set, err := v.ring.JWKS()
		if err != nil {
			return nil, err
		}
		v.jwks = []byte(set)
	}
	encoded, err := st.encode()
	if err != nil {
		return nil, err
	}
	v.where = v.config.where()
	if encoded.active != "" {
		v.fingerprint = string(encoded.config) + " " + encoded.active
	}
	return v, nil
}
