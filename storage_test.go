package redox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/helper/pathmanager"
	"github.com/hashicorp/vault/sdk/logical"
)

// faultyStorage fails or panics once, after a number of operations.
type faultyStorage struct {
	logical.Storage
	panics bool

	mu        sync.Mutex // guards countdown
	countdown int        // operations before the fault; below zero: no fault
}

var errStorage = errors.New("the storage is gone")

func (s *faultyStorage) due() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.countdown < 0 {
		return nil
	}
	if s.countdown--; s.countdown >= 0 {
		return nil
	}
	if s.panics {
		var none *mount
		_ = none.t // a panic of the Go runtime
	}
	return errStorage
}

func (s *faultyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.due(); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.due(); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	if err := s.due(); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, key)
}

func (s *faultyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.due(); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

type operation struct {
	op   logical.Operation
	path string
	data map[string]any
}

// everyOperation returns requests to every endpoint except jwks and metrics, for a mount that setUp has prepared.
func everyOperation(t *testing.T, prefix string) []operation {
	pem := testdata(t, "rsa3072.pem")
	return []operation{
		{logical.ReadOperation, prefix + "token", nil},
		{logical.ReadOperation, prefix + "check", nil},
		{logical.ReadOperation, prefix + "config", nil},
		{logical.UpdateOperation, prefix + "config", map[string]any{"max_retries": 0}},
		{logical.PatchOperation, prefix + "config", map[string]any{"max_retries": 1}},
		{logical.DeleteOperation, prefix + "config", nil},
		{logical.ReadOperation, prefix + "keys", nil},
		{logical.ListOperation, prefix + "keys", nil},
		{logical.ReadOperation, prefix + "keys/old", nil},
		{logical.DeleteOperation, prefix + "keys/old", nil},
		{logical.UpdateOperation, prefix + "keys/old/activate", nil},
		{logical.UpdateOperation, prefix + "keys/generate", nil},
		{logical.UpdateOperation, prefix + "keys/import", map[string]any{"private_key": pem}},
		{logical.UpdateOperation, prefix + "keys/rotate", nil},
		{logical.ListOperation, "clients", nil},
		{logical.ReadOperation, "clients/acme", nil},
		{logical.DeleteOperation, "clients/acme", map[string]any{"force": true}},
		{logical.ReadOperation, "hosts", nil},
		{logical.UpdateOperation, "hosts", map[string]any{"allowed": "gateway.example"}},
		{logical.DeleteOperation, "hosts", nil},
	}
}

// setUp gives both the default client and acme a config and two keys that the sandbox
// knows: a retiring one called old, and an active one.
func (m *mount) setUp() {
	m.t.Helper()
	for _, prefix := range []string{"", "clients/acme/"} {
		m.write(prefix+"keys/import", map[string]any{"private_key": testdata(m.t, "rsa3072b.pem"), "key_id": "old"})
		m.ready(prefix, nil) // its key is pending
		m.write(prefix+"keys/"+m.read(prefix + "keys")["pending"].(string)+"/activate", nil)
	}
}

// If any storage operation of a request in everyOperation fails, the answer is a 500 with the request's ID,
// nothing is stored in part, and the same request succeeds afterwards. There is one exception: the deletion
// of a client may stop after the config is deleted.
func TestStorageFailures(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "clients/acme/"} {
		for _, o := range everyOperation(t, prefix) {
			t.Run(fmt.Sprint(o.op, " ", o.path), func(t *testing.T) {
				storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
				m := newMountOn(t, storage, systemView(0))
				m.setUp()
				before := snapshot(t, storage)
				at := 0
				for ; ; at++ {
					storage.countdown = at
					resp, err := m.request(t.Context(), o.op, o.path, o.data)
					untouched := storage.countdown >= 0
					storage.countdown = -1
					status, message := outcome(o.op, resp, err)
					if untouched {
						if status >= 300 {
							t.Fatalf("in good order it answers %d: %s", status, message)
						}
						break
					}
					if status != 500 || !strings.Contains(message, "the storage is gone") || !strings.Contains(message, "request-1") {
						t.Errorf("storage operation %d fails: HTTP %d %s", at, status, message)
					}
					if strings.HasPrefix(o.path, "clients/acme") && o.op == logical.DeleteOperation && at == 3 {
						continue // the config is gone, the keys are not: see deleteClient
					}
					m.unchanged(before)
				}
				if at == 0 {
					t.Error("it used no storage")
				}
			})
		}
	}
}

// Vault seal-wraps every entry of a client. The SDK compares a path with a pattern exactly, or by prefix if the
// pattern ends with a slash. The list of hosts is not secret, so it need not be seal-wrapped.
func TestSealWrap(t *testing.T) {
	m := newMount(t)
	m.setUp()
	wrapped := pathmanager.New()
	for _, pattern := range m.backend.SpecialPaths().SealWrapStorage {
		if strings.ContainsAny(pattern, "*+") {
			t.Errorf("%q: seal wrapping knows no wildcards", pattern)
		}
	}
	wrapped.AddPaths(m.backend.SpecialPaths().SealWrapStorage)
	entries := snapshot(t, m.storage)
	delete(entries, hostsKey)
	if len(entries) != 4 {
		t.Errorf("%d entries, want 4", len(entries))
	}
	for key := range entries {
		if !wrapped.HasExactPath(key) {
			t.Errorf("%s is not seal-wrapped", key)
		}
	}
}

// This version reads every form in testdata/storage, and stores the newest of them.
func TestGoldenStorage(t *testing.T) {
	m := newMount(t)
	m.backend.now = func() time.Time { return noon }
	m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "first"})
	m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072.pem"), "key_id": "second"})
	m.write("keys/second/activate", map[string]any{"force": true})
	m.write("config", map[string]any{"client_id": clientID, "region": "ca", "scope": "a b", "assertion_ttl": "1m",
		"max_retries": 0, "reuse_tokens": true,
		"platform_client": "platform", "manages": "acme=another"})
	err := m.backend.update(t.Context(), &request{Request: &logical.Request{Storage: m.storage}, client: "default"},
		func(s *state) error {
			s.Ring.Active().Accept(s.Config.where())
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	m.rotate()
	third := m.write("keys/import", map[string]any{"private_key": testdata(t, "rsa3072b.pem"), "key_id": "third"})
	m.must(logical.DeleteOperation, "keys/"+third["key_id"].(string), nil)
	stored := snapshot(t, m.storage)
	delete(stored, hostsKey) // TestGoldenHosts
	for key, value := range stored {
		file := filepath.Join("testdata", "storage", "v1-acceptance", filepath.Base(key)+".json")
		if *update {
			if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), value); diff != "" {
			t.Errorf("%s is stored in another form: raise store.Version, keep the old files, and run with -update (-want "+
				"+got):\n%s", key, diff)
		}
	}

	versions, err := filepath.Glob("testdata/storage/v*")
	if err != nil || len(versions) == 0 {
		t.Fatal(versions, err)
	}
	for _, dir := range versions {
		old := newMount(t)
		for _, entry := range []string{"config", "keyring"} {
			raw, err := os.ReadFile(filepath.Join(dir, entry+".json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := old.storage.Put(t.Context(), &logical.StorageEntry{Key: "clients/default/" + entry,
				Value: raw}); err != nil {
				t.Fatal(err)
			}
		}
		old.publish("")
		old.write("config", map[string]any{"token_url": old.sandbox.TokenURL()})
		if got := old.read("token")["key_id"]; got != "second" {
			t.Errorf("%s: the token is signed by %v", dir, got)
		}
		old.write("keys/first/activate", nil)
	}
}

// If an entry was stored by a newer plugin, requests that need it fail and do not change it. Deleting config or
// hosts is allowed, and not tested here.
func TestNewerStorage(t *testing.T) {
	m := newMount(t)
	m.setUp()
	for _, entry := range []string{"config", "keyring"} {
		raw := &logical.StorageEntry{Key: "clients/default/" + entry, Value: []byte(`{"version":2,"data":{"new":"shape"}}`)}
		if err := m.storage.Put(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
	}
	raw := &logical.StorageEntry{Key: hostsKey, Value: []byte(`{"version":2,"data":{"new":"shape"}}`)}
	if err := m.storage.Put(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, m.storage)
	for _, o := range everyOperation(t, "") {
		if o.path == "clients" || strings.HasPrefix(o.path, "clients/") || o.op == logical.DeleteOperation &&
			(o.path == "config" || o.path == "hosts") {
			continue
		}
		m.fails(500, o.op, o.path, o.data, "stored by a newer plugin (schema version 2, this one knows 1)")
	}
	m.unchanged(before)
	if !strings.Contains(m.log.String(), "request failed") {
		t.Error("the log does not tell of it")
	}
}

// If an entry was damaged in storage, a read that needs it gets a 500 that says what
// cannot be read.
func TestDamagedStorage(t *testing.T) {
	for name, test := range map[string]struct {
		entry, old, new string
		path, want      string
	}{
		"private key": {"keyring", `"private_key":"MII`, `"private_key":"AAA`, "token",
			"the stored private key first cannot be read"},
		"private key, proof": {"keyring", `"private_key":"MII`, `"private_key":"AAA`, "check",
			"the stored private key first cannot be read"},
		"public key": {"keyring", `"e":"AQAB"`, `"e":"!"`, "keys/first", "decoding the public half of key first"},
		"CA":         {"config", `"ca_pem":""`, `"ca_pem":"x"`, "token", "no CERTIFICATE block that can be read"},
		"CA, proof":  {"config", `"ca_pem":""`, `"ca_pem":"x"`, "check", "no CERTIFICATE block that can be read"},
		"JSON":       {"config", `{"version"`, `[`, "config", "not the JSON this plugin writes"},
		"a setting":  {"config", `"max_retries":2`, `"max_retries":"x"`, "config", "form of schema version 1"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.write("keys/import", map[string]any{"private_key": testdata(t, "pkcs8.pem"), "key_id": "first"})
			m.write("config", map[string]any{"client_id": clientID})
			key := "clients/default/" + test.entry
			damaged := strings.Replace(snapshot(t, m.storage)[key], test.old, test.new, 1)
			if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(damaged)}); err != nil {
				t.Fatal(err)
			}
			m.fails(500, logical.ReadOperation, test.path, nil, test.want, "request-1")
		})
	}
}

// A slow write of one client does not delay a write of another, unless both share a lock.
func TestWritesOfClientsSideBySide(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	if locksutil.LockIndexForKey("acme") == locksutil.LockIndexForKey("zeta") {
		t.Fatal("the two share a lock: choose other names")
	}
	held, release := make(chan struct{}), make(chan struct{})
	storage.put = func(ctx context.Context, entry *logical.StorageEntry) error {
		if entry.Key == configKey("acme") {
			close(held)
			<-release
		}
		return storage.Storage.Put(ctx, entry)
	}
	done := make(chan map[string]any)
	go func() { done <- m.write("clients/acme/config", map[string]any{"client_id": clientID}) }()
	<-held
	m.write("clients/zeta/config", map[string]any{"client_id": clientID})
	close(release)
	<-done
}

// Writing or deleting a config, and deleting a client, read the client only while they hold its lock. Otherwise
// the write could undo a change that was stored after the read.
func TestChangesHoldTheLock(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("clients/acme/", nil)
	lock := locksutil.LockForKey(m.backend.entries.locks, "acme")
	for _, o := range []operation{
		{logical.UpdateOperation, "clients/acme/config", map[string]any{"max_retries": 0}},
		{logical.DeleteOperation, "clients/acme/config", nil},
		{logical.DeleteOperation, "clients/acme", map[string]any{"force": true}},
	} {
		storage.gets.Store(0)
		storage.got = func() {
			if lock.TryLock() {
				lock.Unlock()
				t.Errorf("%s %s reads without the lock", o.op, o.path)
			}
		}
		m.must(o.op, o.path, o.data)
		storage.got = nil
		if storage.gets.Load() == 0 {
			t.Errorf("%s %s reads nothing", o.op, o.path)
		}
	}
}

// update refuses a change of a client's config and key ring together, and writes
// neither: two writes are not atomic.
func TestUpdateWritesOneEntry(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	before := snapshot(t, m.storage)
	err := m.backend.entries.update(t.Context(), m.storage, defaultClient, func(s *state) error {
		s.Config.MaxRetries, s.Ring.Keys = 0, nil
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "would write two entries") {
		t.Errorf("%v", err)
	}
	m.unchanged(before)
}

// readsOf counts the reads of each client's entries.
type readsOf struct {
	logical.Storage

	mu    sync.Mutex
	reads map[string]int
}

func (s *readsOf) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.mu.Lock()
	client, _, _ := strings.Cut(strings.TrimPrefix(key, clientsPrefix), "/")
	s.reads[client]++
	s.mu.Unlock()
	return s.Storage.Get(ctx, key)
}

func (s *readsOf) of(client string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads[client]
}

// A write wakes the worker of its client. A write that changes a platform client also wakes the workers of
// the clients that it manages now or managed before. No other worker wakes.
func TestAWriteWakes(t *testing.T) {
	storage := &readsOf{Storage: &logical.InmemStorage{}, reads: map[string]int{}}
	m := newMountOn(t, storage, systemView(0))
	for _, client := range []string{"platform", "managed", "other"} {
		m.write("clients/"+client+"/config", map[string]any{"client_id": client})
	}
	m.start()
	waitFor(t, "the first look at all clients", func() bool {
		_, complete := m.backend.schedule.Unread()
		return complete
	})
	// quiet waits until no worker has read for 20 ms, and returns the counts.
	quiet := func() map[string]int {
		counts := map[string]int{}
		waitFor(t, "the workers to sleep", func() bool {
			same := true
			for _, client := range []string{"platform", "managed", "other"} {
				n := storage.of(client)
				same, counts[client] = same && n == counts[client], n
			}
			time.Sleep(20 * time.Millisecond)
			return same
		})
		return counts
	}
	for _, test := range []struct {
		manages string
		wakes   bool
	}{{"", false}, {"managed=managed", true}, {"", true}} {
		before := quiet()
		m.write("clients/platform/config", map[string]any{"manages": test.manages, "max_retries": before["platform"] % 5})
		// The write itself reads twice, and so does the worker.
		waitFor(t, "the client's own worker", func() bool { return storage.of("platform") >= before["platform"]+4 })
		if test.wakes {
			waitFor(t, "the managed client's worker", func() bool { return storage.of("managed") > before["managed"] })
		}
		after := quiet()
		if after["other"] != before["other"] || !test.wakes && after["managed"] != before["managed"] {
			t.Errorf("with manages=%q: reads before %v, after %v", test.manages, before, after)
		}
	}
	// A write that changes nothing wakes the worker too: somebody may have fixed what Redox refused.
	before := quiet()
	m.write("clients/platform/config", nil)
	waitFor(t, "the worker, though nothing changed", func() bool { return storage.of("platform") >= before["platform"]+4 })
}
