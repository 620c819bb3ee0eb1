package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// target is a request that can be sent again and again.
type target struct {
	name   string
	method string
	url    string
	body   string
	token  string // none for an anonymous read
}

// result holds the measurements of many reads.
type result struct {
	readers   int
	reads     int
	failed    int
	elapsed   time.Duration
	latencies []time.Duration // of reads that succeeded, sorted

	vaultCPU, pluginCPU time.Duration
}

func (r *result) perSecond() float64 { return float64(len(r.latencies)) / r.elapsed.Seconds() }

// quantile returns the q-quantile of the latencies, such as the median if q is 0.5. It
// returns zero if no read succeeded.
func (r *result) quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// add adds another part of the same measurement.
func (r *result) add(other *result) {
	r.reads, r.failed, r.elapsed = r.reads+other.reads, r.failed+other.failed, r.elapsed+other.elapsed
	r.vaultCPU, r.pluginCPU = r.vaultCPU+other.vaultCPU, r.pluginCPU+other.pluginCPU
	r.latencies = append(r.latencies, other.latencies...)
	slices.Sort(r.latencies)
}

// measure has that many readers send t again and again, each without pause, for the time d.
// Before that it opens their connections.
func (s *testbed) measure(t target, readers int, d time.Duration) (*result, error) {
	return s.measureEach(func(int) target { return t }, readers, d)
}

// measureEach measures like measure, but sends each(i) in the i-th read.
func (s *testbed) measureEach(each func(i int) target, readers int, d time.Duration) (*result, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: readers, MaxConnsPerHost: readers}}
	defer client.CloseIdleConnections()
	if err := warmUp(client, each(0), readers); err != nil {
		return nil, err
	}
	before, err := s.cpu()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	total := &result{readers: readers}
	var turn atomic.Int64
	start := time.Now()
	for range readers {
		all.Go(func() {
			var mine []time.Duration
			reads, failed := 0, 0
			for ctx.Err() == nil {
				began := time.Now()
				reads++
				if err := read(client, each(int(turn.Add(1)))); err != nil {
					failed++
					continue
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			total.reads, total.failed = total.reads+reads, total.failed+failed
			total.latencies = append(total.latencies, mine...)
		})
	}
	all.Wait()
	total.elapsed = time.Since(start)
	after, err := s.cpu()
	if err != nil {
		return nil, err
	}
	total.vaultCPU, total.pluginCPU = after.vault-before.vault, after.plugin-before.plugin
	slices.Sort(total.latencies)
	return total, nil
}

// warmUp opens the connections: readers goroutines send t three times each. If reads fail, it
// returns the error of one of them.
func warmUp(client *http.Client, t target, readers int) error {
	var mu sync.Mutex
	var failure error
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for range 3 {
				if err := read(client, t); err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if failure != nil {
		return fmt.Errorf("%s: %w", t.name, failure)
	}
	return nil
}

func read(client *http.Client, t target) error {
	req, err := http.NewRequestWithContext(context.Background(), t.method, t.url, strings.NewReader(t.body))
	if err != nil {
		return err
	}
	if t.token != "" {
		req.Header.Set("X-Vault-Token", t.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d: %s", resp.StatusCode, answer)
	}
	return nil
}
