// Command nothing is the least that an external secrets engine can do: it
// answers a read with a constant, from memory. What it reaches is what Vault
// leaves to any plugin, so scripts/bench measures against it.
package main

import (
	"context"
	"os"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		os.Exit(1)
	}
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	read := func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		return &logical.Response{Data: map[string]any{"value": "constant"}}, nil
	}
	raw := func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		return &logical.Response{Data: map[string]any{
			logical.HTTPStatusCode: 200, logical.HTTPContentType: "application/json", logical.HTTPRawBody: []byte("{}"),
		}}, nil
	}
	path := func(pattern string, f framework.OperationFunc) *framework.Path {
		return &framework.Path{Pattern: pattern, Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{Callback: f},
		}}
	}
	b := &framework.Backend{
		BackendType:  logical.TypeLogical,
		PathsSpecial: &logical.Paths{Unauthenticated: []string{"raw"}},
		Paths:        []*framework.Path{path("value", read), path("raw", raw)},
	}
	return b, b.Setup(ctx, conf)
}
