package redox

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// fetcher returns the transport with which Redox fetches a JWKS URL. The transport reads jwks of the default
// client from the engine.
func (u *bustle) fetcher() http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		resp, status, _ := u.request("fetch", logical.ReadOperation, u.clients[1], "jwks", nil)
		if status != 200 {
			return answerOf(req, 500, ""), nil
		}
		body, _ := resp.Data[logical.HTTPRawBody].([]byte)
		answer := answerOf(req, 200, string(body))
		answer.Header.Set("Cache-Control", resp.Data[logical.HTTPCacheControlHeader].(string))
		return answer, nil
	})
}

// request sends a request to the engine. data may have the field "for key", with the ID of the key that the
// request is about. The laws get that field, and the engine does not.
func (u *bustle) request(
	what string, operation logical.Operation, c *simClient, path string, data map[string]any,
) (resp *logical.Response, status int, message string) {
	o := &op{what: what, client: c, active: true, began: time.Now()}
	o.key, _ = data["for key"].(string)
	o.force, _ = data[fieldForce].(bool)
	delete(data, "for key")
	ctx, cancel := context.WithTimeout(context.WithValue(u.t.Context(), opKey{}, o), 90*time.Second)
	defer cancel()
	resp, err := u.b.HandleRequest(ctx, &logical.Request{
		ID: "request-1", Operation: operation, Path: strings.TrimSuffix(c.prefix()+path, "/"), MountPoint: "redox/",
		Storage: u.storage, Data: data,
	})
	status, message = outcome(operation, resp, err)
	if status == 200 && what == "read token" {
		u.tokenRead(o, u.laws.clients[c.name], resp.Data)
	}
	return resp, status, message
}

func (u *bustle) write(what string, c *simClient, path string, data map[string]any) int {
	_, status, _ := u.request(what, logical.UpdateOperation, c, path, data)
	return status
}

// reads reads tokens of a client until ctx ends. If strict returns true before and after a read, and the read
// fails, the run fails.
func (u *bustle) reads(ctx context.Context, c *simClient, strict func() bool) {
	for ctx.Err() == nil {
		before := strict()
		_, status, message := u.request("read token", logical.ReadOperation, c, "token", nil)
		if ctx.Err() == nil && before && strict() && status != 200 {
			u.violated("a read of %s fails in a calm: %d %s", c.name, status, message)
		}
		sleep(ctx, rand.N(50*time.Second))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// operates does what operators may do, in random order, until ctx ends.
func (u *bustle) operates(ctx context.Context) {
	for ctx.Err() == nil {
		c := u.clients[rand.N(len(u.clients))]
		key := u.anyKey(c)
		switch rand.N(10) {
		case 0:
			u.write("rotate", c, "keys/rotate", nil)
		case 1:
			u.write("generate", c, "keys/generate", nil)
		case 2:
			u.write("activate", c, "keys/"+key+"/activate", map[string]any{"force": rand.N(3) == 0, "for key": key})
		case 3:
			u.request("delete key", logical.DeleteOperation, c, "keys/"+key, map[string]any{"for key": key})
		case 4:
			reuse := c.name != "zeta" && rand.N(2) == 0
			u.write("config", c, "config", map[string]any{"reuse_tokens": reuse, "retire_after": "5m"})
		case 5:
			u.request("check", logical.ReadOperation, c, "check", nil)
		case 6:
			u.request("look", logical.ReadOperation, c, "keys", nil)
		case 7:
			u.write("config", c, "config", map[string]any{"client_id": "another"})
			sleep(ctx, rand.N(time.Minute))
			u.mend(c)
		case 8:
			if c.name == "acme" {
				u.request("delete client", logical.DeleteOperation, c, "", map[string]any{"force": true})
				u.write("generate", c, "keys/generate", nil)
				u.mend(c)
			}
		default:
			u.paste(c)
		}
		sleep(ctx, rand.N(40*time.Second))
	}
}

func (u *bustle) anyKey(c *simClient) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	keys := u.laws.clients[c.name].ring.Keys
	if len(keys) == 0 {
		return "none"
	}
	return string(keys[rand.N(len(keys))].ID)
}

func (u *bustle) mend(c *simClient) {
	settings := map[string]any{
		"client_id": c.id, "rotation_period": "35m", "publish_window": "2m", "retire_after": "6m",
		"public_jwks": c.way == "fetched",
	}
	switch {
	case c.platform:
		settings["manages"] = "acme=id-of-acme,zeta=id-of-zeta"
		u.sandbox.RegisterUser(c.id, true)
	case c.way == "pushed":
		settings["platform_client"] = "platform"
	}
	u.write("config", c, "config", settings)
	if c.way == "fetched" {
		u.sandbox.RegisterURL(c.id, "https://vault.example/v1/redox/jwks")
	}
}

// paste replaces Redox's list of a client's keys with the client's JWK Set. It keeps listed keys whose ID begins
// with x, which are keys of others.
func (u *bustle) paste(c *simClient) {
	resp, status, _ := u.request("look", logical.ReadOperation, c, "keys", nil)
	if status != 200 {
		return
	}
	var set, listed struct {
		Keys []json.RawMessage `json:"keys"`
	}
	u.asking.Lock()
	defer u.asking.Unlock()
	_ = json.Unmarshal([]byte(resp.Data["jwks"].(string)), &set)
	_ = json.Unmarshal([]byte(u.sandbox.JWKS(c.id)), &listed)
	for _, raw := range listed.Keys {
		if strings.Contains(string(raw), `"kid":"x`) {
			set.Keys = append(set.Keys, raw)
		}
	}
	raw, err := json.Marshal(set)
	if err == nil {
		err = u.sandbox.Register(c.id, raw)
	}
	if err != nil {
		u.violated("%v", err)
	}
	u.changes[c.id]++
}

// pastes calls paste each minute, until ctx ends, for each client whose keys are pasted.
func (u *bustle) pastes(ctx context.Context) {
	for ctx.Err() == nil {
		for _, c := range u.clients {
			if c.way == "pasted" {
				u.paste(c)
			}
		}
		sleep(ctx, time.Minute)
	}
}

// prompt fails the run if a rotation begins late, a replaced key is deleted late, or a rotation takes too long.
// The schedule must begin each step when the step is due, not only when the safety net finds the client.
func (u *bustle) prompt() {
	u.mu.Lock()
	defer u.mu.Unlock()
	const late = 8 * time.Second
	now := time.Now()
	for _, c := range u.laws.clients {
		if c.config == nil || c.ring.Active() == nil {
			continue
		}
		active, pending := c.ring.Active(), c.ring.Pending()
		if due := active.ActivatedAt.Add(seconds(c.config.RotationPeriod)); pending == nil && now.Sub(due) > late {
			u.violatedLocked("the rotation of %s is %v late", c.name, now.Sub(due))
		}
		for _, k := range c.ring.Keys {
			over := now.Sub(k.RetiredAt.Add(seconds(c.config.RetireAfter)))
			if k.State == keyring.Retiring && k.Accepted != "" && k.Accepted == active.Accepted && over > late {
				u.violatedLocked("the private half of %s of %s is there %v after its time", k.ID, c.name, over)
			}
		}
		if pending == nil || !pending.Rotating || c.way == "pasted" {
			continue
		}
		if waits := now.Sub(pending.CreatedAt); waits > seconds(c.config.PublishWindow)+70*time.Second {
			u.violatedLocked("the rotation of %s to %s takes %v", c.name, pending.ID, waits)
		}
	}
}

// prepare sets up all clients but the last with an engine that takes no steps. It then ends that engine and starts
// another one, which must find these clients. The last client is set up while the new engine runs.
func (u *bustle) prepare() {
	u.b.schedule.Stop()
	for i, c := range u.clients {
		if i == len(u.clients)-1 { // another engine has to find the others, although it cannot list them at first
			u.b.Cleanup(context.Background())
			u.start()
			u.noList.Store(true)
			if err := u.b.Initialize(u.t.Context(), &logical.InitializationRequest{Storage: u.storage}); err != nil {
				u.t.Fatal(err)
			}
		}
		u.write("generate", c, "keys/generate", nil)
		u.paste(c)
		u.mend(c)
	}
	time.Sleep(70 * time.Second)
	u.found()
}

// found fails the run unless the first steps of each client are done: Redox has accepted the active key, and lists
// the keys that the engine publishes.
func (u *bustle) found() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.laws.clients {
		p := c.ring.Publication
		if c.ring.Active().Accepted == "" || p != nil && p.ReadAt.IsZero() {
			u.violatedLocked("a new engine does not find %s", c.name)
		}
	}
}

// settled fails the run if the schedule has not looked at all clients, or if check of a client fails or gives an
// unexpected warning. If the engine publishes the keys of a client, settled asks for a rotation. If one begins,
// the new key must be published five seconds later.
func (u *bustle) settled() {
	if resp, status, _ := u.request("look", logical.ReadOperation, u.clients[1], "metrics", nil); status == 200 {
		text := fmt.Sprintf("%s", resp.Data[logical.HTTPRawBody])
		if !strings.Contains(text, "redox_clients_unread 0\n") || !strings.Contains(text, "redox_rotating_node 1\n") {
			u.violated("the schedule has not looked at all clients: %.3000s", text)
		}
	}
	for _, c := range u.clients {
		resp, status, message := u.request("check", logical.ReadOperation, c, "check", nil)
		if status != 200 {
			u.violated("check of %s after a calm: %s", c.name, message)
			continue
		}
		for _, warning := range resp.Warnings {
			if !strings.Contains(warning, "is kept, as") && !strings.Contains(warning, "give Redox the public half") {
				u.violated("check of %s after a calm: %s", c.name, warning)
			}
		}
		if c.way == "pushed" && u.write("rotate", c, "keys/rotate", nil) == 200 {
			time.Sleep(5 * time.Second)
			u.mu.Lock()
			next := u.laws.clients[c.name].ring.Pending()
			if next == nil || next.PublishedAt.IsZero() {
				u.violatedLocked("five seconds after an operator asked for a rotation of %s, the key is not published", c.name)
			}
			u.mu.Unlock()
		}
	}
}

// run has storms and calms alternate.
func (u *bustle) run() {
	server := &http.Server{Handler: u, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(u) }()
	defer func() {
		for _, c := range u.clients {
			u.write("rotate", c, "keys/rotate", nil)
		}
		u.b.Cleanup(context.Background())
		u.over.Store(true)
		close(u.dials)
		_ = server.Close()
		time.Sleep(time.Minute) // until Redox has ended what the engine gave up
		synctest.Wait()
	}()
	u.prepare()
	ctx, end := context.WithCancel(u.t.Context())
	defer end()
	var strict bool
	isStrict := func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return strict
	}
	for _, c := range u.clients {
		for range 2 {
			go u.reads(ctx, c, isStrict)
		}
	}
	go u.pastes(ctx)
	for range 2 {
		u.storm.Store(true)
		stormy, calm := context.WithTimeout(ctx, 40*time.Minute)
		for range 3 {
			go u.operates(stormy)
		}
		<-stormy.Done()
		calm()
		u.storm.Store(false)
		time.Sleep(2 * time.Minute) // until the operators have ended what they began
		for _, c := range u.clients {
			if u.anyKey(c) == "none" {
				u.write("generate", c, "keys/generate", nil)
			}
			u.mend(c)
			u.paste(c)
		}
		time.Sleep(70 * time.Minute) // a pause after refusals takes up to an hour
		u.setStrict(&strict, true)
		for range 350 {
			time.Sleep(7 * time.Second)
			u.prompt()
		}
		u.settled()
		u.setStrict(&strict, false)
	}
}

func (u *bustle) setStrict(strict *bool, is bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*strict = is
}

// report fails the test if the run has failed, or if the log shows a token, an assertion, or a fault of the
// engine, such as a panic.
func (u *bustle) report() {
	log := u.log.String()
	for _, leak := range redoxtest.Leaks(map[string]string{"log": log}, u.sandbox.Secrets()) {
		u.violated("leak: %s", leak)
	}
	if at := strings.Index(log, "please report this"); at >= 0 {
		u.violated("the log has: %.1500s", log[at:])
	}
	if u.failure != "" {
		lines := strings.Split(log, "\n")
		u.t.Errorf("%s\nthe log ends:\n%s", u.failure, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	u.t.Logf("%v", u.seen)
}

// The whole engine runs with its goroutines, while readers and operators call it. Storage and Redox fail at times.
// The laws hold at each write, request and answer. Late in a calm, each read gets a token, and no rotation or
// deletion of a key is late.
func TestSimulateConcurrently(t *testing.T) {
	t.Parallel()
	if _, err := simStock(); err != nil {
		t.Fatal(err)
	}
	for i := range *concurrent {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := newBustle(t)
				u.run()
				u.report()
			})
		})
	}
}
