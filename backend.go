// Package redox is a Vault secrets engine that holds the private key of a
// Redox OAuth API key and returns a fresh access token on each read.
//
// Each endpoint has a file of its own, path_*.go. Below them lie client.go,
// the one request to Redox, and internal/: assertion and keyring are pure,
// store is the way into Vault's storage, redoxtest is a Redox to test against.
package redox

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Version is what the plugin reports of itself, as Vault wants it: v and a
// semantic version. A release sets it with -ldflags "-X …".
var Version = "v0.1.0-dev"

const help = `
The Redox secrets engine holds the private key and the client ID of a Redox
OAuth API key, and returns a fresh access token on each read of token.

Set it up in this order:

    vault write -f redox/keys/generate
    vault read -field=jwks redox/keys        # paste into Redox's dashboard
    vault write redox/config client_id=…     # the dashboard shows it
    vault read redox/check
    vault read redox/token

Every path exists a second time below clients/<name>/, for further OAuth API
keys: clients/acme/config, clients/acme/token and so on.
`

var _ logical.Factory = Factory

// backend is one mount. Copies of what is stored are in memory alone, and
// tokens to be handed out again in tokens alone.
type backend struct {
	*framework.Backend
	now      func() time.Time
	logbook  *logbook
	metrics  *metrics
	memory   *memory
	pool     *pool
	tokens   *shelf
	rotation *rotator

	// mu serialises read-modify-write of storage. Nothing asks Redox and no
	// key is generated while it is held.
	mu sync.Mutex
}

// Factory makes the engine for one mount. It neither reads storage nor starts
// anything: Vault also calls it while a plugin is being registered.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := newBackend()
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("setting up the Redox secrets engine: %w", err)
	}
	return b, nil
}

func newBackend() *backend {
	b := &backend{
		now: time.Now, logbook: newLogbook(), metrics: newMetrics(), memory: newMemory(), pool: newPool(), tokens: newShelf(), rotation: newRotator(),
	}
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		Help:           strings.TrimSpace(help),
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{clientsPrefix},
			Unauthenticated: []string{"jwks", "jwks/", "clients/+/jwks", "clients/+/jwks/"},
		},
		// The first pattern that matches wins: token, the one that is read most,
		// stands first, and keys/generate before keys/<key_id>.
		Paths: framework.PathAppend(
			b.pathToken(),
			b.pathConfig(),
			b.pathKeys(),
			b.pathGenerate(),
			b.pathImport(),
			b.pathRotate(),
			b.pathActivate(),
			b.pathKey(),
			b.pathJWKS(),
			b.pathCheck(),
			b.pathClients(),
			b.pathMetrics(),
		),
		Invalidate: b.invalidate,
		InitializeFunc: func(_ context.Context, req *logical.InitializationRequest) error {
			b.startRotation(req.Storage)
			return nil
		},
		PeriodicFunc: func(_ context.Context, req *logical.Request) error {
			b.startRotation(req.Storage)
			return nil
		},
		Clean: func(context.Context) {
			b.rotation.stop()
			b.tokens.close()
			b.pool.close()
		},
	}
	return b
}

// invalidate is what Vault calls when another node has changed an entry.
func (b *backend) invalidate(_ context.Context, key string) {
	name, isClient := strings.CutPrefix(key, clientsPrefix)
	client, entry, _ := strings.Cut(name, "/")
	if !isClient || entry != configEntry && entry != keyringEntry {
		return
	}
	b.memory.drop(client)
	if entry == configEntry {
		b.forget(client)
	}
}

// forget frees a client's connections, its token, and the key in memory.
func (b *backend) forget(client string) {
	b.tokens.drop(client)
	b.pool.forget(client)
}

// HandleRequest checks the input, then lets the framework route it. A panic
// becomes an error: unrecovered, it would end the process and with it the
// requests of every other mount.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, b.recovered(req, p)
		}
	}()
	b.logbook.at(req.MountPoint)
	if err := b.checkInput(req); err != nil {
		return b.respond(&request{Request: req}, err)
	}
	return b.Backend.HandleRequest(ctx, req)
}

// recovered logs where a panic came from. Its value is shown only when it is
// the runtime's own, as any other may hold a secret.
func (b *backend) recovered(req *logical.Request, p any) error {
	what := fmt.Sprintf("%T", p)
	if fault, ok := p.(runtime.Error); ok {
		what = fault.Error()
	}
	b.Logger().Error("panic in a handler: please report this", "mount", req.MountPoint, "path", req.Path,
		"request_id", req.ID, "panic", what, "stack", string(debug.Stack()))
	return fmt.Errorf("internal error: the log of the Vault server says more under request ID %s", req.ID)
}

// request is one call of an endpoint, for one client.
type request struct {
	*logical.Request
	client string // as stored: default for the bare paths
	paths  string // of this client, for remedies: redox/ or redox/clients/acme/
	fields *framework.FieldData
}

type handler func(ctx context.Context, r *request) (*logical.Response, error)

// serve makes a handler an operation: it finds the client and turns what the
// handler returns into a response.
func (b *backend) serve(h handler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		r := &request{Request: req, client: defaultClient, paths: req.MountPoint, fields: d}
		if captured, _ := d.Raw[fieldClient].(string); captured != "" {
			if err := checkClientName(captured, req.MountPoint); err != nil {
				return b.respond(r, err)
			}
			r.client, r.paths = captured, req.MountPoint+clientsPrefix+captured+"/"
		}
		resp, err := h(ctx, r)
		if err != nil {
			return b.respond(r, err)
		}
		return resp, nil
	}
}
