package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// most is the goal: while another tenant does his worst, the 99th percentile of the time of a
// token read is at most this many times what it is without him.
const most = 2

// neighbour measures reads of tokens and of Vault's KV: first alone, then while another tenant
// of the mount puts a heavy load on it. The reads of KV show how much slower Vault itself
// becomes.
func (s *testbed) neighbour(p *printer, slice time.Duration) error {
	p.line("\n## Beside a tenant who does his worst\n\n| | readers " + columns)
	names := []string{"fresh", "reused", "kv"}
	alone := map[string]*result{}
	measure := func(where string, keep func(name string, r *result)) error {
		for _, name := range names {
			t := s.targets()[name]
			r, err := s.measure(t, 4, 2*slice)
			if err != nil {
				return err
			}
			p.row(t.name+", "+where, r)
			keep(name, r)
		}
		return nil
	}
	if err := measure("alone", func(name string, r *result) { alone[name] = r }); err != nil {
		return err
	}
	key, err := privateKey()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 300}}
	worst := redoxtest.Neighbour{
		Client: "redox/clients/worst", Key: key, CAs: []string{""},
		Stalls: "http://" + s.upstream.host + "/stall", Refuses: "http://" + s.upstream.host + "/refuse",
		Ask: func(ctx context.Context, method, path, body string) []byte {
			return s.ask(ctx, client, method, path, body)
		},
	}
	var all sync.WaitGroup
	all.Go(func() { worst.Run(ctx) })
	defer all.Wait()
	defer stop()
	time.Sleep(slice) // until he has taken what he can
	var verdicts []string
	err = measure("beside him", func(name string, r *result) {
		times := float64(r.quantile(0.99)) / float64(alone[name].quantile(0.99))
		verdict := ""
		if name != "kv" {
			verdict = map[bool]string{true: ", met", false: ", not met"}[times <= most && r.failed == 0]
		}
		verdicts = append(verdicts, fmt.Sprintf("%s %.1f times%s", s.targets()[name].name, times, verdict))
	})
	p.line("\nThe 99th percentile beside him, divided by that alone (goal: at most %d, and no read fails): %s.", most,
		strings.Join(verdicts, "; "))
	return err
}

// privateKey returns a new key as PEM.
func privateKey() (string, error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

// ask sends a request to Vault and returns the body of the answer, or nil if no complete answer
// came.
func (s *testbed) ask(ctx context.Context, client *http.Client, method, path, body string) []byte {
	req, err := http.NewRequestWithContext(ctx, method, s.addr+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return nil
	}
	req.Header.Set("X-Vault-Token", rootToken)
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	return answer
}
