package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// neighbourCmd reads a token n times in four goroutines, then n times again while a tenant does as much harm
// as he can with a client of his own. It prints the times, and fails if one of these reads fails. Usage:
// neighbour <n> <path of the client> <path of the tenant's client> <the tenant's Vault token>.
func neighbourCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	stalls, err := redoxtest.Start(redoxtest.Options{})
	ts.Check(err)
	ts.Defer(stalls.Close)
	stalls.SetFault(redoxtest.FaultStall, -1)
	hosts := ts.Getenv("REDOX_HOST") + "," + hostOf(stalls.URL())
	vaultCmd(ts, false, []string{"write", "redox/hosts", "allowed=" + hosts})
	key, err := os.ReadFile(filepath.Join(repository, "internal/keyring/testdata/pkcs8.pem"))
	ts.Check(err)
	ca, err := os.ReadFile(filepath.Join(repository, "internal/keyring/testdata/certificate.pem"))
	ts.Check(err)

	alone := w.readMany(ts, n, args[1])
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 300}}
	ctx, stop := context.WithCancel(context.Background())
	var mu sync.Mutex
	answers := map[int]int{}
	worst := redoxtest.Neighbour{
		Client: args[2], Key: string(key), CAs: []string{"", string(ca)},
		Stalls: stalls.TokenURL(), Refuses: w.sandbox.TokenURL(),
		Ask: func(ctx context.Context, method, path, body string) []byte {
			status, answer, err := w.askAs(ctx, client, args[3], method, path, body)
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
			if err != nil {
				return nil
			}
			return answer
		},
	}
	var all sync.WaitGroup
	all.Go(func() { worst.Run(ctx) })
	defer all.Wait()
	defer stop()
	ts.Check(until(20*time.Second, func() error {
		if hang := len(stalls.Assertions()); hang < 64 {
			return fmt.Errorf("%d requests hang", hang)
		}
		return nil
	}))
	beside := w.readMany(ts, n, args[1])
	mu.Lock()
	defer mu.Unlock()
	_, _ = fmt.Fprintf(ts.Stdout(), "alone: %s\nbeside the tenant: %s\nhe was answered:", alone, beside)
	for _, status := range slices.Sorted(maps.Keys(answers)) {
		_, _ = fmt.Fprintf(ts.Stdout(), " %d x %d", status, answers[status])
	}
	_, _ = fmt.Fprintln(ts.Stdout())
}

// ofVault is the answer when Vault itself fails, such as when its audit log takes too long on a busy machine.
// An internal error of the engine has a longer answer.
const ofVault = `{"errors":["internal error"]}`

// readMany reads a token n times, in four goroutines, and returns a text with the median and the p99 of the
// times. It repeats a read once if Vault itself fails. If a read fails, the script fails.
func (w *world) readMany(ts *testscript.TestScript, n int, path string) string {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var odd []string
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range n / 4 {
				start := time.Now()
				status, answer, err := w.ask(context.Background(), client, w.vault.addr, http.MethodGet, path+"/token", "")
				if string(bytes.TrimSpace(answer)) == ofVault { // as Vault's library does
					status, answer, err = w.ask(context.Background(), client, w.vault.addr, http.MethodGet, path+"/token", "")
				}
				mu.Lock()
				took = append(took, time.Since(start))
				if status != http.StatusOK {
					odd = append(odd, fmt.Sprintf("HTTP %d %s %v", status, answer, err))
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(odd) > 0 {
		ts.Fatalf("%d of %d reads failed, among them: %s", len(odd), n, strings.Join(odd[:min(3, len(odd))], "; "))
	}
	slices.Sort(took)
	return fmt.Sprintf("%d of %d reads succeeded, median %.1f ms, p99 %.1f ms", n, n,
		took[n/2].Seconds()*1e3, took[n*99/100].Seconds()*1e3)
}

// askAs sends a request with the given Vault token instead of the root token.
func (w *world) askAs(
	ctx context.Context, client *http.Client, token, method, path, body string,
) (status int, answer []byte, err error) {
	as := &world{rootToken: token}
	return as.ask(ctx, client, w.vault.addr, method, path, body)
}
