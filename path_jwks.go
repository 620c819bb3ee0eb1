package redox

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const jwksHelp = `
Serves the public JWK Set, without a Vault token, when public_jwks is set in
config. Give Redox its URL, …/v1/redox/jwks, instead of a pasted set: then
nobody has to paste a new key. Without public_jwks it is a 404.
`

func (e *engine) pathJWKS() []*framework.Path {
	output := map[int][]framework.Response{http.StatusOK: {{
		Description: "The public JWK Set (RFC 7517)", MediaType: "application/jwk-set+json",
		Fields: schemas{
			"keys": {Type: framework.TypeSlice, Description: "Public keys"},
		},
	}}}
	serve := e.read(e.readJWKS, "Fetch the public JWK Set.", output)
	return e.path("jwks/?", "jwks", nil, jwksHelp, ops{
		logical.ReadOperation:   serve,
		logical.HeaderOperation: serve,
	})
}

// readJWKS answers anybody, also without a Vault token. It writes nothing, sends Redox
// nothing, and parses no private key. Its errors say nothing about storage. They are logged
// at level debug or not at all: otherwise anybody could fill the log.
func (e *engine) readJWKS(ctx context.Context, r *request) (*logical.Response, error) {
	if r.WrapInfo != nil && r.WrapInfo.TTL > 0 {
		return nil, invalid("a public JWK Set cannot be wrapped: leave X-Vault-Wrap-TTL out")
	}
	v, err := e.entries.view(ctx, r.Storage, r.client)
	if err != nil {
		e.log.of(r.client, r.ID).Debug("the JWK Set cannot be read", "error", err)
		return nil, bareError("the JWK Set cannot be read")
	}
	if v.config == nil || !v.config.PublicJWKS {
		return nil, notFound("there is no public JWK Set here")
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:         http.StatusOK,
		logical.HTTPContentType:        "application/jwk-set+json",
		logical.HTTPRawBody:            v.jwks,
		logical.HTTPCacheControlHeader: fmt.Sprintf("public, max-age=%d", v.config.maxAge()),
	}}, nil
}

// maxAge returns for how many seconds a cache may keep the set: at most half of
// publish_window, so that a cache has a new key before a rotation proves it.
func (c *config) maxAge() int64 { return min(300, c.PublishWindow/2) }
