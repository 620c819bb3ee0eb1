package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	soakFor  = flag.Duration("soak", 0, "how long the soak test puts load on the engine; 0 leaves it out")
	soakSeed = flag.Uint64("seed", 0, "what decides which faults the soak test meets; 0 takes any")
)

// soak is the engine under a mixed load, and the samples of what it uses.
type soak struct {
	w       *world
	watched string // the file that the plugin writes
	load    *load
	samples []sample
	start   time.Time
}

// Under load the engine makes no mistake (see report), and what it uses does not grow with time (see
// assertFlat).
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("scripts/soak runs it")
	}
	s := newSoak(t)
	before := s.quiet(t)
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	fmt.Printf("seed %d\n", seed)

	ctx, cancel := context.WithTimeout(t.Context(), *soakFor)
	defer cancel()
	s.load = newLoad(s.w)
	s.start = time.Now()
	s.load.run(ctx, rand.New(rand.NewPCG(seed, 0)))
	for ctx.Err() == nil {
		one, err := s.sample()
		if err != nil {
			t.Fatal(err)
		}
		s.samples = append(s.samples, one)
		wait(ctx, time.Second)
	}
	s.load.all.Wait()
	after := s.quiet(t)
	s.print(before, after)
	s.load.report(t, *soakFor)
	s.assertFlat(t, before, after)
}

// newSoak starts a Vault with the watched plugin and the soakClients.
func newSoak(t *testing.T) *soak {
	t.Helper()
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	s := &soak{w: w, watched: filepath.Join(w.dir, "watched")}
	// Build without the race detector: its memory would be measured too.
	const name = pluginName + "-watched"
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(pluginDir, name),
		module+"/internal/e2e/watched")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	s.must(t, http.MethodDelete, "sys/audit/file", "") // it would fill the disk
	s.must(t, http.MethodPut, "sys/plugins/catalog/secret/"+pluginName, fmt.Sprintf(
		`{"sha256":%q,"command":%q,"env":["REDOX_WATCHED=%s"]}`, checksum(t, name), name, s.watched))
	s.must(t, http.MethodPost, "sys/mounts/redox", fmt.Sprintf(`{"type":%q}`, pluginName))
	s.must(t, http.MethodPut, "redox/hosts", fmt.Sprintf(`{"allowed":%q}`, hostOf(w.sandbox.URL())))
	for _, c := range soakClients {
		if err := w.addClient(c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *soak) must(t *testing.T, method, path, body string) {
	t.Helper()
	if status, answer, err := s.w.call(method, path, body); err != nil || status >= 300 {
		t.Fatalf("%s %s: HTTP %d %s, %v", method, path, status, answer, err)
	}
}

// soakClient describes a client of the mount: how Redox learns its keys, and its
// other settings.
type soakClient struct {
	path, id   string
	publishing publishing
	config     string // the inside of a JSON object
}

type publishing int

const (
	manual publishing = iota
	jwksURL
	platformAPI
)

// rotates has a short retire_after, without which a rotation_period cannot be short, and the
// assertion_ttl that this needs.
const rotates = `"assertion_ttl":"30s","retire_after":"30s",`

// soakClients are the clients that exist during the whole test. The client platform publishes the keys of
// acme. Keys of spare are generated and deleted.
var soakClients = []soakClient{
	{"redox/clients/platform", "user", manual, `"manages":["acme=pushed"],`},
	{"redox", "fetched", jwksURL, rotates + `"publish_window":"2s","public_jwks":true,"rotation_period":"62s",`},
	{"redox/clients/acme", "pushed", platformAPI, rotates +
		`"publish_window":"2s","platform_client":"platform","rotation_period":"62s",`},
	{"redox/clients/zeta", "pasted", manual, rotates + `"publish_window":"0s","rotation_period":"60s",`},
	{"redox/clients/shared", "shared", manual, `"reuse_tokens":true,`},
	{spare, "spare", manual, ``},
}

const spare = "redox/clients/spare"

// requestTimeout is short, so that some reads fail if Redox stalls for a few seconds.
const requestTimeout = 6 * time.Second

// addClient creates a client, and registers its keys, or its JWKS URL, at Redox.
func (w *world) addClient(c soakClient) error {
	body := fmt.Sprintf(`{%s"client_id":%q,"token_url":%q,"request_timeout":%q}`, c.config, c.id,
		w.sandbox.TokenURL(), requestTimeout)
	for _, step := range []struct{ path, body string }{{"/keys/generate", ""}, {"/config", body}} {
		if status, answer, err := w.call(http.MethodPut, c.path+step.path, step.body); err != nil || status != http.StatusOK {
			return errors.Join(err, fmt.Errorf("%s%s: HTTP %d %s", c.path, step.path, status, answer))
		}
	}
	if c.publishing == jwksURL {
		w.sandbox.RegisterURL(c.id, w.vault.addr+"/v1/"+c.path+"/jwks")
	} else if err := w.paste(c.id, c.path); err != nil {
		return err
	}
	if c.id == "user" {
		w.sandbox.RegisterUser(c.id, true)
	}
	return nil
}
