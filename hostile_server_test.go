package redox

import (
	"bytes"
	"context"
	"maps"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// attack is what a villain at url does to a read of token, which has to end
// with that status, saying all of want.
type attack struct {
	by     *villain // nil for another server
	url    string
	caPEM  string
	status int
	want   []string
}

// patience is the request_timeout that goes with a status: short where it is to
// run out, and no hurry where it is not.
func patience(status int) int {
	if status == 504 {
		return 1
	}
	return 10
}

// beset makes the villain the token endpoint of a client.
func (m *mount) beset(prefix string, a attack) {
	m.t.Helper()
	m.ready(prefix, map[string]any{"token_url": a.url, "ca_pem": a.caPEM, "request_timeout": patience(a.status), "max_retries": 0})
}

// margin is what a read may take beyond request_timeout on a busy machine. With
// the second of those that stall it is less than net/http goes on with a TLS
// handshake, 10 s.
const margin = 8 * time.Second

// endures reads a token and checks all that an attack must not do: outlast
// request_timeout, leave a connection or a goroutine behind, make the engine
// ask twice, or have anything that it says shown.
func (m *mount) endures(prefix string, a attack) string {
	m.t.Helper()
	label := m.t.Name() + ", client " + prefix
	said := make(chan string, 1)
	start := time.Now()
	go pprof.Do(context.Background(), pprof.Labels("read", label), func(context.Context) {
		if !running(m.t, label) {
			m.t.Error("the profile does not show the goroutines of a read")
		}
		said <- m.fails(a.status, logical.ReadOperation, prefix+"token", nil, a.want...)
	})
	limit := seconds(int64(patience(a.status))) + margin
	var message string
	select {
	case message = <-said:
	case <-time.After(limit):
		m.t.Errorf("%stoken: no answer after %v", prefix, limit)
		if a.by != nil {
			a.by.end()
		}
		message = <-said
	}
	for running(m.t, label) {
		if time.Since(start) > limit {
			m.t.Errorf("%stoken was answered, and what it began goes on", prefix)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	shown := map[string]string{"the message": message, "the log": m.log.String()}
	secrets := map[string]string{"the villain's word": canary}
	if a.by != nil {
		maps.Copy(secrets, a.by.secrets())
		if n := a.by.requests.Load(); n > 1 {
			m.t.Errorf("%stoken: %d requests were made", prefix, n)
		}
	}
	for _, leak := range redoxtest.Leaks(shown, secrets) {
		m.t.Errorf("%stoken shows %s: %s", prefix, leak, message)
	}
	return message
}

// running tells whether a goroutine is left that was begun under the label:
// each connection of net/http has two.
func running(t *testing.T, label string) bool {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Error(err)
	}
	return strings.Contains(profile.String(), strconv.Quote(label))
}

// allLeft checks that each place in the lanes was given back.
func (m *mount) allLeft() {
	m.t.Helper()
	p := m.backend.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) != 0 {
		m.t.Errorf("%d of all places are still taken", len(p.all))
	}
	for client, l := range p.clients {
		if n := len(l.reads[0]) + len(l.proofs[0]); n != 0 {
			m.t.Errorf("%d of client %s's places are still taken", n, client)
		}
	}
}

// withstand reads from the villain on a mount of its own.
func withstand(t *testing.T, a attack) string {
	t.Helper()
	m := newMount(t)
	m.beset("", a)
	before := snapshot(t, m.storage)
	message := m.endures("", a)
	m.unchanged(before)
	m.allLeft()
	return message
}
