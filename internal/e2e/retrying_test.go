package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// attempts is how many times Vault's library sends a request by default, if each attempt fails.
const attempts = 3

// retryPause returns how long Vault's library waits after that many failed attempts:
// 1 to 1.5 s after the first, and twice that after the second.
func retryPause(failed int) time.Duration {
	return time.Duration(failed) * (time.Second + rand.N(time.Second/2))
}

// retryingReaders read tokens with the default retries of Vault's library, and ask the sandbox whether it
// accepts each token.
type retryingReaders struct {
	stop context.CancelFunc
	all  sync.WaitGroup

	mu             sync.Mutex // guards all below
	reads, refused int
	failed         int
	failures       []string  // all attempts of reads that failed
	succeeded      time.Time // when the last read succeeded
	gap            time.Duration
}

// clusterReadersCmd starts two readers per node, waits until they have read a
// hundred more tokens, or stops them and prints the result: clusterreaders start
// <path of a client>, clusterreaders more, clusterreaders stop. A reader whose node
// is gone or sealed makes its next attempt at another node, as behind a load
// balancer.
func clusterReadersCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	r := w.retrying
	switch args[0] {
	case "more":
		enough := r.good() + 100
		ts.Check(until(30*time.Second, func() error {
			if n := r.good(); n < enough {
				return fmt.Errorf("%d tokens were read, and %d are awaited", n, enough)
			}
			return nil
		}))
		return
	case "stop":
		r.stop()
		r.all.Wait()
		_, _ = fmt.Fprintf(ts.Stdout(), "%d reads, %d failed, %d tokens refused\n%s\n", r.reads, r.failed, r.refused,
			strings.Join(r.failures, "\n"))
		_, _ = fmt.Fprintf(ts.Stdout(), "the longest time in which no read succeeded: %.1f s\n", r.gap.Seconds())
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	r = &retryingReaders{stop: stop, succeeded: time.Now()}
	w.retrying = r
	ts.Defer(stop)
	for i := range 2 * len(w.cluster.nodes) {
		node := i
		r.all.Go(func() {
			for ctx.Err() == nil {
				node = r.read(w, node, args[1])
			}
		})
	}
}

// read makes one read, and returns the node for the next one.
func (r *retryingReaders) read(w *world, node int, path string) (next int) {
	var failures []string
	for try := range attempts {
		time.Sleep(retryPause(try))
		addr := w.cluster.nodes[node%len(w.cluster.nodes)].addr
		status, answer, err := w.callAt(addr, http.MethodGet, path+"/token", "")
		if token, _ := field(answer, "access_token"); err == nil && token != "" {
			r.succeed(w.sandbox.Live(token))
			return node
		}
		failures = append(failures, fmt.Sprintf("%s %s: HTTP %d %s %v", time.Now().Format("15:04:05.000"), addr,
			status, answer, err))
		if err != nil || status == http.StatusServiceUnavailable {
			node++
		}
		if err == nil && status < 500 && status != http.StatusTooManyRequests && status != http.StatusPreconditionFailed {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	r.failed++
	r.failures = append(r.failures, failures...)
	return node
}

func (r *retryingReaders) good() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads - r.failed
}

func (r *retryingReaders) succeed(live bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if !live {
		r.refused++
	}
	now := time.Now()
	r.gap = max(r.gap, now.Sub(r.succeeded))
	r.succeeded = now
}
