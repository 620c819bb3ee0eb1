package redox

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

var (
	simulations     = flag.Int("simulations", 8, "how many seeds TestSimulate runs")
	firstSimulation = flag.Uint64("simulation", 1, "the first seed of TestSimulate")
	simulatedEvents = flag.Int("events", 1000, "TestSimulate draws events for each seed until this many are noted")
)

// simulation is two nodes of one mount with replicated storage, four clients, and a Redox of several machines.
// Nothing runs in parallel, and each choice follows from the seed. So a failure happens again when the same number
// of events is run with the same seed.
type simulation struct {
	draws
	*laws
	ctx     context.Context
	now     time.Time // true time, which is also Redox's
	began   time.Time
	nodes   [2]*node
	writes  []replicated
	clients []*simClient
	redox   *simRedox
	log     *syncBuffer
	enabled []event
	weights int
	made    int // keys so far
	trace   trace
	ops     []*op           // under way, the innermost last
	calm    bool            // nothing disturbs
	held    map[string]held // by client and node
}

// simClient is one client of the mount.
type simClient struct {
	name     string
	id       string    // its client ID at Redox
	platform bool      // its API key is a user-level one
	way      string    // how it publishes: pasted, fetched or pushed
	due      time.Time // of its next step
}

func (c *simClient) prefix() string {
	if c.name == defaultClient {
		return ""
	}
	return clientsPrefix + c.name + "/"
}

// op is an operation on a node: a request, a step, a listing of clients, or a periodic
// call.
type op struct {
	what    string
	client  *simClient // nil: of none
	on      *process
	active  bool // whether the node was the active one when it began
	began   time.Time
	key     string // the ID of the key that the request names
	force   bool
	faults  int  // that were injected meanwhile
	failed  bool // whether storage or the source of keys failed meanwhile
	wrote   bool // whether it changed the key ring
	sent    []exchange
	listed  map[string]int // by client ID, how often people had changed Redox's list when it was read
	seen    []seenKey      // what the lists had that it read, in order
	others  []listedKey    // keys of others in the list that it read at last
	pausing bool           // other events may happen while it waits for Redox
}

// draws makes the random choices of a run. A choice follows from the seed, the client, the kind of the choice, and
// how many choices of that kind were made for that client before. So one more choice of one kind does not change
// those of another kind.
type draws struct {
	seed   uint64
	counts map[string]uint64
}

func (d *draws) next(client, kind string) uint64 {
	what := client + "\x00" + kind
	d.counts[what]++
	h := fnv.New64a()
	var numbers [16]byte
	binary.LittleEndian.PutUint64(numbers[:], d.seed)
	binary.LittleEndian.PutUint64(numbers[8:], d.counts[what])
	_, _ = h.Write(numbers[:])
	_, _ = h.Write([]byte(what))
	x := h.Sum64() // FNV's low bits are weak: mix them, as SplitMix64 does
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below returns a number from 0 to n-1.
func (d *draws) below(client, kind string, n int) int { return int(d.next(client, kind) % uint64(n)) }

// oneIn returns true once in n times on average.
func (d *draws) oneIn(client, kind string, n int) bool { return d.below(client, kind, n) == 0 }

func (d *draws) upTo(client, kind string, most time.Duration) time.Duration {
	return time.Duration(d.next(client, kind) % uint64(most))
}

func oneOf[T any](d *draws, client, kind string, values ...T) T {
	return values[d.below(client, kind, len(values))]
}

// trace keeps the last events, to report a failure, and a digest of all.
type trace struct {
	last   [40]string
	n      int
	digest uint64
}

func (t *trace) add(line string) {
	t.last[t.n%len(t.last)] = line
	t.n++
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, t.digest)
	_, _ = h.Write([]byte(line))
	t.digest = h.Sum64()
}

func (t *trace) String() string {
	var text strings.Builder
	for i := max(0, t.n-len(t.last)); i < t.n; i++ {
		text.WriteString("\n  " + t.last[i%len(t.last)])
	}
	return text.String()
}

func (s *simulation) note(format string, args ...any) {
	s.trace.add(fmt.Sprintf("%4d %s%s ", s.trace.n, s.now.UTC().Format("06-01-02T15:04:05.000"),
		strings.Repeat(" >", max(0, len(s.ops)-1))) + fmt.Sprintf(format, args...))
}

// outcomeOfRun is the result of a run with one seed.
type outcomeOfRun struct {
	failure string
	digest  uint64
	events  int
	passed  time.Duration
	counts  map[string]int
}

// simulate runs a seed.
func simulate(t *testing.T, seed uint64, events int) (got outcomeOfRun) {
	t.Helper()
	if _, err := simStock(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t.Context(), seed)
		s.setUp()
		for s.trace.n < events && s.failure == "" {
			s.step()
		}
		if s.failure == "" {
			s.settleAll()
		}
		s.searchLog()
		got = outcomeOfRun{digest: s.trace.digest, events: s.trace.n, passed: s.now.Sub(s.began), counts: s.seen}
		if s.failure != "" {
			got.failure = fmt.Sprintf("%s\nthe last events:%s\nthe same again: go test -run 'TestSimulate$' -simulations 1 "+
				"-simulation %d -events %d .", s.failure, &s.trace, seed, events)
		}
	})
	return got
}

func newSimulation(ctx context.Context, seed uint64) *simulation {
	s := &simulation{
		draws: draws{seed, map[string]uint64{}}, ctx: ctx, now: noon, began: noon, log: &syncBuffer{},
		held: map[string]held{},
	}
	s.laws = newLaws(s.trueNow)
	s.redox = newSimRedox(s)
	for i := range s.nodes {
		s.nodes[i] = &node{s: s, name: fmt.Sprint("node", i), stored: map[string][]byte{}}
	}
	s.nodes[0].active = true
	for _, n := range s.nodes {
		n.start()
	}
	for _, name := range []string{"platform", defaultClient, "acme", "zeta"} {
		c := &simClient{name: name, id: "id-of-" + name, platform: name == "platform", way: "pasted"}
		if !c.platform {
			c.way = oneOf(&s.draws, name, "way", "pasted", "fetched", "pushed", "pushed")
		}
		s.clients = append(s.clients, c)
		s.know(c.name, c.id)
	}
	for _, e := range allEvents() {
		if e.always || s.below("", "with "+e.what, 3) > 0 { // each seed has some kinds of events
			s.enabled = append(s.enabled, e)
			s.weights += e.weight
		}
	}
	return s
}

func (s *simulation) trueNow() time.Time { return s.now }

// step draws an event, after some time.
func (s *simulation) step() {
	s.pass()
	s.happen(s.draw(func(event) bool { return true }))
	for _, n := range s.nodes {
		n.restart()
	}
	s.recover()
}

func (s *simulation) draw(may func(event) bool) event {
	for range 100 {
		at := s.below("", "event", s.weights)
		for _, e := range s.enabled {
			if at -= e.weight; at < 0 {
				if may(e) {
					return e
				}
				break
			}
		}
	}
	return s.enabled[0]
}

func (s *simulation) happen(e event) {
	s.seen["event "+e.what]++
	e.do(s)
}

// pass lets time pass. In nine of ten cases it takes the steps that become due meanwhile, at most 30.
func (s *simulation) pass() {
	var d time.Duration
	switch s.below("", "pass", 20) {
	case 0, 1, 2, 3, 4, 5:
		d = s.upTo("", "seconds", 5*time.Second)
	case 6, 7, 8, 9, 10:
		d = s.upTo("", "minutes", 2*time.Minute)
	case 11, 12, 13:
		d = s.upTo("", "hours", 2*time.Hour)
	case 14:
		d = s.upTo("", "days", 40*24*time.Hour)
	default: // to what is due next
		if next := s.nextDue(); next != nil {
			d = max(0, next.due.Sub(s.now)) + s.upTo("", "late", 2*time.Second)
		}
	}
	if s.oneIn("", "suspended", 10) {
		s.advance(d)
		return
	}
	s.passWorking(d, 30)
}

// passWorking lets time pass and takes the steps that become due, up to the
// number most. full reports whether it reached that limit.
func (s *simulation) passWorking(d time.Duration, most int) (full bool) {
	end := s.now.Add(d)
	full = true
	for range most {
		next := s.nextDue()
		if next == nil || next.due.After(end) || s.failure != "" {
			full = false
			break
		}
		s.advance(max(0, next.due.Sub(s.now)))
		s.work(next)
		for _, n := range s.nodes {
			n.restart()
		}
		s.recover()
	}
	s.advance(end.Sub(s.now))
	return full
}

// nextDue returns the client whose step is due next, nil for none.
func (s *simulation) nextDue() (next *simClient) {
	for _, c := range s.clients {
		if !c.due.IsZero() && (next == nil || c.due.Before(next.due)) {
			next = c
		}
	}
	return next
}

// maxReplication is the longest time that replication to the standby takes.
const maxReplication = 15 * time.Second

func (s *simulation) advance(d time.Duration) {
	if d <= 0 {
		return
	}
	s.now = s.now.Add(d)
	for _, n := range s.nodes {
		n.replicate(s.now.Add(-maxReplication))
	}
}

// searchLog fails the run if the log, a message or a warning shows a private key of simStock, or a token or an
// assertion of the sandbox, or if the log shows a fault of the engine, such as a panic.
func (s *simulation) searchLog() {
	secrets := s.redox.sandbox.Secrets()
	keys, err := simStock()
	for _, k := range keys {
		more, moreErr := redoxtest.KeySecrets(string(k.ID), k.private)
		for name, secret := range more {
			secrets[name] = secret
		}
		if err == nil {
			err = moreErr
		}
	}
	if err != nil {
		s.violated("%v", err)
	}
	text := s.log.String()
	for _, leak := range redoxtest.Leaks(map[string]string{"log": text, "answers": s.said.String()}, secrets) {
		s.violated("leak: %s", leak)
	}
	if at := strings.Index(text, "please report this"); at >= 0 {
		s.violated("the log has: %s", text[max(0, at-300):min(len(text), at+1500)])
	}
}

// Whatever Redox, storage, the nodes, the clocks and the operators do, the laws hold, and all is in order some
// hours after the disturbances end.
func TestSimulate(t *testing.T) {
	t.Parallel()
	for i := range *simulations {
		seed := *firstSimulation + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			got := simulate(t, seed, *simulatedEvents)
			if got.failure != "" {
				t.Errorf("seed %d, event %d: %s", seed, got.events, got.failure)
			}
			simulated.add(seed, got)
		})
	}
	t.Cleanup(func() { t.Log(simulated.String()) })
}

// A seed gives the same events each time.
func TestSimulateAgain(t *testing.T) {
	t.Parallel()
	first := simulate(t, 7, 200)
	for range 9 {
		if again := simulate(t, 7, 200); again.digest != first.digest || again.failure != first.failure {
			t.Fatalf("another run: %s", again.failure)
		}
	}
}
