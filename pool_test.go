package redox

import (
	"context"
	"crypto/rsa"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

func TestPool(t *testing.T) {
	p := newPool()
	lane := func(client, ca string) *lane {
		t.Helper()
		l, err := p.lane(client, ca)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ca := testdata(t, "certificate.pem")
	one := lane("a", "")
	if lane("a", "") != one {
		t.Error("the same client got another lane")
	}
	if lane("b", "") == one {
		t.Error("two clients share a lane")
	}
	two := lane("a", ca)
	if two == one {
		t.Error("ca_pem changed, and the lane stayed")
	}
	if _, err := p.lane("a", "nonsense"); err == nil {
		t.Error("a nonsensical ca_pem made a lane")
	}
	if lane("a", ca) != two {
		t.Error("a failed change took the lane away")
	}
	p.forget("a")
	if lane("a", ca) == two {
		t.Error("a forgotten lane came back")
	}
	p.close()
	if len(p.clients) != 0 {
		t.Errorf("%d lanes after close", len(p.clients))
	}
}

// A connection that Redox closed while idle costs no failed read, and the
// assertion that was on it is not sent again.
func TestTokenOnAClosedConnection(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	for range 3 {
		m.read("token")
		waitFor(t, "the connection to be idle", func() bool { return m.sandbox.CloseIdle() == 1 })
		waitFor(t, "the connection to be closed", func() bool { return m.sandbox.CloseIdle() == 0 })
	}
	sent := m.sandbox.Assertions()
	slices.Sort(sent)
	if len(slices.Compact(sent)) != 3 {
		t.Errorf("%d different assertions, want 3", len(slices.Compact(sent)))
	}
}

// 64 of a client's requests are in flight at most; another waits its turn for
// a second, and then does not add to the heap. Other clients are not affected.
func TestTokenOverload(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"request_timeout": 30, "max_retries": 0})
	m.ready("clients/other/", nil)
	m.sandbox.SetFault(redoxtest.FaultStall, maxInFlight)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for range maxInFlight {
		go func() {
			_, err := m.request(ctx, logical.ReadOperation, "token", nil)
			done <- err
		}()
	}
	waitFor(t, "all places to be taken", func() bool { return len(m.sandbox.Assertions()) == maxInFlight })
	m.fails(429, logical.ReadOperation, "token", nil, "too many token requests at once: 64 of")
	m.read("clients/other/token")
	m.read("check")
	cancel()
	for range maxInFlight {
		if err := <-done; err == nil {
			t.Error("a stalled request succeeded")
		}
	}
	m.read("token")
}

// Nothing of the request that failed holds a lock: while Redox stalls, the
// config can be written and keys be added.
func TestWritesWhileRedoxStalls(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.sandbox.SetFault(redoxtest.FaultStall, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = m.request(ctx, logical.ReadOperation, "token", nil)
	}()
	waitFor(t, "the request to be under way", func() bool { return len(m.sandbox.Assertions()) == 1 })
	m.write("config", map[string]any{"max_retries": 1})
	m.write("keys/generate", nil)
	m.must(logical.ListOperation, "keys", nil)
	m.read("token")
	cancel()
	<-done
}

// Who waits for a place gets the next that is given back, or gives up after a
// second, or when its reader does.
func TestEnter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := []chan struct{}{make(chan struct{}, 2), make(chan struct{}, 3)}
		var leave []func()
		for range 2 {
			done, err := enter(t.Context(), places)
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, done)
		}
		go func() {
			time.Sleep(admission - time.Millisecond)
			leave[0]()
		}()
		if _, err := enter(t.Context(), places); err != nil {
			t.Errorf("a place became free in time: %v", err)
		}
		start := time.Now()
		_, err := enter(t.Context(), places)
		var up *upstreamError
		if !errors.As(err, &up) || up.Kind != overloaded || time.Since(start) != admission {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), admission/2)
		defer cancel()
		if _, err := enter(ctx, places); !errors.As(err, &up) || up.Kind != timedOut {
			t.Errorf("the reader gave up: %v", err)
		}
		if taken := [2]int{len(places[0]), len(places[1])}; taken != [2]int{2, 2} {
			t.Errorf("places taken: %v", taken)
		}
		// The second kind is full: the place of the first is given back.
		leave[1]()
		places[1] <- struct{}{}
		places[1] <- struct{}{}
		if _, err := enter(t.Context(), places); !errors.As(err, &up) || up.Kind != overloaded || len(places[0]) != 1 {
			t.Errorf("%v, %d places taken", err, len(places[0]))
		}
	})
}

// The key that was parsed last is remembered by what it was parsed from, so
// that another one is never taken for it, and forgotten when one is deleted.
func TestLaneRemembersKey(t *testing.T) {
	l := newLane(t, "")
	parsed := 0
	parse := func(id string) (*rsa.PrivateKey, error) {
		return l.private([]byte(id), func() (*rsa.PrivateKey, error) {
			if parsed++; id == "bad" {
				return nil, errors.New("cannot be read")
			}
			return &rsa.PrivateKey{PublicKey: rsa.PublicKey{E: int(id[0])}}, nil
		})
	}
	for i, id := range []string{"a", "a", "b", "b", "a"} {
		if k, err := parse(id); err != nil || k.E != int(id[0]) {
			t.Errorf("%d: %v, %v", i, k, err)
		}
	}
	if parsed != 3 {
		t.Errorf("it parsed %d times, want 3", parsed)
	}
	for range 2 {
		if k, err := parse("bad"); k != nil || err == nil {
			t.Errorf("%v, %v", k, err)
		}
	}
	if k, err := parse("a"); err != nil || k.E != 'a' || parsed != 5 {
		t.Errorf("after a key that cannot be read: %v, %v, parsed %d times", k, err, parsed)
	}

	m := newMount(t)
	m.ready("", nil)
	pending := m.write("keys/generate", nil)["key_id"].(string)
	m.read("token")
	m.must(logical.DeleteOperation, "keys/"+pending, nil)
	if len(m.backend.pool.clients) != 0 {
		t.Error("a deleted key may still be remembered")
	}
}
