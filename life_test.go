package redox

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// pointStorage calls a function of the test just before one storage operation. The field left selects the
// operation.
type pointStorage struct {
	logical.Storage

	mu   sync.Mutex // guards left
	left int        // 1: the next operation; zero: none
	call func()
}

func (s *pointStorage) pass() {
	s.mu.Lock()
	due := s.left == 1
	s.left = max(0, s.left-1)
	s.mu.Unlock()
	if due {
		s.call()
	}
}

func (s *pointStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.pass()
	return s.Storage.Get(ctx, key)
}

func (s *pointStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.pass()
	return s.Storage.Put(ctx, entry)
}

func (s *pointStorage) Delete(ctx context.Context, key string) error {
	s.pass()
	return s.Storage.Delete(ctx, key)
}

func (s *pointStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.pass()
	return s.Storage.List(ctx, prefix)
}

// restart replaces the engine by a new one, and its storage by a new one that holds a copy of stored. It
// returns that storage.
func (m *mount) restart(stored map[string]string) *pointStorage {
	m.t.Helper()
	storage := &pointStorage{Storage: &logical.InmemStorage{}}
	for key, value := range stored {
		if err := storage.Put(m.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
			m.t.Fatal(err)
		}
	}
	made, err := Factory(m.t.Context(), &logical.BackendConfig{
		System: systemView(0), StorageView: storage,
		Logger: hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Trace}),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.backend, m.storage = made.(*backend), storage
	m.pass(0)
	return storage
}

// afterTheEnd makes calls that Vault or a late reader may make after Clean. The test fails if a
// request succeeds, if a call has an effect, if memory still holds something of a client, or if a
// goroutine of the engine runs on.
func (m *mount) afterTheEnd(when string) {
	m.t.Helper()
	stored, sent := snapshot(m.t, m.storage), len(m.sandbox.Assertions())
	m.start()
	if err := m.backend.PeriodicFunc(m.t.Context(), &logical.Request{Storage: m.storage}); err != nil {
		m.t.Error(err)
	}
	m.backend.InvalidateKey(m.t.Context(), configKey(defaultClient))
	for _, o := range everyOperation(m.t, "") {
		m.fails(429, o.op, o.path, o.data, "the engine is being stopped or reloaded: try again")
	}
	m.backend.Cleanup(m.t.Context())
	m.unchanged(stored)
	if n := len(m.sandbox.Assertions()); n != sent {
		m.t.Errorf("%s: %d assertions were sent after the end", when, n-sent)
	}
	e := m.backend.engine
	if left := [...]int{
		len(e.entries.views.places), len(e.connections.clients), e.tokens.Len(), e.schedule.Workers(),
		len(e.reads.clients), len(e.proofs.clients), len(e.generating.clients), len(e.log.clients),
		len(e.rechecks.due) + len(e.rechecks.asked), len(e.metrics.of), len(e.overviews.of), len(e.failures.last),
		len(e.signing.clients),
	}; left != [13]int{} {
		m.t.Errorf("%s: memory holds %v", when, left)
	}
	var running bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&running, 1); err != nil {
		m.t.Fatal(err)
	}
	for _, of := range []string{"redox.(*engine)", "redox.(*client)", "schedule.(*", "tokencache.(*"} {
		if strings.Contains(running.String(), of) {
			m.t.Errorf("%s: a goroutine of %s runs on:\n%s", when, of, running.String())
		}
	}
}

// clean calls Cleanup, as Vault does at the end of a mount, in a goroutine. It returns as
// soon as the end has begun. The channel is closed when Cleanup has returned.
func (m *mount) clean() <-chan struct{} {
	cleaned := make(chan struct{})
	b := m.backend
	go func() {
		defer close(cleaned)
		b.Cleanup(context.Background())
	}()
	<-b.life.ctx.Done()
	return cleaned
}

// The test repeats each request of everyOperation, a read of jwks, and the work of a worker. Each time, the
// mount ends just before another of their storage operations. Cleanup must wait for the work that is under
// way. Later requests must fail and change nothing.
func TestAfterTheEnd(t *testing.T) {
	m := newMount(t)
	m.setUp()
	m.write("config", map[string]any{"public_jwks": true, "publish_window": "0s"})
	m.write("keys/rotate", nil)
	m.publish("")
	stored := snapshot(t, m.storage)
	m.backend.Cleanup(t.Context())
	work := everyOperation(t, "")
	work = append(work, operation{logical.ReadOperation, "jwks", nil}, operation{path: "a worker"})
	for _, o := range work {
		for at := 1; ; at++ {
			storage := m.restart(stored)
			reached := make(chan (<-chan struct{}), 1)
			storage.left, storage.call = at, func() {
				cleaned := m.clean()
				select {
				case <-cleaned:
					t.Error(o.path, "is under way, and Clean has returned")
				case <-time.After(time.Millisecond):
				}
				reached <- cleaned
			}
			if o.path == "a worker" {
				m.start()
				waitFor(t, "the worker", func() bool {
					s, err := loadState(t.Context(), storage.Storage, defaultClient)
					return len(reached) == 1 || err == nil && s.Ring.Pending() == nil
				})
			} else {
				_, _ = m.request(t.Context(), o.op, o.path, o.data) // it may succeed or fail
			}
			if len(reached) == 0 {
				m.backend.Cleanup(t.Context())
				storage.call = func() {} // scan reads storage too
				if at == 1 {
					t.Errorf("%s used no storage", o.path)
				}
				break
			}
			<-<-reached
			m.afterTheEnd(o.path)
		}
	}
}

// When the mount ends, each request that waits for Redox, for a slot, or for its turn to generate a key
// ends at once: its answer says to try again. No further assertion is sent.
func TestEndWhileRequestsWait(t *testing.T) {
	m := newMount(t)
	m.setUp()
	m.write("config", map[string]any{"request_timeout": "30s", "max_retries": 5})
	m.write("clients/acme/config", map[string]any{"request_timeout": "30s", "reuse_tokens": true})
	stored := snapshot(t, m.storage)
	m.backend.Cleanup(t.Context())
	m.restart(stored)
	m.sandbox.SetFault(redoxtest.FaultStall, -1)
	before := len(m.sandbox.Assertions())
	answers := make(chan string)
	waiting := 0
	ask := func(n int, op logical.Operation, path string) {
		waiting += n
		for range n {
			go func() {
				resp, err := m.request(context.Background(), op, path, nil)
				status, text := outcome(op, resp, err)
				answers <- fmt.Sprint(path, ": ", status, " ", text)
			}()
		}
	}
	release, err := m.backend.generating.acquire(t.Context(), "busy", false)
	if err != nil {
		t.Fatal(err)
	}
	ask(2, logical.ReadOperation, "clients/acme/token")
	ask(1, logical.UpdateOperation, "keys/old/activate")
	ask(1, logical.ReadOperation, "check")
	ask(maxReads, logical.ReadOperation, "token")
	ask(1, logical.UpdateOperation, "clients/new/keys/generate")
	waitFor(t, "the requests to stall", func() bool {
		return len(m.sandbox.Assertions()) == before+maxReads+3 && m.backend.generating.all()["new"] == 1
	})
	began := time.Now()
	ask(1, logical.ReadOperation, "token") // no slot is free
	waitFor(t, "it to wait", func() bool {
		m.backend.reads.mu.Lock()
		defer m.backend.reads.mu.Unlock()
		return m.backend.reads.clients[defaultClient].users == maxReads+1
	})
	cleaned := m.clean()
	for range waiting {
		if text := <-answers; !strings.HasSuffix(text, ": 429 the engine is being stopped or reloaded: try again") {
			t.Error(text)
		}
	}
	<-cleaned
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	release()
	if n := len(m.sandbox.Assertions()); n != before+maxReads+3 {
		t.Errorf("%d assertions were sent, want %d", n-before, maxReads+3)
	}
	m.afterTheEnd("requests that wait")
	if lines := m.log.String(); strings.Contains(lines, "[WARN]") || strings.Contains(lines, "[ERROR]") {
		t.Errorf("the log holds\n%s", lines)
	}
}
