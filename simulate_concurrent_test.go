package redox

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

var concurrent = flag.Int("concurrent", 3, "how many runs TestSimulateConcurrently makes")

// bustle is a whole engine with its schedule, its connections and its goroutines, and readers and operators who
// call it at the same time. The laws are those of a simulation. A run cannot be repeated exactly: goroutines that
// are due at the same time run in any order.
type bustle struct {
	*laws
	t       *testing.T
	b       *backend
	storage logical.Storage
	sandbox *redoxtest.Sandbox
	log     *syncBuffer
	clients []*simClient
	made    atomic.Int64
	storm   atomic.Bool // Redox and storage fail, and operators do what they can
	noList  atomic.Bool // the next list of clients fails
	over    atomic.Bool // the engine has ended
	dials   chan net.Conn

	asking  sync.Mutex     // guards those below, and that Redox's lists are read and written in turn
	changes map[string]int // of each list, by people, or by an update that the engine has given up
	read    map[string]int // changes when it was read
	workers map[string]int // requests of each client's worker under way
}

type opKey struct{}

// opOf returns the operation in ctx. The ctx of a worker's step, or of a call of the token cache, has none. For
// these opOf returns a step that began two minutes ago, because the work may have begun that early.
func (u *bustle) opOf(ctx context.Context, c *simClient) *op {
	if o, is := ctx.Value(opKey{}).(*op); is {
		return o
	}
	return &op{what: "step", client: c, active: true, began: time.Now().Add(-2 * time.Minute)}
}

func (u *bustle) clientWith(id string) *simClient {
	for _, c := range u.clients {
		if c.id == id || c.name == id {
			return c
		}
	}
	return nil
}

// bustleStorage lets the laws judge each write. In a storm, its operations fail at times. It never sleeps, because
// its callers hold locks.
type bustleStorage struct {
	logical.Storage

	u  *bustle
	mu sync.Mutex // so that writes are judged in order
}

func (s *bustleStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if s.u.over.Load() {
		s.u.violated("an engine that has ended reads %s", key)
	}
	if s.u.storm.Load() && rand.N(50) == 0 {
		return nil, errStorage
	}
	return s.Storage.Get(ctx, key)
}

func (s *bustleStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if s.u.noList.Swap(false) || s.u.storm.Load() && rand.N(5) == 0 {
		return nil, errStorage
	}
	return s.Storage.List(ctx, prefix)
}

func (s *bustleStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.change(ctx, entry.Key, entry.Value, func() error { return s.Storage.Put(ctx, entry) })
}

func (s *bustleStorage) Delete(ctx context.Context, key string) error {
	return s.change(ctx, key, nil, func() error { return s.Storage.Delete(ctx, key) })
}

func (s *bustleStorage) change(ctx context.Context, key string, value []byte, act func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fails := s.u.storm.Load() && rand.N(20) == 0
	if fails && rand.N(2) == 0 {
		return errStorage
	}
	var before []byte
	if entry, err := s.Storage.Get(ctx, key); err == nil && entry != nil {
		before = entry.Value
	}
	if err := act(); err != nil {
		return err
	}
	if before != nil || value != nil {
		name, _, _ := strings.Cut(strings.TrimPrefix(key, clientsPrefix), "/")
		s.u.wrote(s.u.opOf(ctx, s.u.clientWith(name)), time.Now(), key, before, value)
	}
	if fails {
		return errStorage
	}
	return nil
}

// bustleTransport lets the laws judge each request. It also notes each answer of the token endpoint.
type bustleTransport struct {
	http.Transport

	u *bustle
}

func (t *bustleTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	u := t.u
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body) // it is in memory
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	x, jti := readExchange(req, body)
	if u.over.Load() {
		u.violated("an engine that has ended asks %s", x.host)
	}
	c := u.clientWith(x.id)
	o := u.opOf(req.Context(), c)
	u.sends(o, nil, x, jti)
	if o.what == "step" && x.kid != "" && c != nil && c.name == "zeta" { // whose tokens are not reused
		defer u.alone(c)()
	}
	resp, err := t.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(raw))
	if x.kid != "" {
		var answer struct {
			Token string `json:"access_token"`
		}
		_ = json.Unmarshal(raw, &answer) // an error has none
		u.answered(o, x, answer.Token)
	}
	return resp, nil
}

// alone notes that a step of c makes a request; end notes that the request has ended. alone fails the run if a
// request of another step of c is under way.
func (u *bustle) alone(c *simClient) (end func()) {
	add := func(n int) {
		u.asking.Lock()
		defer u.asking.Unlock()
		if u.workers[c.name] += n; u.workers[c.name] > 1 {
			u.violated("two steps of %s are under way", c.name)
		}
	}
	add(1)
	return func() { add(-1) }
}

// ServeHTTP answers in the place of Redox: slowly, and in a storm often with an error or not at all.
func (u *bustle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // the server sees only then that the engine gives up
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	time.Sleep(rand.N(300 * time.Millisecond))
	if u.storm.Load() {
		switch rand.N(12) {
		case 0:
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		case 1:
			http.Error(w, "", http.StatusTooManyRequests)
			return
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			time.Sleep(40 * time.Second)
		}
	}
	at := strings.LastIndex(r.URL.Path, "/apikeys/")
	if at < 0 {
		u.sandbox.Handler().ServeHTTP(w, r)
		return
	}
	u.asking.Lock()
	defer u.asking.Unlock()
	id := r.URL.Path[at+len("/apikeys/"):]
	o := &op{what: "step", client: u.clientWith(id), active: true, wrote: true, listed: u.read}
	before := listOf(u.sandbox, id)
	u.sandbox.Handler().ServeHTTP(w, r)
	if r.Method == http.MethodPatch && r.Context().Err() != nil { // it acts so late that the engine has given it up
		u.changes[id]++
		return
	}
	if r.Method == http.MethodPatch {
		u.listWritten(o, id, before, listOf(u.sandbox, id), u.changes[id])
		return
	}
	u.listRead(o, id, before, u.changes[id])
	u.ended(o)
}

// Accept, Close and Addr make u a listener for the connections of the engine.
func (u *bustle) Accept() (net.Conn, error) {
	c, open := <-u.dials
	if !open {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (u *bustle) Close() error   { return nil }
func (u *bustle) Addr() net.Addr { return &net.IPAddr{} }

func (u *bustle) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case u.dials <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newBustle(t *testing.T) *bustle {
	u := &bustle{
		laws: newLaws(time.Now), t: t, log: &syncBuffer{}, dials: make(chan net.Conn),
		changes: map[string]int{}, read: map[string]int{},
		workers: map[string]int{},
	}
	u.sandbox = redoxtest.New(redoxtest.Options{URL: "https://" + simHost, Transport: u.fetcher()})
	for i, name := range []string{"platform", defaultClient, "acme", "zeta"} {
		way := []string{"pasted", "fetched", "pushed", "pushed"}[i]
		c := &simClient{name: name, id: "id-of-" + name, platform: i == 0, way: way}
		u.clients = append(u.clients, c)
		u.know(c.name, c.id)
	}
	u.storage = &bustleStorage{Storage: &logical.InmemStorage{}, u: u}
	u.start()
	return u
}

// start makes a new engine for what is stored in u.storage, and sets u.b to it.
func (u *bustle) start() {
	made, err := Factory(u.t.Context(), &logical.BackendConfig{
		System: systemView(0), StorageView: u.storage,
		Logger: hclog.New(&hclog.LoggerOptions{Output: u.log, Level: hclog.Debug}),
	})
	if err != nil {
		u.t.Fatal(err)
	}
	u.b = made.(*backend)
	transport := &bustleTransport{u: u}
	transport.DialTLSContext, transport.MaxConnsPerHost = u.dial, maxRequestsToHost
	transport.IdleConnTimeout = 90 * time.Second
	u.b.connections.transport = transport
	u.b.newKey = func(_ int, now time.Time) (*keyring.Key, error) { // never two at a time
		time.Sleep(100 * time.Millisecond)
		stock, err := simStock()
		n := int(u.made.Add(1))
		k := *stock[n%len(stock)].Key
		k.ID, k.CreatedAt = keyring.ID(fmt.Sprint("k", n)), now.UTC()
		return &k, err
	}
}
