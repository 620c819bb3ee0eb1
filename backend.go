// Package redox is a Vault secrets engine that holds the private keys of Redox OAuth API
// keys and returns an access token on each read of token.
//
// The endpoints are in path_*.go. All endpoints of a mount share one engine (engine.go).
// docs/architecture.md says what is in which file and folder.
package redox

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

const help = `
The Redox secrets engine holds the private key and the client ID of a Redox
OAuth API key, and returns an access token on each read of token.

Set it up in this order:

    vault write -f redox/keys/generate
    vault read -field=jwks redox/keys        # paste into Redox's dashboard
    vault write redox/config client_id=…     # the dashboard shows it
    vault read redox/check
    vault read redox/token

Anything between Vault and Redox that a token_url names, such as a gateway, has
to be allowed first: vault write redox/hosts allowed=gateway.example

These paths, except hosts, exist a second time below clients/<name>/, for
further OAuth API keys: clients/acme/config, clients/acme/token and so on.
`

var _ logical.Factory = Factory

// backend is one mount, as Vault sees it.
type backend struct {
	*framework.Backend
	*engine
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
	b := &backend{engine: newEngine()}
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		Help:           strings.TrimSpace(help),
		PathsSpecial: &logical.Paths{
			Root:            []string{hostsKey},
			SealWrapStorage: []string{clientsPrefix},
			Unauthenticated: []string{"jwks", "jwks/", "clients/+/jwks", "clients/+/jwks/"},
		},
		// The first pattern that matches wins. So token, which is read most often,
		// stands first, and keys/generate stands before keys/<key_id>.
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
			b.pathHosts(),
			b.pathMetrics(),
		),
		Invalidate: func(_ context.Context, key string) { b.invalidate(key) },
		InitializeFunc: func(_ context.Context, req *logical.InitializationRequest) error {
			if trouble := redoxapi.ProxyTrouble(); trouble != "" {
				b.Logger().Warn(trouble)
			}
			b.startRotation(req.Storage)
			return nil
		},
		PeriodicFunc: func(_ context.Context, req *logical.Request) error {
			b.entries.views.unused(b.now())
			b.startRotation(req.Storage)
			return nil
		},
		Clean: func(context.Context) { b.end() },
	}
	b.log.logger, b.writeSafe = b.Logger, b.WriteSafeReplicationState
	return b
}

// invalidate drops what memory holds of an entry that another node has changed.
func (e *engine) invalidate(key string) {
	name, isClient := strings.CutPrefix(key, clientsPrefix)
	client, entry, _ := strings.Cut(name, "/")
	switch {
	case key == hostsKey:
		e.hostsChanged()
	case isClient && entry == configEntry:
		e.forget(client)
	case isClient && entry == keyringEntry:
		e.entries.views.forget(client)
	}
}

// HandleRequest checks the input, then lets the framework route the request. It turns a
// panic into an error: otherwise the panic would end the process, and with it the requests
// of the other mounts that the process serves.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	b.log.setMount(req.MountPoint)
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, b.log.panicked(req.Path, req.ID, p)
		}
	}()
	ctx, id, err := b.life.begin(ctx)
	if err != nil {
		return respond(err, req.ID)
	}
	defer b.life.done(id)
	if len(req.Data) > 0 {
		if err := checkInput(b.Route(req.Path), req); err != nil {
			return respond(err, req.ID)
		}
	}
	return b.Backend.HandleRequest(ctx, req)
}
