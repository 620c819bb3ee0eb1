package redox

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestJWKS(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	m.ready("clients/acme/", map[string]any{"public_jwks": true, "publish_window": "0s"})
	for prefix, age := range map[string]string{"": "300", "clients/acme/": "0"} {
		for _, path := range []string{prefix + "jwks", prefix + "jwks/"} {
			for _, op := range []logical.Operation{logical.ReadOperation, logical.HeaderOperation} {
				got := m.must(op, path, nil)
				raw, err := base64.StdEncoding.DecodeString(got[logical.HTTPRawBody].(string))
				if err != nil {
					t.Fatal(err)
				}
				got[logical.HTTPRawBody] = string(raw)
				want := map[string]any{
					logical.HTTPStatusCode: 200.0, logical.HTTPContentType: "application/jwk-set+json",
					logical.HTTPRawBody:            m.read(prefix + "keys")["jwks"],
					logical.HTTPCacheControlHeader: "public, max-age=" + age,
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s %s (-want +got):\n%s", op, path, diff)
				}
			}
		}
	}
	for window, age := range map[string]int64{"0s": 0, "1s": 0, "10s": 5, "10m": 300, "168h": 300} {
		m.write("config", map[string]any{"publish_window": window})
		if got := m.must(logical.ReadOperation, "jwks",
			nil)[logical.HTTPCacheControlHeader]; got != fmt.Sprint("public, max-age=", age) {
			t.Errorf("publish_window %s: %v", window, got)
		}
	}
}

// anonymous makes a request as a reader without a Vault token. It returns all that the reader gets, and
// the log lines of that request, except those of level debug.
func (m *mount) anonymous(ctx context.Context, op logical.Operation, path string) string {
	m.t.Helper()
	var said string
	lines := m.lines(func() {
		resp, err := m.request(ctx, op, path, nil)
		status, text := outcome(op, resp, err)
		said = fmt.Sprint("HTTP ", status, ": ", text, resp)
	})
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "[DEBUG] ") })
	return said + strings.Join(lines, "\n")
}

// An anonymous reader gets the same 404 if the set is private, if there is no such client, and if the
// client has no config, also if the reader hangs up. In each of these cases he gets the same 500 if
// storage fails or the config is damaged. The log has no line above level debug.
func TestAnonymousSameness(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	m.ready("clients/off/", nil)
	m.write("clients/bare/keys/generate", nil)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	const none, unreadable = "HTTP 404: there is no public JWK Set here", "HTTP 500: the JWK Set cannot be read"
	paths := []string{"jwks", "clients/off/jwks", "clients/nobody/jwks", "clients/bare/jwks"}
	expect := func(when, want string, ctx context.Context, before func()) {
		t.Helper()
		for _, path := range paths {
			for _, path := range []string{path, path + "/"} {
				for _, op := range []logical.Operation{logical.ReadOperation, logical.HeaderOperation} {
					m.pass(rereadAfter)
					before()
					if got := m.anonymous(ctx, op, path); got != want+"<nil>" {
						t.Errorf("%s, %s %s: %s", when, op, path, got)
					}
				}
			}
		}
	}
	expect("well", none, t.Context(), func() {})
	expect("hung up", none, gone, func() {})
	for at := range 2 {
		expect("storage fails", unreadable, t.Context(), func() { storage.countdown = at })
		expect("storage fails and hung up", unreadable, gone, func() { storage.countdown = at })
	}
	storage.countdown = -1
	for _, path := range paths {
		client := defaultClient
		if name, further := strings.CutPrefix(path, clientsPrefix); further {
			client, _, _ = strings.Cut(name, "/")
		}
		entry := &logical.StorageEntry{Key: configKey(client), Value: []byte("damaged")}
		if err := storage.Put(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
	}
	expect("damaged", unreadable, t.Context(), func() {})
}

// Many anonymous reads at once share one read of the config and one of the ring, even if
// the client does not exist. A reader who hangs up meanwhile changes nothing for the
// others.
func TestAnonymousReadsShare(t *testing.T) {
	for path, want := range map[string]int{"jwks": 200, "clients/nobody/jwks": 404} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := &spiedStorage{Storage: &logical.InmemStorage{}}
				b, err := Factory(t.Context(), &logical.BackendConfig{System: systemView(0), StorageView: storage})
				if err != nil {
					t.Fatal(err)
				}
				ask := func(ctx context.Context, op logical.Operation, path string, data map[string]any) int {
					resp, err := b.HandleRequest(ctx, &logical.Request{Operation: op, Path: path, Data: data, Storage: storage})
					status, _ := outcome(op, resp, err)
					return status
				}
				config := map[string]any{"client_id": clientID, "public_jwks": true}
				if got := ask(t.Context(), logical.UpdateOperation, "config", config); got != 200 {
					t.Fatal("config: HTTP", got)
				}
				storage.gets.Store(0)
				hold := make(chan struct{})
				storage.got = func() { <-hold }
				statuses := make(chan int, 500)
				first, hangUp := context.WithCancel(t.Context())
				go func() { statuses <- ask(first, logical.ReadOperation, path, nil) }() // reads storage for all
				synctest.Wait()
				for range 499 {
					go func() { statuses <- ask(t.Context(), logical.ReadOperation, path, nil) }()
				}
				synctest.Wait()
				hangUp()
				if got := ask(first, logical.ReadOperation, path, nil); got != 500 {
					t.Errorf("who hung up: HTTP %d", got)
				}
				close(hold)
				for range 500 {
					if got := <-statuses; got != want {
						t.Errorf("HTTP %d, want %d", got, want)
					}
				}
				if n := storage.gets.Load(); n != 2 {
					t.Errorf("%d reads of storage, want 2", n)
				}
			})
		})
	}
}

// If a reader of config hangs up, the log has no line of level error.
func TestLogOfHangUps(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.backend.entries.views.forget(defaultClient)
	storage := &spiedStorage{Storage: m.storage}
	ctx, hangUp := context.WithCancel(t.Context())
	storage.got = hangUp
	m.storage = canceledStorage{storage}
	got := m.anonymous(ctx, logical.ReadOperation, "config")
	if !strings.Contains(got, "HTTP 500: reading clients/default/config") || strings.Contains(got, "[ERROR]") {
		t.Error(got)
	}
}

// canceledStorage is a storage whose Get fails once ctx has ended, as that of Vault does.
type canceledStorage struct{ logical.Storage }

func (s canceledStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := s.Storage.Get(ctx, key)
	if ctx.Err() != nil {
		return nil, errors.New("rpc error: code = Canceled desc = context canceled")
	}
	return entry, err
}

// The JWK Set must not be wrapped: wrapping stores a response in Vault, so anybody could
// write to Vault's storage.
func TestJWKSCannotBeWrapped(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.ReadOperation, Path: "jwks", Storage: m.storage,
		WrapInfo: &logical.RequestWrapInfo{TTL: time.Minute},
	})
	if err != nil || !resp.IsError() {
		t.Errorf("%v, %v", resp, err)
	}
}

// An anonymous read parses no private key and writes nothing.
func TestJWKSTouchesNoPrivateKey(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"public_jwks": true})
	key := "clients/default/keyring"
	damaged := strings.Replace(snapshot(t, m.storage)[key], `"private_key":"MII`, `"private_key":"AAA`, 1)
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(damaged)}); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, m.storage)
	m.read("jwks")
	m.unchanged(before)
	m.fails(500, logical.ReadOperation, "token", nil, "cannot be read")
}

// Without a Vault token only the JWK Set can be read.
func TestUnauthenticated(t *testing.T) {
	want := []string{"jwks", "jwks/", "clients/+/jwks", "clients/+/jwks/"}
	if diff := cmp.Diff(want, newMount(t).backend.SpecialPaths().Unauthenticated); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
