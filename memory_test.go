package redox

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// spiedStorage counts the calls of Get. It can call a function of the test after each of them, and another
// one instead of each Put.
type spiedStorage struct {
	logical.Storage
	gets atomic.Int64
	got  func()                                             // after each Get, nil for none
	put  func(context.Context, *logical.StorageEntry) error // instead of each Put, nil for none
}

func (s *spiedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.gets.Add(1)
	entry, err := s.Storage.Get(ctx, key)
	if s.got != nil {
		s.got()
	}
	return entry, err
}

func (s *spiedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.put != nil {
		return s.put(ctx, entry)
	}
	return s.Storage.Put(ctx, entry)
}

// coherent fails the test if the view of the default client or of acme, which reads of token and jwks
// use, differs from storage.
func (m *mount) coherent(after string) {
	m.t.Helper()
	for _, client := range []string{defaultClient, "acme"} {
		s, err := loadState(m.t.Context(), m.storage, client)
		if err != nil {
			m.t.Fatal(err)
		}
		c, ring := s.Config, s.Ring
		v, err := m.backend.entries.view(m.t.Context(), m.storage, client)
		if err != nil {
			m.t.Fatal(err)
		}
		if diff := cmp.Diff(c, v.config) + cmp.Diff(ring, v.ring); diff != "" {
			m.t.Errorf("after %s, of client %s (-stored +remembered):\n%s", after, client, diff)
		}
		if c == nil || !c.PublicJWKS {
			continue
		}
		if jwks, err := ring.JWKS(); err != nil || jwks != string(v.jwks) {
			m.t.Errorf("after %s, jwks of client %s is %s, %v; want %s", after, client, v.jwks, err, jwks)
		}
	}
}

func TestReadsNeedNoStorage(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", map[string]any{"public_jwks": true})
	m.read("token")
	storage.gets.Store(0)
	for range 3 {
		m.read("token")
		m.read("jwks")
	}
	if n := storage.gets.Load(); n != 0 {
		t.Errorf("%d reads of storage", n)
	}
	m.pass(rereadAfter)
	m.read("token")
	m.read("jwks")
	// The three reads are for the client's config, its ring, and the hosts of the
	// mount.
	if n := storage.gets.Load(); n != 3 {
		t.Errorf("%d reads of storage in all after a while, want 3", n)
	}
}

// After each request, the views in memory equal storage, even if a storage operation of the request
// failed.
func TestMemoryAfterOperations(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "clients/acme/"} {
		for _, o := range everyOperation(t, prefix) {
			t.Run(fmt.Sprint(o.op, " ", o.path), func(t *testing.T) {
				storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
				m := newMountOn(t, storage, systemView(0))
				m.setUp()
				for _, prefix := range []string{"", "clients/acme/"} {
					m.write(prefix+"config", map[string]any{"public_jwks": true})
				}
				for at := 0; ; at++ {
					m.coherent("what was before")
					storage.countdown = at
					_, _ = m.request(t.Context(), o.op, o.path, o.data) // TestStorageFailures checks the result
					untouched := storage.countdown >= 0
					storage.countdown = -1
					m.coherent(fmt.Sprint("a fault at operation ", at))
					if untouched {
						break
					}
				}
			})
		}
	}
}

// After each step of a rotation, the view in memory equals storage. In the end the view has no private
// half of the deleted key.
func TestMemoryAfterRotation(t *testing.T) {
	m := newMount(t)
	old := m.ready("", map[string]any{"public_jwks": true, "publish_window": "1m", "retire_after": "5m"})
	m.write("keys/rotate", nil)
	m.publish("")
	for deleted := false; !deleted; {
		m.coherent("a step")
		look := m.rotateAll(t.Context())
		m.coherent("a step")
		deleted = !strings.Contains(m.read("keys")["jwks"].(string), old)
		if wait := look.Sub(m.now); wait > 0 {
			m.pass(wait)
		}
	}
	if at := m.backend.entries.views.places[defaultClient]; at == nil || at.view.private[keyring.ID(old)] != nil {
		t.Error("the deleted key is in memory still")
	}
}

// If the config changes while a read loads the client, the old state is not kept in
// memory.
func TestMemoryDuringAChange(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	reads := 0
	storage.got = func() {
		if reads++; reads != 2 { // the config and the ring were read
			return
		}
		storage.got = nil
		m.write("config", map[string]any{"client_id": "another"})
	}
	m.read("token")
	m.coherent("a change in the middle of a read")
	m.fails(400, logical.ReadOperation, "token", nil, "for client ID another")
}

// If one client is written while the view of another is read from storage, that view is still kept in
// memory.
func TestMemoryDuringAnothersChange(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", map[string]any{"public_jwks": true})
	storage.got = func() {
		storage.got = nil
		m.write("clients/acme/config", map[string]any{"client_id": "another"})
	}
	m.read("jwks")
	storage.gets.Store(0)
	m.read("jwks")
	if n := storage.gets.Load(); n != 0 {
		t.Errorf("%d reads of storage", n)
	}
}

// After a key is deleted, no view in memory has it, although it has signed requests,
// one of them over the connection of the platform client.
func TestMemoryOfADeletedKey(t *testing.T) {
	m := newMount(t)
	id := m.platformReady(nil)
	m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "tenant"})
	m.rotate()
	m.write("keys/tenant/activate", nil)
	for _, platform := range []string{"", "platform"} { // the second proves the active key anew
		m.write("config", map[string]any{"platform_client": platform})
		m.rotate()
	}
	m.read("token")
	m.read("check")
	if text := m.publication(); !strings.HasPrefix(text, "up to date") || len(m.backend.entries.views.places) != 2 {
		t.Fatalf("publication is %s, memory holds %d views", text, len(m.backend.entries.views.places))
	}
	m.write("keys/"+id+"/activate", map[string]any{"force": true})
	m.must(logical.DeleteOperation, "keys/tenant", nil)
	for client, at := range m.backend.entries.views.places {
		if at.view.private["tenant"] != nil || at.view.ring.Get("tenant") != nil {
			t.Errorf("it is in the view of %s", client)
		}
	}
}

// If a write fails, storage may have carried it out, or may carry it out later. The
// engine forgets the client's view at once, and sees a late write after rereadAfter.
func TestMemoryAfterAWriteOfUnknownOutcome(t *testing.T) {
	for path, data := range map[string]map[string]any{"config": {"client_id": "late"}, "keys/generate": nil} {
		t.Run(path, func(t *testing.T) {
			storage := &spiedStorage{Storage: &logical.InmemStorage{}}
			m := newMountOn(t, storage, systemView(0))
			m.ready("", map[string]any{"public_jwks": true})
			m.read("jwks")
			storage.put = func(ctx context.Context, entry *logical.StorageEntry) error {
				return errors.Join(storage.Storage.Put(ctx, entry), errors.New("no answer"))
			}
			m.fails(500, logical.UpdateOperation, path, data, "no answer")
			m.coherent("a write that failed, and was carried out")
			m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})

			var late *logical.StorageEntry
			storage.put = func(_ context.Context, entry *logical.StorageEntry) error {
				late = entry
				return errors.New("no answer")
			}
			m.fails(500, logical.UpdateOperation, "config", map[string]any{"max_retries": 3}, "no answer")
			m.read("jwks")
			if err := storage.Storage.Put(t.Context(), late); err != nil {
				t.Fatal(err)
			}
			m.pass(rereadAfter)
			m.coherent("a late write")
			m.pass(-time.Hour)
			storage.gets.Store(0)
			m.read("jwks")
			if storage.gets.Load() == 0 {
				t.Error("the clock was set back, and a view counts as fresh for an hour")
			}
		})
	}
}

// Vault tells a node what another node has changed, and the node uses the change at
// once. If Vault does not tell it, the node sees the change after rereadAfter.
func TestTwoNodes(t *testing.T) {
	one := newMount(t)
	one.ready("", map[string]any{"public_jwks": true})
	two := newMountOn(t, one.storage, systemView(consts.ReplicationPerformanceStandby))
	// written calls do, and then calls InvalidateKey of two for each entry that changed, as Vault does.
	written := func(do func()) {
		before := snapshot(t, one.storage)
		do()
		after := snapshot(t, one.storage)
		all := maps.Clone(before)
		maps.Copy(all, after)
		for key := range all {
			if before[key] != after[key] {
				two.backend.InvalidateKey(t.Context(), key)
			}
		}
	}
	two.read("token")
	written(func() { one.write("config", map[string]any{"client_id": "another"}) })
	two.fails(400, logical.ReadOperation, "token", nil, "for client ID another")
	written(func() { one.write("keys/generate", nil) })
	raw, err := base64.StdEncoding.DecodeString(two.read("jwks")[logical.HTTPRawBody].(string))
	if err != nil || string(raw) != one.read("keys")["jwks"] {
		t.Errorf("jwks is %s, %v", raw, err)
	}
	written(func() { one.must(logical.DeleteOperation, "config", nil) })
	two.fails(400, logical.ReadOperation, "token", nil, "no client ID")
	two.fails(404, logical.ReadOperation, "jwks", nil)
	one.ready("", nil)
	two.read("token")
	one.write("config", map[string]any{"client_id": "another"})
	two.pass(rereadAfter)
	two.fails(400, logical.ReadOperation, "token", nil, "for client ID another")
}

// Reads of token and jwks leave nothing in memory for a client that does not exist, or
// that has no config.
func TestMemoryOfNobody(t *testing.T) {
	m := newMount(t)
	m.write("clients/bare/keys/generate", nil)
	for _, client := range []string{"nobody", "bare"} {
		m.fails(404, logical.ReadOperation, "clients/"+client+"/jwks", nil)
		m.fails(400, logical.ReadOperation, "clients/"+client+"/token", nil)
	}
	if n := len(m.backend.entries.views.places) + len(m.backend.connections.clients) + m.backend.tokens.Len(); n != 0 {
		t.Errorf("%d entries in memory", n)
	}
}

// A view has what was written just before, also while four goroutines read jwks.
func TestMemoryUnderConcurrency(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := m.request(t.Context(), logical.ReadOperation, "jwks", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 40 {
		id := fmt.Sprint("k", i)
		m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": id})
		m.coherent("an import")
		m.must(logical.DeleteOperation, "keys/"+id, nil)
		m.coherent("a deletion")
	}
	stop()
	all.Wait()
}

// A read or a step that began before its client was deleted may leave something in memory. On the node
// that rotates keys it is freed when the schedule lists the clients.
func TestListFreesMemory(t *testing.T) {
	m := newMount(t)
	e := m.backend.engine
	if _, err := e.connections.of("gone", ""); err != nil {
		t.Fatal(err)
	}
	e.rechecks.ask("gone", e.now())
	e.failures.note("gone", errStorage, e.now())
	if _, err := e.work(m.storage).List(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := [...]int{len(e.connections.clients), len(e.rechecks.asked) + len(e.rechecks.due), len(e.failures.last)}
	if left != [3]int{} {
		t.Errorf("memory holds %v of a client that is gone", left)
	}
}

// If nobody has read a client for more than a minute, PeriodicFunc drops its view, and with it the parsed
// keys. If the next read of token fails, the metrics still count that read.
func TestUnusedViewsGo(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	m.ready("clients/acme/", nil)
	m.read("token")
	m.read("clients/acme/token")
	m.pass(time.Minute)
	m.read("token")
	m.pass(time.Second)
	m.backend.schedule.Stop() // so that PeriodicFunc starts no worker
	if err := m.backend.PeriodicFunc(t.Context(), &logical.Request{Storage: m.storage}); err != nil {
		t.Fatal(err)
	}
	if m.backend.entries.views.places["default"] == nil || m.backend.entries.views.places["acme"] != nil {
		t.Error("the view of the client that is read is gone, or that of the other is there")
	}
	storage.countdown = 0
	m.fails(500, logical.ReadOperation, "clients/acme/token", nil)
	storage.countdown = -1
	m.expect(map[string]float64{"redox_token_reads_total{client=acme,outcome=error}": 1})
}
