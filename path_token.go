package redox

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const tokenHelp = `
Returns a fresh access token for Redox's API. Send it as "Authorization:
Bearer <access_token>". It lives expires_in seconds, five minutes at Redox, and
cannot be revoked. ttl says when to come back for the next, a minute before
this one ends; Vault Agent and Vault Secrets Operator obey it by themselves.
`

func (b *backend) pathToken() []*framework.Path {
	output := ok("A fresh access token", map[string]*framework.FieldSchema{
		"access_token":        {Type: framework.TypeString, Required: true, Description: "The access token", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		"token_type":          {Type: framework.TypeString, Required: true, Description: "Bearer"},
		"expires_in":          {Type: framework.TypeInt64, Required: true, Description: "Seconds the token has left"},
		"expires_at":          {Type: framework.TypeTime, Required: true, Description: "When the token ends, RFC 3339 in UTC"},
		"scope":               {Type: framework.TypeString, Description: "What Redox granted, when it says so"},
		"client_id":           {Type: framework.TypeString, Required: true, Description: "Client ID the token is for"},
		"key_id":              {Type: framework.TypeString, Required: true, Description: "Key that signed the request"},
		"ttl":                 {Type: framework.TypeInt64, Required: true, Description: "Seconds until a reader should come back"},
		"rotation_period":     {Type: framework.TypeInt64, Required: true, Description: "Same as expires_in; makes Vault Agent obey ttl"},
		"last_vault_rotation": {Type: framework.TypeTime, Required: true, Description: "When the token was issued, RFC 3339 in UTC"},
	})
	return b.path("token", "token", nil, tokenHelp, map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: b.read(b.readToken, "Read a fresh access token.", output),
	})
}

func (b *backend) readToken(ctx context.Context, r *request) (*logical.Response, error) {
	c, ring, err := load(ctx, r)
	if err != nil {
		return nil, err
	}
	issued := b.now().UTC()
	t, k, err := b.issue(ctx, r, c, ring)
	if err != nil {
		return nil, err
	}
	// The token's life began somewhere between the request and now: count from
	// the request, so that no reader is promised more than there is.
	expires := issued.Add(t.Lifetime)
	left := int64(max(expires.Sub(b.now()), 0) / time.Second)
	data := map[string]any{
		"access_token":        t.Value,
		"token_type":          "Bearer",
		"expires_in":          left,
		"expires_at":          expires.Truncate(time.Second).Format(time.RFC3339),
		"client_id":           c.ClientID,
		"key_id":              string(k.ID),
		"ttl":                 comeBack(left),
		"rotation_period":     left,
		"last_vault_rotation": issued.Format(time.RFC3339),
	}
	if t.Scope != "" {
		data["scope"] = t.Scope
	}
	resp := &logical.Response{Data: data}
	if t.Assumed {
		resp.AddWarning("Redox's answer has no usable expires_in: five minutes are assumed")
	}
	return resp, nil
}

// comeBack returns after how many seconds a reader should fetch the next
// token: a margin of at most a minute and a fifth before the end, and up to
// a thirtieth less at random, so that readers that started together drift apart.
func comeBack(left int64) int64 {
	ttl := left - min(60, left/5)
	if spread := left / 30; spread > 0 {
		ttl -= rand.Int64N(spread + 1) //nolint:gosec // spreads load, guards nothing
	}
	return max(ttl, 1)
}

// load returns what a token request needs, or an error that lists everything
// that is still missing, in the order in which to do it.
func load(ctx context.Context, r *request) (*config, *keyring.Ring, error) {
	c, ring, err := stored(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	var missing []string
	if ring.Active() == nil {
		missing = append(missing, "no signing key: write to "+r.paths+"keys/generate, then give Redox the public half (vault read -field=jwks "+r.paths+"keys)")
	}
	if c == nil {
		missing = append(missing, "no client ID: write client_id to "+r.paths+"config")
	}
	if len(missing) > 0 {
		return nil, nil, invalid("%s", strings.Join(missing, "; "))
	}
	return c, ring, nil
}

// issue asks Redox for a token to hand out. Redox is many machines, and some
// learn of a new key later than the one that proved it: so for retire_after
// after a switch, a refusal because the key is unknown is tried once more with
// the key that signed before. It returns the key that was taken.
func (b *backend) issue(ctx context.Context, r *request, c *config, ring *keyring.Ring) (*accessToken, *keyring.Key, error) {
	way, err := b.pool.lane(r.client, c.CAPEM)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, seconds(c.RequestTimeout))
	defer cancel()
	first, second := ring.Active(), ring.NewestRetiring()
	if second != nil && !b.now().Before(first.ActivatedAt.Add(seconds(c.RetireAfter))) {
		second = nil
	}
	if second != nil && way.isUnknown(string(first.ID), b.now()) {
		first, second = second, first
	}
	t, err := b.request(ctx, r, c, first, way, way.reads)
	if !isUnknownKey(err) {
		return t, first, err
	}
	if c.PlatformClient != "" && way.mayDoubt(b.now()) {
		b.rotation.doubt(r.client)
	}
	if second == nil {
		return nil, nil, err
	}
	t, secondErr := b.request(ctx, r, c, second, way, way.reads)
	if secondErr != nil {
		return nil, nil, err
	}
	if second.State == keyring.Retiring {
		way.noteUnknown(string(first.ID), b.now())
		b.Logger().Warn("Redox does not know the active key everywhere yet: the one before it signs", "mount", r.MountPoint,
			"client", r.client, "key_id", first.ID, "signed_with", second.ID, "request_id", r.ID)
	}
	return t, second, nil
}

// prove asks Redox for a token to throw away.
func (b *backend) prove(ctx context.Context, r *request, c *config, k *keyring.Key) (*accessToken, error) {
	way, err := b.pool.lane(r.client, c.CAPEM)
	if err != nil {
		return nil, err
	}
	return b.request(ctx, r, c, k, way, way.proofs)
}

// request asks Redox for a token, signing with k. A passing failure is tried
// again, each time with a new assertion, within request_timeout.
func (b *backend) request(ctx context.Context, r *request, c *config, k *keyring.Key, way *lane, places []chan struct{}) (*accessToken, error) {
	private, err := way.private(k.PKCS8, k.Private)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, seconds(c.RequestTimeout))
	defer cancel()

	attempt := func() (*accessToken, error) {
		leave, err := enter(ctx, places)
		if err != nil {
			return nil, err
		}
		defer leave()
		ctx, cancel := context.WithTimeout(ctx, c.attemptTimeout())
		defer cancel()
		signed, err := assertion.Sign(private, assertion.Claims{
			ClientID: c.ClientID, KeyID: string(k.ID), Audience: c.audience(), Scope: c.Scope,
			ID: assertion.NewID(), IssuedAt: b.now().Add(-seconds(c.ClockLeeway)), TTL: seconds(c.AssertionTTL),
		})
		if err != nil {
			return nil, err
		}
		return exchange(ctx, way.http, c.tokenURL(), signed, c.Scope)
	}
	for tries := int64(0); ; tries++ {
		t, err := attempt()
		if err == nil {
			return t, nil
		}
		var up *upstreamError
		if !errors.As(err, &up) || !up.transient() || tries >= c.MaxRetries || !pause(ctx, tries) {
			return nil, &tokenError{err: err, config: c, keyID: k.ID, paths: r.paths}
		}
	}
}

// pause waits before the next attempt, 100 ms doubled with each and up to a
// half less at random; false means that there is no time for it.
func pause(ctx context.Context, tries int64) bool {
	wait := 100 * time.Millisecond << tries
	wait -= rand.N(wait / 2) //nolint:gosec // spreads load, guards nothing
	if deadline, limited := ctx.Deadline(); limited && time.Until(deadline) <= wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
