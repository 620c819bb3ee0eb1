// Command signpost is a minimal engine for Redox: a read of token signs a client assertion with
// a key in memory, posts it to the token URL in the parameter url, and returns the answer. It
// has no config and no storage, and accepts any JSON object as an answer. scripts/bench
// compares the real engine with it.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
)

func main() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		os.Exit(1)
	}
	engine := &engine{key: key, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: engine.factory}); err != nil {
		os.Exit(1)
	}
}

type engine struct {
	key  *rsa.PrivateKey
	http *http.Client
}

func (e *engine) factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := &framework.Backend{BackendType: logical.TypeLogical, Paths: []*framework.Path{{
		Pattern: "token",
		Fields:  map[string]*framework.FieldSchema{"url": {Type: framework.TypeString, Query: true}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{Callback: e.read},
		},
	}}}
	return b, b.Setup(ctx, conf)
}

func (e *engine) read(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	tokenURL, _ := d.Get("url").(string)
	signed, err := assertion.Sign(e.key, assertion.Claims{
		ClientID: "bench", KeyID: "bench", Audience: tokenURL, ID: assertion.NewID(), IssuedAt: time.Now(),
		TTL: assertion.MaxTTL,
	})
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {signed},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	return &logical.Response{Data: answer}, nil
}
