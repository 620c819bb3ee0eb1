package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// crowd is many readers of one client's tokens. A reader pauses only between the
// retries of a read, as Vault's library does. While Redox answers normally, a reader
// ends when it has a token.
type crowd struct {
	stop context.CancelFunc
	all  sync.WaitGroup
	size int

	mu       sync.Mutex     // guards all below
	well     bool           // Redox answers normally
	since    time.Time      // when that began
	answers  map[string]int // by status
	odd      []string       // answers that a stalled Redox does not explain
	first    time.Duration  // from since until the first reader had a token
	last     time.Duration  // from since until the last reader had a token
	failed   int            // failed attempts that began after since
	failedAt time.Duration  // from since until the last of those ended
	givenUp  int            // reads that began after since and failed with all retries
	served   int
}

func (w *world) gather(n int, path string, well bool) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{stop: stop, size: n, well: well, since: time.Now(), answers: map[string]int{}}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	nodes := w.nodes()
	for i := range n {
		c.all.Go(func() {
			for ctx.Err() == nil && !c.read(ctx, func() (int, []byte, error) {
				return w.ask(ctx, client, nodes[i%len(nodes)].addr, http.MethodGet, path+"/token", "")
			}) {
			}
		})
	}
	return c
}

// read makes one read, with its retries, and reports whether the reader ends.
func (c *crowd) read(ctx context.Context, ask func() (int, []byte, error)) (done bool) {
	first := time.Now()
	for failed := 0; failed < attempts; {
		began := time.Now()
		status, answer, err := ask()
		if ctx.Err() != nil || c.note(began, status, answer, err) {
			return true
		}
		if status == http.StatusOK {
			return false
		}
		if failed++; failed == attempts {
			break
		}
		wait(ctx, retryPause(failed))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.well && first.After(c.since) {
		c.givenUp++
	}
	return false
}

// note records an attempt, and reports whether the reader ends.
func (c *crowd) note(began time.Time, status int, answer []byte, err error) (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := strconv.Itoa(status)
	switch {
	case err != nil:
		kind = "no answer"
	case status == http.StatusInternalServerError && strings.Contains(string(answer), "EOF"):
		kind += " (EOF)" // the plugin's process ended under it
	}
	c.answers[kind]++
	if err != nil || !slices.Contains([]int{200, 429, 502, 504}, status) {
		c.odd = append(c.odd, fmt.Sprintf("HTTP %d %s %v", status, answer, err))
	}
	passed := time.Since(c.since)
	switch {
	case !c.well:
		return false
	case status != http.StatusOK:
		if began.After(c.since) {
			c.failed++
			c.failedAt = passed
		}
		return false
	}
	if c.served++; c.served == 1 {
		c.first = passed
	}
	c.last = passed
	return true
}

// recover waits until each reader has its token, and prints how long that took. It fails if that takes more
// than a minute.
func (c *crowd) recover(ts *testscript.TestScript) {
	done := make(chan struct{})
	go func() { c.all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var answers []string
	for _, kind := range slices.Sorted(maps.Keys(c.answers)) {
		answers = append(answers, fmt.Sprintf("%s x %d", kind, c.answers[kind]))
	}
	_, _ = fmt.Fprintf(ts.Stdout(), "answers: %s\n", strings.Join(answers, ", "))
	_, _ = fmt.Fprintf(ts.Stdout(), "the first of %d readers had a token after %.1f s, the last after %.1f s; of the "+
		"attempts that began in that time %d failed, the last after %.1f s, and %d reads gave up\n",
		c.size, c.first.Seconds(), c.last.Seconds(), c.failed, c.failedAt.Seconds(), c.givenUp)
	for _, odd := range c.odd[:min(3, len(c.odd))] {
		_, _ = fmt.Fprintf(ts.Stdout(), "an odd answer: %s\n", odd)
	}
	if c.served != c.size {
		ts.Fatalf("%d of %d readers have a token a minute later", c.served, c.size)
	}
}

// rushCmd starts n readers at once while Redox answers normally, and waits until each
// has a token, for comparison with stall: rush <n> <path of a client>.
func rushCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	worldOf(ts).gather(n, args[1], true).recover(ts)
}

// stallCmd makes Redox stall while n readers read, and waits until 64 of their requests, or n if that is
// less, have reached Redox: stall <n> <path of a client>. The engine has at most 64 reads of one client in
// flight.
func stallCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	before := len(w.sandbox.Assertions())
	w.sandbox.SetFault(redoxtest.FaultStall, -1)
	w.crowd = w.gather(n, args[1], false)
	ts.Check(until(20*time.Second, func() error {
		if hang := len(w.sandbox.Assertions()) - before; hang < min(n, 64) {
			return fmt.Errorf("%d requests hang", hang)
		}
		return nil
	}))
}

// recoverCmd ends the stall for new requests, and waits until each reader has a token. The requests that
// stalled stay stalled, as on dead connections.
func recoverCmd(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	c := w.crowd
	c.mu.Lock()
	w.sandbox.SetFault("", 0)
	c.well, c.since = true, time.Now()
	c.mu.Unlock()
	c.recover(ts)
	w.crowd = nil
}

// elsewhereCmd gives a client a sandbox of its own: elsewhere <client ID> <path of
// the client>.
func elsewhereCmd(ts *testscript.TestScript, _ bool, args []string) {
	other, err := redoxtest.Start(redoxtest.Options{})
	ts.Check(err)
	ts.Defer(other.Close)
	vaultCmd(ts, false, []string{"read", "-field=jwks", args[1] + "/keys"})
	ts.Check(other.Register(args[0], []byte(ts.ReadFile("stdout"))))
	vaultCmd(ts, false, []string{"write", "redox/hosts", "allowed=" + ts.Getenv("REDOX_HOST") + "," + hostOf(other.URL())})
	vaultCmd(ts, false, []string{"write", args[1] + "/config", "client_id=" + args[0], "token_url=" + other.TokenURL()})
}

// slowest repeats a request that Vault itself answers, until stop is called. The
// request is slow if something holds the locks of Vault that all requests need. stop
// returns how long the slowest request took.
func (w *world) slowest(addr string) (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	worst := make(chan time.Duration, 1)
	go func() {
		var longest time.Duration
		for ctx.Err() == nil {
			start := time.Now()
			_, _, _ = w.callAt(addr, http.MethodGet, "sys/mounts", "") // only the time matters
			longest = max(longest, time.Since(start))
			wait(ctx, 10*time.Millisecond)
		}
		worst <- longest
	}()
	return func() time.Duration { cancel(); return <-worst }
}

// wait waits for a duration, or until ctx is done.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// withinCmd makes a request as the command http does. It fails if the request takes longer than <duration>,
// or if meanwhile a read of sys/mounts takes longer than five seconds: within <duration> <status> <method>
// <path> [<body>].
func withinCmd(ts *testscript.TestScript, _ bool, args []string) {
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	stop := worldOf(ts).slowest(worldOf(ts).vault.addr)
	start := time.Now()
	httpCmd(ts, false, args[1:])
	took, other := time.Since(start), stop()
	_, _ = fmt.Fprintf(ts.Stdout(), "%s %s took %.2f s, and the slowest of sys/mounts meanwhile %.2f s\n", args[2],
		args[3], took.Seconds(), other.Seconds())
	if took > limit || other > 5*time.Second {
		ts.Fatalf("%s %s may take at most %v, and sys/mounts at most 5 s", args[2], args[3], limit)
	}
}

// latencyCmd reads each path 300 times in a row, and prints the median and the 95th percentile of the times.
// It fails if the median is more than 10 ms, and more than twice the median of the first latency command for
// that path: latency <path>…. The 10 ms are there because a shared machine is slow at times.
func latencyCmd(ts *testscript.TestScript, _ bool, args []string) {
	const noise = 10 * time.Millisecond
	w := worldOf(ts)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if w.idle == nil {
		w.idle = map[string]time.Duration{}
	}
	for _, path := range args {
		var took []time.Duration
		for range 300 {
			start := time.Now()
			status, answer, err := w.ask(context.Background(), client, w.vault.addr, http.MethodGet, path, "")
			ts.Check(err)
			if status != http.StatusOK {
				ts.Fatalf("%s: HTTP %d %s", path, status, answer)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		median, p95 := took[len(took)/2], took[len(took)*95/100]
		idle, measured := w.idle[path]
		if !measured {
			w.idle[path], idle = median, median
		}
		_, _ = fmt.Fprintf(ts.Stdout(), "%s: median %.2f ms, p95 %.2f ms, %.1f times the idle median\n",
			path, median.Seconds()*1e3, p95.Seconds()*1e3, float64(median)/float64(idle))
		if median > max(2*idle, noise) {
			ts.Fatalf("%s takes %v, and %v when nothing else happens", path, median, idle)
		}
	}
}
