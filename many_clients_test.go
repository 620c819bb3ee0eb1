package redox

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// crowdStorage counts reads and writes, and can make them fail. A list counts as a read. Deletions are
// not counted and do not fail.
type crowdStorage struct {
	logical.Storage

	mu     sync.Mutex
	reads  int
	writes int
	fails  bool
}

func (s *crowdStorage) step(count *int) error {
	s.mu.Lock()
	*count++
	defer s.mu.Unlock()
	if s.fails {
		return errStorage
	}
	return nil
}

func (s *crowdStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.step(&s.reads); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *crowdStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.step(&s.reads); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

func (s *crowdStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.step(&s.writes); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

// set makes the storage fail, or not.
func (s *crowdStorage) set(fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = fails
}

// count returns how many reads and writes there were since its last call.
func (s *crowdStorage) count() (reads, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads, writes, s.reads, s.writes = s.reads, s.writes, 0, 0
	return reads, writes
}

// crowd is an engine with many clients, in a bubble of synctest.
type crowd struct {
	t       *testing.T
	b       *backend
	storage *crowdStorage

	mu    sync.Mutex
	ahead time.Duration // how far the engine's clock is ahead of the bubble's
}

func inCrowd(t *testing.T, clients int, do func(c *crowd)) {
	t.Helper()
	nextKey := stockOfKeys(t)
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, storage: &crowdStorage{Storage: &logical.InmemStorage{}}}
		for i := range clients {
			c.add(fmt.Sprintf("c%04d", i), nextKey(c.now()))
		}
		made, err := Factory(t.Context(), &logical.BackendConfig{
			System: systemView(0), StorageView: c.storage, Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		c.b = made.(*backend)
		c.b.now = c.now
		c.b.newKey = func(_ int, now time.Time) (*keyring.Key, error) { // never two at a time
			time.Sleep(100 * time.Millisecond) // as long as generating takes
			return nextKey(now), nil
		}
		c.storage.count()
		do(c)
		c.b.Cleanup(t.Context())
	})
}

func (c *crowd) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// add stores a client that has public_jwks, a rotation_period, and one key, which counts as accepted by
// Redox.
func (c *crowd) add(name string, k *keyring.Key) {
	c.t.Helper()
	settings := defaultConfig()
	settings.ClientID, settings.PublicJWKS, settings.RotationPeriod = clientID, true, 2160*hour
	settings.PublishWindow = 168 * hour
	ring := &keyring.Ring{}
	if _, _, err := ring.Add(k, c.now()); err != nil {
		c.t.Fatal(err)
	}
	k.Accept(settings.where())
	if err := store.Put(c.t.Context(), c.storage, configKey(name), &settings); err != nil {
		c.t.Fatal(err)
	}
	if err := store.Put(c.t.Context(), c.storage, keyringKey(name), ring); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) start() {
	c.t.Helper()
	if err := c.b.Initialize(c.t.Context(), &logical.InitializationRequest{Storage: c.storage}); err != nil {
		c.t.Fatal(err)
	}
}

// after sleeps for d, then waits until all other goroutines of the bubble block.
func (c *crowd) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// atOnce sends a request, which must succeed and take no time on the clock of the bubble.
func (c *crowd) atOnce(what string, op logical.Operation, path string, data map[string]any) {
	c.t.Helper()
	began := time.Now()
	resp, err := c.b.HandleRequest(c.t.Context(), &logical.Request{
		Operation: op, Path: path, MountPoint: "redox/", Storage: c.storage, Data: data,
	})
	if err != nil || resp.IsError() {
		c.t.Errorf("%s: %v, %v", what, resp, err)
	}
	if took := time.Since(began); took != 0 {
		c.t.Errorf("%s waited %v", what, took)
	}
}

func (c *crowd) pending() (n int) {
	for _, seen := range c.b.overviews.all() {
		if seen.ring != nil && seen.ring.Pending() != nil {
			n++
		}
	}
	return n
}

// When a mount with 1,000 clients starts, it looks at each of them, about 200 in a second, and other
// requests do not wait for that. In the next hour, in which no step is due, it makes at most 3,600 reads
// of storage and no write.
func TestThousandClients(t *testing.T) {
	inCrowd(t, 1000, func(c *crowd) {
		before := runtime.NumGoroutine()
		c.start()
		c.after(2 * time.Second)
		if unread, complete := c.b.unread(); complete || unread < 500 || unread > 700 {
			t.Errorf("after two seconds %d are unread; complete %v", unread, complete)
		}
		c.atOnce("a config write during the start", logical.UpdateOperation, "clients/c0999/config",
			map[string]any{"max_retries": "1"})
		c.atOnce("a read of metrics during the start", logical.ReadOperation, "metrics", nil)
		c.atOnce("the list of clients", logical.ListOperation, "clients", nil)
		c.after(5 * time.Second)
		reads, _ := c.storage.count()
		if unread, complete := c.b.unread(); !complete || reads > 2*1000+20 {
			t.Errorf("after seven seconds %d are unread, and %d reads were made", unread, reads)
		}
		c.after(time.Hour)
		reads, writes := c.storage.count()
		if reads > 3600 || reads < 1000 || writes != 0 {
			t.Errorf("in an hour with nothing due there were %d reads and %d writes", reads, writes)
		}
		if n := runtime.NumGoroutine() - before; n > 100 {
			t.Errorf("%d goroutines", n)
		}
		c.atOnce("a scrape", logical.ReadOperation, "metrics", nil)
		if reads, _ := c.storage.count(); reads != 0 {
			t.Errorf("a scrape read storage %d times", reads)
		}
	})
}

// The clock jumps ahead by a year, so 1,000 rotations are due at once. Generating all keys takes more
// than one minute and at most four, and other requests do not wait meanwhile. After a jump back, all of
// these keys are still pending.
func TestThousandRotations(t *testing.T) {
	inCrowd(t, 1000, func(c *crowd) {
		c.start()
		c.after(10 * time.Second)
		c.mu.Lock()
		c.ahead = 365 * 24 * time.Hour
		c.mu.Unlock()
		c.after(time.Minute)
		if n := c.pending(); n < 1 || n > 999 {
			t.Errorf("after a minute %d keys are pending", n)
		}
		c.atOnce("a config write meanwhile", logical.UpdateOperation, "clients/c0500/config",
			map[string]any{"max_retries": "1"})
		c.atOnce("a read of jwks meanwhile", logical.ReadOperation, "clients/c0500/jwks", nil)
		c.after(3 * time.Minute)
		if n, workers := c.pending(), c.b.schedule.Workers(); n != 1000 || workers != 0 {
			t.Errorf("in the end %d keys are pending, and there are %d workers", n, workers)
		}
		c.mu.Lock()
		c.ahead = -365 * 24 * time.Hour
		c.mu.Unlock()
		c.storage.count()
		c.after(10 * time.Minute)
		if n := c.pending(); n != 1000 {
			t.Errorf("after the jump back %d keys are pending", n)
		}
	})
}

// While the mount starts, storage fails for 30 seconds, and one client cannot be read. Then one client is
// created and another is deleted. In the end the mount has looked at all clients that exist.
func TestThousandClientsInTrouble(t *testing.T) {
	inCrowd(t, 1000, func(c *crowd) {
		damaged := &logical.StorageEntry{Key: keyringKey("c0500"), Value: []byte("{")}
		if err := c.storage.Storage.Put(c.t.Context(), damaged); err != nil {
			t.Fatal(err)
		}
		c.start()
		c.after(time.Second)
		c.storage.set(true)
		c.after(30 * time.Second)
		c.storage.set(false)
		c.atOnce("a client that comes", logical.UpdateOperation, "clients/new/keys/import",
			map[string]any{"private_key": testdata(t, "pkcs8.pem")})
		c.atOnce("a client that goes", logical.DeleteOperation, "clients/c0001", map[string]any{"force": "true"})
		c.after(2 * time.Minute)
		unread, complete := c.b.unread()
		seen := c.b.overviews.all()
		if !complete || len(seen) != 1000 || !seen["c0500"].unreadable || seen["new"].ring == nil {
			t.Errorf("%d are unread, and %d seen; complete %v; the damaged one: %+v", unread, len(seen), complete,
				seen["c0500"])
		}
		if len(seen["c0000"].ring.Keys[0].PKCS8) > 0 {
			t.Error("an overview holds a private key")
		}
	})
}
