package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stock is how many keys the clients of the mount share. To generate one for each client would
// take too long.
const stock = 50

// forgotten is how long the mount is left idle before its memory is measured again. By then it
// has dropped the views of the clients that were read, and closed their connections, and Go has
// collected garbage.
const forgotten = 4 * time.Minute

// growth measures one mount that gets more and more clients. All have a rotation_period, and no
// rotation is due. sizes lists the numbers of clients, smallest first, with commas between
// them.
func (s *testbed) growth(p *printer, slice time.Duration, sizes string) error {
	keys, err := stockOfKeys()
	if err != nil {
		return err
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(s.upstream.url, "http://"), "/")
	if _, err := s.call(http.MethodPost, "many/hosts", map[string]any{"allowed": host}); err != nil {
		return err
	}
	p.line("\n## Many clients\n\nOne mount. All clients have a `rotation_period`, and no rotation is due.\n")
	p.line("| clients | make | start | `config` write meanwhile, p50, p99, worst | fresh, one client | fresh, spread | " +
		"reused | `jwks` | `metrics`, p50, worst | size of `metrics` | idle, processor of plugins | " +
		"idle, reads of storage | memory after the load, and after idling | open connections after idling |")
	p.line("|" + strings.Repeat("--:|", 14))
	made := 0
	for _, size := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("-clients: %w", err)
		}
		began := time.Now()
		for ; made < n; made++ {
			if err := s.member(made, keys[made%stock]); err != nil {
				return err
			}
		}
		if err := s.grown(p, n, time.Since(began), slice); err != nil {
			return err
		}
	}
	p.line("\nGoals with 10,000 clients: a config write during the start at most 50 ms at the 99th percentile; " +
		"`metrics` less than a second; idle, memory at most 200 MiB and less than one read of storage a second; the reads " +
		"of a client as quick as with one client.")
	return nil
}

// grown measures the mount with n clients, and prints a row. took is how long it took to add
// the clients since the last row.
func (s *testbed) grown(p *printer, n int, took, slice time.Duration) error {
	start, writes, err := s.restart()
	if err != nil {
		return err
	}
	one := func(path, token string) (*result, error) {
		url := s.addr + "/v1/many/" + path
		return s.measure(target{name: path, method: http.MethodGet, url: url, token: token}, 16, slice)
	}
	fresh, err := one("clients/c0/token", rootToken)
	if err != nil {
		return err
	}
	spread, err := s.spread(n, slice)
	if err != nil {
		return err
	}
	if _, err := s.call(http.MethodPost, "many/clients/c0/config", map[string]any{"reuse_tokens": true}); err != nil {
		return err
	}
	reused, err := one("clients/c0/token", rootToken)
	if err != nil {
		return err
	}
	jwks, err := one("clients/c0/jwks", "")
	if err != nil {
		return err
	}
	if _, err := s.call(http.MethodPost, "many/clients/c0/config", map[string]any{"reuse_tokens": false}); err != nil {
		return err
	}
	scrapes, size, err := s.scrapes()
	if err != nil {
		return err
	}
	busy, err := s.resident()
	if err != nil {
		return err
	}
	cpu, reads, err := s.idle(forgotten)
	if err != nil {
		return err
	}
	idle, err := s.resident()
	if err != nil {
		return err
	}
	ms := func(r *result) string {
		return fmt.Sprintf("%.0f/s, p99 %.1f ms", r.perSecond(), float64(r.quantile(0.99))/float64(time.Millisecond))
	}
	p.line("| %d | %.1f s | %.1f s | %.1f, %.1f, %.1f ms | %s | %s | %s | %s | %.2f, %.2f s | %d KiB | %.1f %% | "+
		"%.2f/s | %d, %d MiB | %d |",
		n, took.Seconds(), start.Seconds(), inMS(writes.quantile(0.5)), inMS(writes.quantile(0.99)), inMS(writes.quantile(1)),
		ms(fresh), ms(spread), ms(reused), ms(jwks), scrapes.quantile(0.5).Seconds(), scrapes.quantile(1).Seconds(),
		size>>10, cpu*100, reads, busy>>20, idle>>20,
		s.upstream.conns.Load()-s.upstream.closed.Load())
	return nil
}

// scrapes reads metrics five times. It returns how long each read took, and how many bytes
// the last answer had.
func (s *testbed) scrapes() (r *result, size int, err error) {
	r = &result{}
	for range 5 {
		began := time.Now()
		metrics, err := s.call(http.MethodGet, "many/metrics", nil)
		if err != nil {
			return nil, 0, err
		}
		size = len(metrics)
		r.add(&result{latencies: []time.Duration{time.Since(began)}})
	}
	return r, size, nil
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// stockOfKeys generates the keys that the clients share, each as PEM.
func stockOfKeys() (keys []string, err error) {
	for range stock {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		keys = append(keys, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	}
	return keys, nil
}

// member creates client number i of the mount, with this key.
func (s *testbed) member(i int, key string) error {
	path := "many/clients/c" + strconv.Itoa(i) + "/"
	if _, err := s.call(http.MethodPost, path+"keys/import", map[string]any{"private_key": key}); err != nil {
		return err
	}
	_, err := s.call(http.MethodPost, path+"config", map[string]any{
		"client_id": "bench", "token_url": s.upstream.url, "rotation_period": "2160h", "public_jwks": i == 0,
	})
	return err
}

// restart reloads the plugin of the mount, and writes the config of one client again and again
// until the mount has looked at all its clients. It returns how long that took in all, and how
// long each write took.
func (s *testbed) restart() (took time.Duration, writes *result, err error) {
	began := time.Now()
	if _, err := s.call(http.MethodPost, "sys/plugins/reload/backend",
		map[string]any{"mounts": []string{"many"}}); err != nil {
		return 0, nil, err
	}
	writes = &result{readers: 1}
	for {
		at := time.Now()
		if _, err := s.call(http.MethodPost, "many/clients/c0/config",
			map[string]any{"max_retries": writes.reads % 5}); err != nil {
			return 0, nil, err
		}
		writes.latencies = append(writes.latencies, time.Since(at))
		writes.reads++
		if writes.reads%100 != 1 {
			continue
		}
		metrics, err := s.call(http.MethodGet, "many/metrics", nil)
		if err != nil {
			return 0, nil, err
		}
		if strings.Contains(string(metrics), "\nredox_rotating_node 1\n") {
			slices.Sort(writes.latencies)
			return time.Since(began), writes, nil
		}
	}
}

// spread measures reads of fresh tokens: of each of the n clients in turn, with 16 readers.
func (s *testbed) spread(n int, slice time.Duration) (*result, error) {
	return s.measureEach(func(i int) target {
		return target{
			name: "spread", method: http.MethodGet, token: rootToken,
			url: s.addr + "/v1/many/clients/c" + strconv.Itoa(i%n) + "/token",
		}
	}, 16, slice)
}

// idle waits for d while nobody asks for anything. It returns the share of a processor that the
// plugins used, and how many reads of its storage Vault counted per second.
func (s *testbed) idle(d time.Duration) (share, reads float64, err error) {
	before, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	readsBefore, err := s.storageReads()
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(d)
	after, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	readsAfter, err := s.storageReads()
	return (after.plugin - before.plugin).Seconds() / d.Seconds(), (readsAfter - readsBefore) / d.Seconds(), err
}

// storageReads returns how many reads of its storage Vault has counted since it started.
func (s *testbed) storageReads() (n float64, err error) {
	metrics, err := s.call(http.MethodGet, "sys/metrics?format=prometheus", nil)
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(metrics), "\n") {
		if value, is := strings.CutPrefix(line, "vault_barrier_get_count "); is {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("Vault's metrics have no vault_barrier_get_count")
}
