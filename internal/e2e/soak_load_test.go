package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// load is the requests and the faults of the soak test, and their results.
type load struct {
	w      *world
	client *http.Client
	all    sync.WaitGroup

	reads, hungUp, operations, mounts atomic.Int64

	mu       sync.Mutex          // guards all below
	outage   bool                // Redox has a fault for seconds
	over     time.Time           // when outage was last set
	excused  int                 // failed requests that such an outage explains
	faults   map[string]int      // how often each fault was set
	actives  map[string][]string // the keys that were active, by the client's path
	mistakes []string            // what should not have happened
}

func newLoad(w *world) *load {
	return &load{
		w: w, faults: map[string]int{}, actives: map[string][]string{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
}

// run starts the load, which ends with ctx, and returns at once. rng chooses the faults and how long they
// last.
func (l *load) run(ctx context.Context, rng *rand.Rand) {
	for _, c := range soakClients {
		if c.publishing == manual && c.path != spare {
			l.all.Go(func() { l.w.keepPasting(ctx, c.id, c.path) })
		}
		for range 3 {
			l.repeat(ctx, 50*time.Millisecond, func() { l.read(c.path) })
		}
		l.repeat(ctx, 300*time.Millisecond, func() { l.hangUp(ctx, c.path) })
		l.repeat(ctx, time.Second, func() { l.noteActive(c.path) })
		l.repeat(ctx, 2*time.Second, func() { l.try(http.MethodGet, c.path+"/check", "") })
		l.repeat(ctx, time.Second, func() { l.operate(http.MethodPut, c.path+"/config", `{"clock_leeway":"5s"}`) })
	}
	l.repeat(ctx, 50*time.Millisecond, l.anonymous)
	l.repeat(ctx, 3*time.Second, l.replaceKey)
	l.repeat(ctx, 5*time.Second, l.passingClient)
	l.repeat(ctx, 5*time.Second, l.passingMount)
	l.all.Go(func() {
		for ctx.Err() == nil {
			l.disturb(ctx, rng)
		}
		l.w.sandbox.SetFault("", 0)
	})
}

func (l *load) repeat(ctx context.Context, pause time.Duration, do func()) {
	l.all.Go(func() {
		for ctx.Err() == nil {
			do()
			wait(ctx, pause)
		}
	})
}

// ask sends a request. The request does not end with the load, so that its answer can be checked.
func (l *load) ask(method, path, body string) (status int, answer []byte, err error) {
	return l.w.ask(context.Background(), l.client, l.w.vault.addr, method, path, body)
}

func (l *load) mistake(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mistakes = append(l.mistakes, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// operate sends a request that does not involve Redox. It is a mistake if the request fails.
func (l *load) operate(method, path, body string) []byte {
	l.operations.Add(1)
	status, answer, err := l.ask(method, path, body)
	if err != nil || status >= 300 {
		l.mistake("%s %s: HTTP %d %s %v", method, path, status, answer, err)
	}
	return answer
}

// try sends a request that involves Redox. It is a mistake if the request fails, unless it fails with 429,
// 502 or 504 and an outage of Redox overlapped it.
func (l *load) try(method, path, body string) (answer []byte, succeeded bool) {
	began := time.Now()
	status, answer, err := l.ask(method, path, body)
	if err == nil && status == http.StatusOK {
		return answer, true
	}
	l.mu.Lock()
	excused := l.outage || began.Before(l.over)
	if excused = excused && err == nil && slices.Contains([]int{429, 502, 504}, status); excused {
		l.excused++
	}
	l.mu.Unlock()
	if !excused {
		l.mistake("%s %s, begun at %s: HTTP %d %s %v", method, path, began.Format("15:04:05.000"), status, answer, err)
	}
	return nil, false
}

func (l *load) read(path string) {
	answer, succeeded := l.try(http.MethodGet, path+"/token", "")
	if !succeeded {
		return
	}
	l.reads.Add(1)
	if token, err := field(answer, "access_token"); err != nil || !l.w.sandbox.Live(token) {
		l.mistake("%s: Redox refuses the token: %v", path, err)
	}
}

// hangUp reads a token, and gives up if there is no answer after a random time of less than 20 ms.
func (l *load) hangUp(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(ctx, rand.N(20*time.Millisecond))
	defer cancel()
	if _, _, err := l.w.ask(ctx, l.client, l.w.vault.addr, http.MethodGet, path+"/token", ""); err != nil {
		l.hungUp.Add(1)
	}
}

func (l *load) anonymous() {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, l.w.vault.addr+"/v1/redox/jwks", nil)
	if err != nil {
		l.mistake("jwks: %v", err)
		return
	}
	resp, err := l.client.Do(req)
	if err != nil {
		l.mistake("jwks: %v", err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		l.mistake("jwks: HTTP %d", resp.StatusCode)
	}
}

func (l *load) noteActive(path string) {
	active, err := field(l.operate(http.MethodGet, path+"/keys", ""), "active")
	if err != nil {
		l.mistake("%s: %v", path, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.actives[path], active) {
		l.actives[path] = append(l.actives[path], active)
	}
}

// replaceKey generates a key of the client spare, and deletes it.
func (l *load) replaceKey() {
	id, err := field(l.operate(http.MethodPut, spare+"/keys/generate", ""), "key_id")
	if err != nil {
		l.mistake("%s: %v", spare, err)
		return
	}
	l.operate(http.MethodDelete, spare+"/keys/"+id, "")
}

// passingClient creates a client, reads a token, and deletes the client.
func (l *load) passingClient() { l.pass("redox/clients/passing", "passing-client") }

func (l *load) pass(path, id string) {
	if err := l.w.addClient(soakClient{path: path, id: id}); err != nil {
		l.mistake("%v", err)
		return
	}
	l.read(path)
	l.operate(http.MethodDelete, path+"?force=true", "")
}

// passingMount enables a mount, uses it, and disables it.
func (l *load) passingMount() {
	l.mounts.Add(1)
	l.operate(http.MethodPost, "sys/mounts/redox-passing", fmt.Sprintf(`{"type":%q}`, pluginName))
	l.operate(http.MethodPut, "redox-passing/hosts", fmt.Sprintf(`{"allowed":%q}`, hostOf(l.w.sandbox.URL())))
	l.pass("redox-passing/clients/passing", "passing-mount")
	l.operate(http.MethodDelete, "sys/mounts/redox-passing", "")
}

// disturb pauses, then gives Redox a fault that rng chooses: either for two token requests, so that the
// retries of a read suffice, or for one to five seconds, as an outage.
func (l *load) disturb(ctx context.Context, rng *rand.Rand) {
	wait(ctx, time.Second+time.Duration(rng.Int64N(int64(4*time.Second))))
	passing := []redoxtest.Fault{redoxtest.FaultUnavailable, redoxtest.FaultReset, redoxtest.FaultTruncate,
		redoxtest.FaultSlow}
	lasting := []redoxtest.Fault{redoxtest.FaultUnavailable, redoxtest.FaultStall}
	if rng.IntN(4) > 0 {
		f := passing[rng.IntN(len(passing))]
		l.noteFault(f, "twice")
		l.w.sandbox.SetFault(f, 2)
		for ctx.Err() == nil && l.w.sandbox.FaultsLeft() > 0 {
			wait(ctx, 10*time.Millisecond)
		}
		return
	}
	f := lasting[rng.IntN(len(lasting))]
	l.noteFault(f, "for seconds")
	l.setOutage(true)
	l.w.sandbox.SetFault(f, -1)
	wait(ctx, time.Second+time.Duration(rng.Int64N(int64(4*time.Second))))
	l.w.sandbox.SetFault("", 0)
	l.setOutage(false)
}

func (l *load) noteFault(f redoxtest.Fault, how string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[string(f)+" "+how]++
}

func (l *load) setOutage(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outage, l.over = on, time.Now()
}

// report prints the results, and fails the test if there was a mistake, or if a client with a rotation_period
// has rotated less than once in five minutes, on average.
func (l *load) report(t *testing.T, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Printf("%d tokens, %d reads hung up, %d other requests, %d mounts came and went; %d requests failed while "+
		"Redox was in trouble; faults: %v\n",
		l.reads.Load(), l.hungUp.Load(), l.operations.Load(), l.mounts.Load(), l.excused, l.faults)
	for _, c := range soakClients {
		if !strings.Contains(c.config, "rotation_period") {
			continue
		}
		rotations := len(l.actives[c.path]) - 1
		fmt.Printf("%s rotated %d times\n", c.path, rotations)
		if want := int(d / (5 * time.Minute)); rotations < want {
			t.Errorf("%s rotated %d times in %v, want %d", c.path, rotations, d, want)
		}
	}
	for _, mistake := range l.mistakes[:min(20, len(l.mistakes))] {
		t.Error(mistake)
	}
	if n := len(l.mistakes); n > 20 {
		t.Errorf("and %d more", n-20)
	}
}
