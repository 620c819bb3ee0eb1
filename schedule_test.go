package redox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// start lets the rotator run as Vault does, until the test ends.
func (m *mount) start() {
	m.t.Helper()
	if err := m.backend.Initialize(m.t.Context(), &logical.InitializationRequest{Storage: m.storage}); err != nil {
		m.t.Fatal(err)
	}
}

// A client whose Redox stalls keeps no other waiting, for as many steps as
// there are.
func TestRotatorSideBySide(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	stalled, err := redoxtest.Start(redoxtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stalled.Close)
	stalled.SetFault(redoxtest.FaultStall, -1)
	m.ready("clients/acme/", map[string]any{"token_url": stalled.TokenURL(), "request_timeout": "30s", "max_retries": 0})
	m.write("clients/acme/keys/rotate", nil)
	m.start()
	waitFor(t, "the proof that stalls", func() bool { return len(stalled.Assertions()) > 0 })
	for range 2 {
		next := m.write("keys/generate", nil)["key_id"]
		m.publish("")
		m.write("keys/rotate", nil)
		waitFor(t, "the other client's switch", func() bool { return m.read("keys")["active"] == next })
	}
	if n := len(stalled.Assertions()); n != 1 {
		t.Errorf("the stalled proof was given up, as one of %d", n)
	}
}

// watchedStorage counts and spoils the listing of clients.
type watchedStorage struct {
	logical.Storage

	mu    sync.Mutex
	lists int
	fail  func() error
}

func (s *watchedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.mu.Lock()
	s.lists++
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return nil, err
		}
	}
	return s.Storage.List(ctx, prefix)
}

func (s *watchedStorage) set(fail func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// onFakeTime makes an engine without a sandbox, whose clock can be a bubble's.
func onFakeTime(t *testing.T, storage logical.Storage) (*backend, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	made, err := Factory(context.Background(), &logical.BackendConfig{
		System: systemView(0), StorageView: storage, Logger: hclog.New(&hclog.LoggerOptions{Output: log}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Initialize(context.Background(), &logical.InitializationRequest{Storage: storage}); err != nil {
		t.Fatal(err)
	}
	return made.(*backend), log
}

// Without anything to do the rotator looks once a minute, and no more.
func TestRotatorRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &watchedStorage{Storage: &logical.InmemStorage{}}
		b, _ := onFakeTime(t, storage)
		time.Sleep(10*time.Minute + time.Second)
		b.Cleanup(context.Background())
		if storage.lists != 11 {
			t.Errorf("it looked %d times in ten minutes", storage.lists)
		}
	})
}

// A list that fails, or panics, is logged and read again in a minute.
func TestRotatorLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &watchedStorage{Storage: &logical.InmemStorage{}, fail: func() error { return errors.New("the storage is gone") }}
		b, log := onFakeTime(t, storage)
		synctest.Wait()
		storage.set(func() error { panic("a secret") })
		time.Sleep(time.Minute)
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "the storage is gone") || !strings.Contains(text, "panic in a rotation") || strings.Contains(text, "a secret") {
			t.Errorf("logged %s", text)
		}
		storage.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if storage.lists != 3 {
			t.Errorf("it looked %d times", storage.lists)
		}
		b.Cleanup(context.Background())
	})
}

// A client that comes gets a goroutine, one that goes loses it.
func TestRotatorKnowsClients(t *testing.T) {
	m := newMount(t)
	m.start()
	workers := m.backend.schedule.Workers
	m.write("keys/generate", nil)
	m.write("clients/acme/keys/generate", nil)
	waitFor(t, "two goroutines", func() bool { return workers() == 2 })
	m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
	waitFor(t, "one goroutine", func() bool { return workers() == 1 })
	m.write("clients/acme/keys/generate", nil)
	waitFor(t, "two goroutines again", func() bool { return workers() == 2 })
	m.backend.Cleanup(t.Context())
	if workers() != 0 {
		t.Error("goroutines run on after Cleanup")
	}
}

// It can be stopped while it waits for storage, and while a client's doubt is
// noted: nothing that the goroutines need is held.
func TestRotatorStops(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	released, listing := make(chan struct{}), make(chan struct{})
	var once sync.Once
	storage := &watchedStorage{Storage: m.storage, fail: func() error {
		once.Do(func() { close(listing) })
		<-released
		return nil
	}}
	m.backend.startRotation(storage)
	<-listing
	stopped := make(chan struct{})
	go func() {
		m.backend.schedule.Stop()
		close(stopped)
	}()
	m.backend.schedule.Wake(defaultClient)
	m.backend.schedule.Relist()
	close(released)
	waitFor(t, "the rotator to stop", func() bool {
		select {
		case <-stopped:
			return true
		default:
			return false
		}
	})
}

// The goroutine that Vault starts does it all by itself, once; Cleanup ends it.
func TestRotator(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	for range 2 {
		if err := m.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
		if err := m.backend.PeriodicFunc(t.Context(), &logical.Request{Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
	}
	next := m.write("keys/generate", nil)["key_id"]
	m.publish("")
	m.write("keys/rotate", nil)
	waitFor(t, "the switch", func() bool { return m.read("keys")["active"] == next })
	m.signs(next)
	if n := strings.Count(m.log.String(), "signing key changed"); n != 1 {
		t.Errorf("the key changed %d times", n)
	}
	m.backend.Cleanup(t.Context())
	if n := m.backend.schedule.Workers(); n != 0 {
		t.Errorf("%d workers after Cleanup", n)
	}
}

// A panic is logged without its value, and the rotator goes on.
func TestRotatorPanics(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1, panics: true}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	storage.countdown = 0
	if wait := m.rotate(); wait != time.Minute || strings.Count(m.log.String(), "panic in a rotation") != 1 {
		t.Errorf("it waits %v; the log holds %s", wait, m.log)
	}
	next := m.write("keys/generate", nil)["key_id"]
	m.publish("")
	m.write("keys/rotate", nil)
	m.rotate()
	m.signs(next)
}
