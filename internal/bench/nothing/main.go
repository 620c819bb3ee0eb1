// Command nothing is a minimal secrets engine: each read returns a constant. scripts/bench
// compares the real engine with it, because no plugin can do less. The constant at the path
// token has the fields of the engine's response.
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
	token := func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		return &logical.Response{Data: map[string]any{
			"access_token": "bench-3f6c1c0a7e5d4b7f9a1c", "token_type": "Bearer", "expires_in": 299,
			"expires_at": "2026-11-24T09:05:00Z",
			"client_id":  "bench", "key_id": "gJdQNvWI1Nv3sTMfUnViXDIQD0f8cTnh_hsb_qsB5LU", "ttl": 239, "rotation_period": 299,
			"last_vault_rotation": "2026-11-24T09:00:00Z",
		}}, nil
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
		Paths:        []*framework.Path{path("value", read), path("token", token), path("raw", raw)},
	}
	return b, b.Setup(ctx, conf)
}
