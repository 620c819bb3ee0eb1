package redoxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Neighbour is a tenant who has all rights on a client of his own, and uses them to put a heavy
// load on the engine. The reads of another client must still succeed.
type Neighbour struct {
	Client  string   // path of the client in Vault, such as redox/clients/worst
	Key     string   // a private key (PEM) for it
	CAs     []string // certificates (PEM) for ca_pem, in turn
	Stalls  string   // token URL that never answers
	Refuses string   // token URL that refuses

	// Ask sends a request to Vault and returns the body of the answer, or nil if there was none.
	Ask func(ctx context.Context, method, path, body string) []byte
}

// Run puts the load on Vault until ctx ends. Many goroutines at once read token and check,
// generate the largest keys, write configs with changing certificates and token URLs, import a
// key, delete the client, and begin reads of jwks that they break off.
func (n *Neighbour) Run(ctx context.Context) {
	var all sync.WaitGroup
	loop := func(workers int, do func(ctx context.Context)) {
		for range workers {
			all.Go(func() {
				for ctx.Err() == nil {
					do(ctx)
				}
			})
		}
	}
	turn := 0
	loop(1, func(ctx context.Context) { n.configure(ctx, turn); turn++ })
	loop(1, func(ctx context.Context) {
		n.restore(ctx)
		pause(ctx, 5*time.Second)
		n.Ask(ctx, http.MethodDelete, n.Client+"?force=true", "")
	})
	loop(200, func(ctx context.Context) { n.Ask(ctx, http.MethodGet, n.Client+"/token", "") })
	loop(50, func(ctx context.Context) { n.Ask(ctx, http.MethodGet, n.Client+"/check", "") })
	loop(8, n.generate)
	loop(4, func(ctx context.Context) {
		short, hangUp := context.WithTimeout(ctx, 2*time.Millisecond)
		defer hangUp()
		n.Ask(short, http.MethodGet, n.Client+"/jwks", "")
		pause(ctx, 50*time.Millisecond) // a flood would slow Vault itself, and whoever sends it
	})
	all.Wait()
}

// restore gives the client a key again.
func (n *Neighbour) restore(ctx context.Context) {
	body, err := json.Marshal(map[string]string{"private_key": n.Key})
	if err != nil {
		panic(err) // a text
	}
	n.Ask(ctx, http.MethodPut, n.Client+"/keys/import", string(body))
}

// configure writes one of several configs.
func (n *Neighbour) configure(ctx context.Context, turn int) {
	url := n.Stalls
	if turn%4 == 3 {
		url = n.Refuses
	}
	body, err := json.Marshal(map[string]any{
		"client_id": "worst", "token_url": url, "ca_pem": n.CAs[turn%len(n.CAs)], "request_timeout": 30, "max_retries": 0,
	})
	if err != nil {
		panic(err) // texts and numbers
	}
	n.Ask(ctx, http.MethodPut, n.Client+"/config", string(body))
	pause(ctx, 20*time.Millisecond)
}

// generate asks the engine for a new key of the client. If the new key is pending, generate
// deletes it, to have room for the next.
func (n *Neighbour) generate(ctx context.Context) {
	var answer struct {
		Data struct {
			ID    string `json:"key_id"`
			State string
		}
	}
	raw := n.Ask(ctx, http.MethodPut, n.Client+"/keys/generate", `{"key_bits":4096}`)
	if json.Unmarshal(raw, &answer) != nil || answer.Data.State != "pending" {
		pause(ctx, 10*time.Millisecond)
		return
	}
	n.Ask(ctx, http.MethodDelete, fmt.Sprint(n.Client, "/keys/", answer.Data.ID), "")
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
