package redox

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// A request that waits for a slot gets the next one that is released. It fails after a second, or when its context
// ends. A worker waits longer.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots("tests", 2, 3, slotWait)
		acquire := func(client string, worker bool) (release func()) {
			t.Helper()
			release, err := s.acquire(t.Context(), client, worker)
			if err != nil {
				t.Fatalf("%s: %v", client, err)
			}
			return release
		}
		fails := func(ctx context.Context, client string, kind redoxapi.Kind, after time.Duration, want string) {
			t.Helper()
			start := time.Now()
			_, err := s.acquire(ctx, client, false)
			var up *redoxapi.UpstreamError
			if !errors.As(err, &up) || up.Kind != kind || time.Since(start) != after || err.Error() != want {
				t.Errorf("%s after %v: %v", client, time.Since(start), err)
			}
		}
		one, two := acquire("a", false), acquire("a", false)
		const full = "too many tests at once: "
		fails(t.Context(), "a", redoxapi.Overloaded, slotWait, full+"this client has 2 under way: try again")
		ctx, cancel := context.WithTimeout(t.Context(), slotWait/2)
		defer cancel()
		const gaveUp = "the request was given up while it waited for its turn: too many requests at once: try again"
		fails(ctx, "a", redoxapi.Overloaded, slotWait/2, gaveUp)
		fails(ctx, "b", redoxapi.Overloaded, 0, gaveUp)

		go func() {
			time.Sleep(slotWait - time.Millisecond)
			one()
		}()
		one = acquire("a", false)

		// The mount is full: a client that gets no slot of the mount gives its own slot
		// back.
		three := acquire("b", false)
		fails(t.Context(), "b", redoxapi.Overloaded, slotWait, full+"the mount has 3 under way: try again")
		if s.all()["a"] != 2 || s.all()["b"] != 1 || s.all()["c"] != 0 {
			t.Errorf("taken: %d, %d, %d", s.all()["a"], s.all()["b"], s.all()["c"])
		}
		go func() {
			time.Sleep(time.Hour)
			two()
		}()
		for _, release := range []func(){acquire("c", true), one, three} {
			release()
		}
		if len(s.clients) != 0 || len(s.mount) != 0 {
			t.Errorf("%d clients and %d slots are left", len(s.clients), len(s.mount))
		}
	})
}

// hold makes n reads of path that stall at Redox. release ends them.
func (m *mount) hold(n int, path string) (release func()) {
	m.t.Helper()
	before := len(m.sandbox.Assertions())
	m.sandbox.SetFault(redoxtest.FaultStall, n)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for range n {
		go func() {
			_, err := m.request(ctx, logical.ReadOperation, path, nil)
			done <- err
		}()
	}
	waitFor(m.t, "the requests to stall", func() bool { return len(m.sandbox.Assertions()) == before+n })
	return func() {
		m.t.Helper()
		cancel()
		for range n {
			if err := <-done; err == nil {
				m.t.Error("a stalled request succeeded")
			}
		}
	}
}

// A client has at most 64 reads of token and two checks that wait for Redox. The client's owner cannot get more by
// a change of config, or by deleting the client. Other clients are not affected.
func TestSlotsBelongToTheName(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	const acme = "clients/acme/"
	settings := map[string]any{"request_timeout": 30, "max_retries": 0}
	m.ready(acme, settings)
	m.ready("clients/other/", nil)
	release := m.hold(maxReads, acme+"token")
	releaseChecks := m.hold(maxProofs, acme+"check")
	for name, change := range map[string]func(){
		"nothing": func() {},
		"another ca_pem": func() {
			m.write(acme+"config", map[string]any{"ca_pem": testdata(t, "certificate.pem")})
		},
		"another config": func() {
			m.must(logical.DeleteOperation, acme+"config", nil)
			m.ready(acme, settings)
		},
		"another client": func() {
			m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
			m.ready(acme, settings)
		},
		"a change on another node": func() { m.backend.InvalidateKey(t.Context(), configKey("acme")) },
	} {
		change()
		const full = " at once: this client has "
		if text := m.fails(429, logical.ReadOperation, acme+"token", nil); text !=
			"too many reads of token"+full+"64 under way: try again" {
			t.Errorf("with %s: %s", name, text)
		}
		if text := m.fails(429, logical.ReadOperation, acme+"check", nil); text !=
			"too many proofs and checks"+full+"2 under way: try again" {
			t.Errorf("with %s: %s", name, text)
		}
		m.expect(map[string]float64{"redox_requests_in_flight{client=acme}": maxReads})
		m.read("clients/other/token")
		m.read("clients/other/check")
	}
	release()
	releaseChecks()
	m.read(acme + "token")
	m.read(acme + "check")
}

// A request of a worker waits for a slot longer than request_timeout, because no reader waits for the worker.
func TestWorkersWaitForSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProofSlots()
		for range maxProofs {
			if _, err := s.acquire(t.Context(), "acme", false); err != nil {
				t.Fatal(err)
			}
		}
		c := &client{config: &config{RequestTimeout: 10}, proofs: s, chargeTo: "acme", worker: true}
		ctx, cancel := c.limited(t.Context())
		defer cancel()
		got := make(chan struct{})
		go func() {
			defer close(got)
			if _, err := s.acquire(ctx, c.chargeTo, c.worker); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(time.Hour)
		select {
		case <-got:
			t.Error("it had a slot at once")
		default:
		}
		<-s.clients["acme"].taken
		<-got
	})
}

// The requests of a worker take slots of the worker's client, even if they are signed with the platform client's
// key.
func TestWorkersTakeTheirClientsSlots(t *testing.T) {
	m := newMount(t)
	m.platformReady(nil)
	for _, s := range []*slots{m.backend.reads, m.backend.proofs} {
		for range s.perClient {
			if _, err := s.acquire(t.Context(), "platform", false); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 5 {
		m.rotateAll(ctx)
	}
	if text := m.publication(); !strings.HasPrefix(text, "up to date") {
		t.Error("publication is", text)
	}
	if n := len(m.backend.proofs.mount); n != maxProofs {
		t.Errorf("%d slots are taken, want the platform client's alone", n)
	}
}

// One key is generated at a time, and the clients take turns. Each client may have one request that waits: a
// second one gets a 429, but the client's worker waits too.
func TestGenerateInTurn(t *testing.T) {
	m := newMount(t)
	acme, other := "clients/acme/", "clients/other/"
	m.ready(acme, nil)
	release, err := m.backend.generating.acquire(t.Context(), "busy", false)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 3)
	ask := func(name, path string) {
		go func() {
			m.write(path, nil)
			done <- name
		}()
	}
	ask("acme", acme+"keys/generate")
	waitFor(t, "acme to wait", func() bool { return m.backend.generating.all()["acme"] == 1 })
	ask("other", other+"keys/generate")
	waitFor(t, "the other to wait", func() bool { return m.backend.generating.all()["other"] == 1 })
	for _, path := range []string{"keys/generate", "keys/rotate"} {
		m.fails(429, logical.UpdateOperation, acme+path, nil,
			"too many key generations at once: this client has 1 under way: try again")
	}
	worker := make(chan error)
	go func() {
		r := &request{Request: &logical.Request{Storage: m.storage}, client: "acme", worker: true}
		_, err := m.backend.generate(t.Context(), r, 2048)
		worker <- err
	}()
	if len(done) != 0 {
		t.Error("a key was generated beside another")
	}
	release()
	if one, two := <-done, <-done; one+" "+two != "acme other" {
		t.Errorf("the order is %s, %s", one, two)
	}
	if err := <-worker; err != nil {
		t.Error(err)
	}
}

// If a request is given up while it waits to generate a key, nothing is stored and no slot stays taken.
func TestGenerateGivenUp(t *testing.T) {
	m := newMount(t)
	stored := snapshot(t, m.storage)
	release, err := m.backend.generating.acquire(t.Context(), "busy", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := m.request(ctx, logical.UpdateOperation, "keys/generate", nil)
		done <- err
	}()
	waitFor(t, "the request to wait", func() bool { return m.backend.generating.all()[defaultClient] == 1 })
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the reader hung up") {
		t.Error(err)
	}
	release()
	if n := m.backend.generating.all()[defaultClient]; n != 0 {
		t.Errorf("%d slots are taken", n)
	}
	m.unchanged(stored)
}

// At most GOMAXPROCS assertions are signed at a time. No client has more than that number in the queue, so another
// client waits behind no more than that.
func TestSignInTurn(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	s := m.backend.signing
	n := cap(s.mount)
	if n != runtime.GOMAXPROCS(0) {
		t.Errorf("%d at a time", n)
	}
	var busy []func()
	for range n {
		release, err := s.acquire(t.Context(), "busy", true)
		if err != nil {
			t.Fatal(err)
		}
		busy = append(busy, release)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.request(ctx, logical.ReadOperation, "token", nil); err == nil || len(m.sandbox.Assertions()) > 0 {
		t.Errorf("a read did not wait: %v", err)
	}
	signed := make(chan string, 3*n+1)
	sign := func(client string) {
		release, err := s.acquire(t.Context(), client, true)
		if err != nil {
			t.Error(err)
			return
		}
		signed <- client
		release()
	}
	for range 3 * n {
		go sign("acme")
	}
	waitFor(t, "acme to wait", func() bool { return s.all()["acme"] == n })
	go sign("other")
	waitFor(t, "the other to wait", func() bool { return s.all()["other"] == 1 })
	busy[0]()
	for before := 0; <-signed != "other"; before++ {
		if before == n {
			t.Fatalf("the other waits behind more than %d", n)
		}
	}
	for _, release := range busy[1:] {
		release()
	}
	m.read("token")
}
