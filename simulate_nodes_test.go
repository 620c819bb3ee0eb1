package redox

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// node is one of the two servers that have the mount. The standby's storage lags behind the active node's.
type node struct {
	s       *simulation
	name    string
	active  bool
	skew    time.Duration // of its clock
	stored  map[string][]byte
	applied int          // of the writes of the simulation
	late    []replicated // those that the process was not told of yet
	plan    disturbance  // of the next operations
	down    bool         // half of its storage operations fail, at random
	process *process
}

// disturbance is a fault at one of the next storage operations, or exchanges with Redox, of a node.
type disturbance struct {
	left  int  // 1: at the next operation; zero: no fault
	kills bool // the process, instead of one failure
	after bool // once the operation has acted
}

// replicated is a write to storage.
type replicated struct {
	at    time.Time
	key   string
	value []byte // nil: deleted
}

// process is the plugin on a node, until it is killed. It is also the storage and the
// transport of its backend.
type process struct {
	node   *node
	b      *backend
	system *logical.StaticSystemView
	dead   bool
	failed map[string]bool // clients whose last step failed
}

var errKilled = errors.New("the process was killed")

// start makes the backend and initializes it, as Vault does. Before Initialize it stops the schedule for good,
// because the simulation takes the steps itself.
func (n *node) start() {
	s := n.s
	p := &process{node: n, system: &logical.StaticSystemView{}, failed: map[string]bool{}}
	made, err := Factory(s.ctx, &logical.BackendConfig{
		System: p.system, StorageView: p,
		Logger: hclog.New(&hclog.LoggerOptions{Output: s.log, Level: hclog.Debug, DisableTime: true}),
	})
	if err != nil {
		s.violated("Factory: %v", err)
		return
	}
	p.b = made.(*backend)
	p.b.now = func() time.Time { return s.now.Add(n.skew) }
	p.b.newKey, p.b.connections.transport = s.newKey, p
	p.b.unread = func() (int, bool) { return 0, true }
	p.b.schedule.Stop()
	n.process, n.late, n.plan = p, nil, disturbance{}
	n.setRole(n.active)
	if err := p.b.Initialize(s.ctx, &logical.InitializationRequest{Storage: p}); err != nil {
		s.violated("Initialize: %v", err)
	}
}

// restart starts the plugin again if it was killed.
func (n *node) restart() {
	if n.process.dead {
		n.s.note("%s starts again", n.name)
		n.start()
	}
}

func (n *node) setRole(active bool) {
	n.active, n.process.system.ReplicationStateVal = active, consts.ReplicationPerformanceStandby
	if active {
		n.replicate(n.s.now)
		n.process.system.ReplicationStateVal = 0
	}
}

// replicate applies the writes that are not newer than until to the storage of a standby. It tells the process of
// the writes that are at least two minutes old.
func (n *node) replicate(until time.Time) {
	for ; n.applied < len(n.s.writes) && !n.s.writes[n.applied].at.After(until); n.applied++ {
		w := n.s.writes[n.applied]
		if n.active { // as its own
			continue
		}
		n.apply(w)
		n.late = append(n.late, w)
	}
	n.invalidate(n.s.now.Add(-2 * time.Minute))
}

func (n *node) apply(w replicated) {
	if n.stored[w.key] = w.value; w.value == nil {
		delete(n.stored, w.key)
	}
}

// invalidate tells the process of the replicated writes that are not newer than until, as Vault does.
func (n *node) invalidate(until time.Time) {
	for len(n.late) > 0 && !n.late[0].at.After(until) {
		key := n.late[0].key
		n.process.b.InvalidateKey(n.s.ctx, key)
		for _, c := range n.s.clients {
			if key == configKey(c.name) {
				delete(n.process.failed, c.name)
			}
			if key == configKey(c.name) || key == hostsKey {
				delete(n.s.held, c.name+n.name) // the process has dropped the token
			}
		}
		n.late = n.late[1:]
	}
}

func (s *simulation) active() *node {
	if s.nodes[0].active {
		return s.nodes[0]
	}
	return s.nodes[1]
}

// swap makes the standby the active node, and the active node the standby.
func (s *simulation) swap() {
	old := s.active()
	for _, n := range s.nodes {
		if n != old {
			n.replicate(s.now)
			n.setRole(true)
		}
	}
	old.setRole(false)
	old.applied = len(s.writes)
}

// op returns what is under way.
func (s *simulation) op() *op { return s.ops[len(s.ops)-1] }

// at calls acts, which is a storage operation or an exchange with Redox. If the process is killed or a disturbance
// is due, at returns an error, and may or may not have called acts. fails is true for a storage operation: while
// the storage of the node is down, such an operation also fails at random.
func (p *process) at(fails bool, acts func()) error {
	n, s := p.node, p.node.s
	due := n.plan.left == 1
	n.plan.left = max(0, n.plan.left-1)
	after := n.plan.after
	switch {
	case p.dead:
	case due && n.plan.kills:
		s.note("%s is killed, after the operation: %v", n.name, after)
		p.dead = true
		if after {
			acts()
		}
	case due || fails && n.down && s.oneIn("", "storage down", 2):
		if !due {
			after = s.oneIn("", "storage acts", 3)
		}
		s.note("an operation fails on %s, after it acted: %v", n.name, after)
		s.op().faults++
		if after {
			acts()
		}
		s.op().failed = s.op().failed || fails
		return errStorage
	default:
		acts()
		return nil
	}
	s.op().faults++
	return errKilled
}

func (p *process) Get(_ context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = p.at(true, func() {
		if value, there := p.node.stored[key]; there {
			entry = &logical.StorageEntry{Key: key, Value: slices.Clone(value)}
		}
	})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

func (p *process) List(_ context.Context, prefix string) (names []string, err error) {
	err = p.at(true, func() {
		for key := range p.node.stored {
			if rest, below := strings.CutPrefix(key, prefix); below {
				name, _, isFolder := strings.Cut(rest, "/")
				if isFolder {
					name += "/"
				}
				names = append(names, name)
			}
		}
		slices.Sort(names)
		names = slices.Compact(names)
	})
	return names, err
}

func (p *process) Put(_ context.Context, entry *logical.StorageEntry) error {
	return p.change(entry.Key, slices.Clone(entry.Value))
}

func (p *process) Delete(_ context.Context, key string) error { return p.change(key, nil) }

func (p *process) change(key string, value []byte) error {
	s, n := p.node.s, p.node
	if !s.op().active {
		s.violated("%s writes %s on a standby", s.op().what, key)
	}
	if !n.active {
		return logical.ErrReadOnly
	}
	return p.at(true, func() {
		before := n.stored[key]
		if before == nil && value == nil {
			return
		}
		w := replicated{s.now, key, value}
		s.writes = append(s.writes, w)
		n.apply(w)
		s.wrote(s.op(), n.clock(), key, before, value)
	})
}

func (n *node) clock() time.Time { return n.s.now.Add(n.skew) }

// RoundTrip makes an exchange with Redox.
func (p *process) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	var body []byte
	if req.Body != nil {
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	s := p.node.s
	x := s.redox.begin(p, req, body)
	s.meanwhile()
	if p.dead {
		s.op().faults++
		return nil, errKilled
	}
	failed := p.at(false, func() { resp = s.redox.serve(p, x, req, body) }) //nolint:bodyclose // the caller does
	if failed != nil {
		return nil, failed
	}
	return resp, nil
}

// answerOf returns the response to req with that status and body, in the form in which a transport returns one.
func answerOf(req *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader([]byte(body))),
		ContentLength: int64(len(body)), Request: req,
	}
}

// simKey is a key of simStock. The engine gets such keys instead of newly generated ones. They are small, because
// nothing depends on their size.
type simKey struct {
	*keyring.Key

	private *rsa.PrivateKey
}

var simStock = sync.OnceValues(func() (keys []simKey, err error) {
	for range 64 {
		k, err := keyring.Generate(1024, noon)
		if err != nil {
			return nil, err
		}
		private, err := k.Private()
		if err != nil {
			return nil, err
		}
		keys = append(keys, simKey{k, private})
	}
	return keys, nil
})

// newKey returns a key of the stock that no client has, under an ID that was never used. A step sometimes gets an
// error instead.
func (s *simulation) newKey(_ int, now time.Time) (*keyring.Key, error) {
	stock, err := simStock()
	if err != nil {
		return nil, err
	}
	if o := s.op(); o.what == "step" && !s.calm && s.oneIn("", "no key can be generated", 20) {
		o.failed = true
		return nil, errors.New("no key can be generated")
	}
	for {
		s.made++
		k := *stock[s.made%len(stock)].Key
		if !s.hasNumber(k.N) {
			k.ID, k.CreatedAt = keyring.ID(fmt.Sprint("k", s.made)), now.UTC()
			return &k, nil
		}
	}
}
