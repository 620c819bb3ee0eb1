package redox

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin/pb"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

const clientID = "e3b0c442-98fc-4c14-9afb-f4c8996fb924"

// mount is an engine, with a sandbox in the place of Redox. The method request encodes requests and
// responses as between Vault and the plugin. When a test ends, scan searches the log, and the responses
// and errors of request, for secrets.
type mount struct {
	t       *testing.T
	backend *backend
	storage logical.Storage
	sandbox *redoxtest.Sandbox
	log     *syncBuffer
	now     time.Time     // changes only in pass
	ahead   time.Duration // how far the sandbox's clock is ahead, see pass

	mu   sync.Mutex
	said []string // every response and error, without the field access_token
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newMount(t *testing.T) *mount { return newMountOn(t, &logical.InmemStorage{}, systemView(0)) }

func newMountOn(t *testing.T, storage logical.Storage, system logical.SystemView) *mount {
	t.Helper()
	sandbox, err := redoxtest.Start(redoxtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sandbox.Close)
	m := &mount{t: t, storage: storage, sandbox: sandbox, log: &syncBuffer{}, now: time.Now()}
	made, err := Factory(context.Background(), &logical.BackendConfig{
		System:      system,
		StorageView: storage,
		Logger:      hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Trace}),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.backend = made.(*backend)
	m.backend.unread = func() (int, bool) { return 0, true } // as if a worker had looked at each client
	m.allowSandbox()
	m.pass(0)
	t.Cleanup(func() { m.backend.Cleanup(context.Background()) })
	t.Cleanup(m.scan)
	return m
}

// allowSandbox puts the sandbox's host into the list of hosts if that list is empty. If it is not, the
// storage is that of another mount, whose sandbox both mounts use. allowSandbox writes to storage
// directly, so it works on a standby too.
func (m *mount) allowSandbox() {
	m.t.Helper()
	list, err := loadHosts(m.t.Context(), m.storage)
	if err == nil && len(list.Allowed) == 0 {
		err = store.Put(m.t.Context(), m.storage, hostsKey, &hostList{Allowed: []string{hostOf(m.sandbox.TokenURL())}})
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// hostOf returns the host of a URL, with the port if the URL has one.
func hostOf(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// allow adds hosts to those that the mount may talk to.
func (m *mount) allow(hosts ...string) {
	m.t.Helper()
	allowed := m.read("hosts")["allowed"].([]any)
	for _, host := range hosts {
		allowed = append(allowed, host)
	}
	m.write("hosts", map[string]any{"allowed": allowed})
}

// request sends a request as Vault does, and returns the response and the error as Vault gets them. A
// successful response must match the schema that the endpoint declares.
func (m *mount) request(ctx context.Context, op logical.Operation, path string,
	data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	req := m.overTheWire(&logical.Request{
		ID: "request-1", Operation: op, Path: path, MountPoint: "redox/", Storage: m.storage, Data: data,
	})
	resp, err := m.backend.HandleRequest(ctx, req)
	if err == nil && !resp.IsError() {
		route := m.backend.Route(path)
		if route == nil {
			m.t.Fatalf("%s %s succeeded without a route", op, path)
		}
		declared := schema.GetResponseSchema(m.t, route, op)
		// A read may return nil instead of a response with that schema: Vault answers 404.
		if resp != nil || op != logical.ReadOperation {
			schema.ValidateResponse(m.t, declared, resp, true)
		}
	}
	if err != nil {
		err = pb.ProtoErrToErr(pb.ErrToProtoErr(err))
	}
	if resp != nil {
		crossed, convErr := pb.LogicalResponseToProtoResponse(resp)
		if convErr != nil {
			m.t.Fatalf("the response cannot be sent to Vault: %v", convErr)
		}
		if resp, convErr = pb.ProtoResponseToLogicalResponse(crossed); convErr != nil {
			m.t.Fatalf("Vault cannot read the response: %v", convErr)
		}
	}
	m.remember(resp, err)
	return resp, err
}

func (m *mount) overTheWire(req *logical.Request) *logical.Request {
	m.t.Helper()
	crossed, err := pb.LogicalRequestToProtoRequest(req)
	if err != nil {
		m.t.Fatalf("Vault cannot send the request: %v", err)
	}
	got, err := pb.ProtoRequestToLogicalRequest(crossed)
	if err != nil {
		m.t.Fatalf("the plugin cannot read the request: %v", err)
	}
	got.Storage = req.Storage
	return got
}

func (m *mount) remember(resp *logical.Response, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.said = append(m.said, err.Error())
	}
	if resp != nil {
		shown := maps.Clone(resp.Data)
		delete(shown, "access_token")
		m.said = append(m.said, fmt.Sprint(shown, resp.Warnings))
	}
}

// must sends a request that must succeed, and returns the data of the response.
func (m *mount) must(op logical.Operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	resp, err := m.request(context.Background(), op, path, data)
	if err != nil {
		m.t.Fatalf("%s %s: %v", op, path, err)
	}
	if resp.IsError() {
		m.t.Fatalf("%s %s: %v", op, path, resp.Error())
	}
	if resp == nil {
		return nil
	}
	return resp.Data
}

func (m *mount) read(path string) map[string]any {
	m.t.Helper()
	return m.must(logical.ReadOperation, path, nil)
}

func (m *mount) write(path string, data map[string]any) map[string]any {
	m.t.Helper()
	return m.must(logical.UpdateOperation, path, data)
}

// fails sends a request that must fail with that HTTP status and a message that
// contains all of want. It returns the message.
func (m *mount) fails(status int, op logical.Operation, path string, data map[string]any, want ...string) string {
	m.t.Helper()
	resp, err := m.request(context.Background(), op, path, data)
	got, message := outcome(op, resp, err)
	if got != status {
		m.t.Errorf("%s %s: HTTP %d, want %d: %s", op, path, got, status, message)
	}
	for _, part := range want {
		if !strings.Contains(message, part) {
			m.t.Errorf("%s %s says\n  %s\nwant\n  %s", op, path, message, part)
		}
	}
	return message
}

// outcome returns the HTTP status and the error message that Vault makes of a response and an error. If
// there is no error, the message is empty.
func outcome(op logical.Operation, resp *logical.Response, err error) (status int, message string) {
	status, respErr := logical.RespondErrorCommon(&logical.Request{Operation: op}, resp, err)
	switch {
	case respErr != nil:
		logical.AdjustErrorStatusCode(&status, respErr)
		return status, respErr.Error()
	case status != 0:
		return status, ""
	case resp == nil:
		return 204, ""
	}
	return 200, ""
}

// ready imports a key for the client under prefix ("" or "clients/acme/"), registers the client's public
// keys at the sandbox, and writes a config. more has further settings; if it has a token_url, ready
// allows the host of that URL. ready returns the key's ID.
func (m *mount) ready(prefix string, more map[string]any) (keyID string) {
	m.t.Helper()
	key := m.write(prefix+"keys/import", map[string]any{"private_key": testdata(m.t, "pkcs8.pem")})
	m.publish(prefix)
	settings := map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL()}
	maps.Copy(settings, more)
	if elsewhere, given := more["token_url"]; given {
		m.allow(hostOf(elsewhere.(string)))
	}
	m.write(prefix+"config", settings)
	return key["key_id"].(string)
}

// publish does the same as pasting jwks from keys under prefix into Redox's dashboard, for the API key
// clientID.
func (m *mount) publish(prefix string) {
	m.t.Helper()
	if err := m.sandbox.Register(clientID, []byte(m.read(prefix + "keys")["jwks"].(string))); err != nil {
		m.t.Fatal(err)
	}
}

func testdata(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile("internal/keyring/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// snapshot returns everything that is stored, byte for byte.
func snapshot(t *testing.T, s logical.Storage) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := logical.ScanView(context.Background(), s, func(key string) {
		entry, err := s.Get(context.Background(), key)
		if err != nil || entry == nil {
			t.Fatalf("reading %s: %v", key, err)
		}
		all[key] = string(entry.Value)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (m *mount) unchanged(before map[string]string) {
	m.t.Helper()
	if diff := cmp.Diff(before, snapshot(m.t, m.storage)); diff != "" {
		m.t.Errorf("storage changed (-before +after):\n%s", diff)
	}
}

func systemView(state consts.ReplicationState) logical.SystemView {
	return &logical.StaticSystemView{
		DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: time.Hour, ReplicationStateVal: state,
		PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.0"},
	}
}

// waitFor polls until done returns true, and fails the test if that takes more than 20 seconds. It is for
// what other goroutines do at a time that the test does not control.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

const canary = "c4n4ry"

// answers returns a handler that answers every request with that status and text.
func answers(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}
