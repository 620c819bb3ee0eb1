package redox

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/tokencache"
)

const tokenHelp = `
Returns a fresh access token for Redox's API. Send it as "Authorization:
Bearer <access_token>". It lives expires_in seconds, five minutes at Redox, and
cannot be revoked. ttl says when to come back for the next, about a minute
before this one ends. Vault Agent and Vault Secrets Operator follow it by
themselves.
With reuse_tokens in config, readers share a token until its last minute.
`

func (e *engine) pathToken() []*framework.Path {
	output := ok("A fresh access token", schemas{
		"access_token": {
			Type: framework.TypeString, Required: true, Description: "The access token",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		"token_type":          shown(framework.TypeString, "Bearer"),
		"expires_in":          shown(framework.TypeInt64, "Seconds the token has left"),
		"expires_at":          shown(framework.TypeTime, "When the token ends, RFC 3339 in UTC"),
		"scope":               {Type: framework.TypeString, Description: "What Redox granted, when it says so"},
		"client_id":           shown(framework.TypeString, "Client ID the token is for"),
		"key_id":              shown(framework.TypeString, "Key that signed the request"),
		"ttl":                 shown(framework.TypeInt64, "Seconds until a reader should come back"),
		"rotation_period":     shown(framework.TypeInt64, "Same as expires_in, so that Vault Agent obeys ttl; not config's"),
		"last_vault_rotation": shown(framework.TypeTime, "When the token was requested, RFC 3339 in UTC"),
	})
	return e.path("token", "token", nil, tokenHelp, ops{
		logical.ReadOperation: e.read(e.readToken, "Read a fresh access token.", output),
	})
}

func (e *engine) readToken(ctx context.Context, r *request) (*logical.Response, error) {
	v, err := e.entries.view(ctx, r.Storage, r.client)
	if err == nil {
		err = complete(r.paths, v.config, v.ring)
	}
	if err != nil {
		e.metrics.read(r.client, outcomeOf(ctx, err))
		return nil, err
	}
	read := e.freshToken
	if v.config.ReuseTokens {
		read = e.reusedToken
	}
	resp, outcome, err := read(ctx, r, v)
	if errors.Is(err, logical.ErrReadOnly) {
		return nil, err // the active node counts the read
	}
	if err != nil {
		outcome = outcomeOf(ctx, err)
	}
	e.metrics.read(r.client, outcome)
	return resp, err
}

func (e *engine) freshToken(
	ctx context.Context, r *request, v *view,
) (resp *logical.Response, outcome string, err error) {
	t, err := e.issue(ctx, r, r.client, v)
	if isUnknownKey(err) && e.mayForward(r.client, v) {
		return nil, "", logical.ErrReadOnly
	}
	if err != nil {
		return nil, "", err
	}
	left := t.secondsLeft(e.now())
	return t.response(left, comeBack(left)), outcomeIssued, nil
}

// mayForward reports whether this node forwards a read to the active node. It is called
// when Redox does not know the key that signed the request. Only the active node can
// repair Redox's list of keys, and it does so if Redox does not know the key of its request
// either. The active node must not forward a read: Vault would send it to that node again
// and again. A node forwards at most one read of a client in recheckAfter, and none with
// reuse_tokens, because there one error is for many readers.
func (e *engine) mayForward(client string, v *view) bool {
	return !e.writeSafe() && v.config.PlatformClient != "" && e.rechecks.ask(client, e.now())
}

func (e *engine) reusedToken(
	ctx context.Context, r *request, v *view,
) (resp *logical.Response, outcome string, err error) {
	got, err := e.tokens.Get(ctx, r.client, v.fingerprint, func(ctx context.Context, again bool) (*issued, error) {
		return e.fetchToken(ctx, r, v, again)
	})
	switch {
	case errors.Is(err, tokencache.ErrClosed):
		err = errEnded()
	case errors.Is(err, tokencache.ErrGaveUp):
		err = errAbandoned()
	}
	if err != nil {
		return nil, "", err
	}
	now := e.now()
	resp = got.Token.response(got.Token.secondsLeft(now), tokencache.NextIn(got.Token, now))
	switch {
	case got.Trouble != nil:
		resp.AddWarning("this token is near its end, and there is no newer one: " + got.Trouble.Error())
		return resp, outcomeHeld, nil
	case got.Fetched:
		return resp, outcomeIssued, nil
	}
	return resp, outcomeReused, nil
}

// fetchToken requests a token for the cache. It runs in a goroutine of its own, so it must
// recover from panics. Of a series of errors it logs at most the first, because possibly no
// reader waits for the token.
func (e *engine) fetchToken(ctx context.Context, r *request, v *view, again bool) (t *issued, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, e.log.panicked(r.Path, r.ID, p)
		}
	}()
	if t, err = e.issue(ctx, r, r.client, v); err != nil && !again && ctx.Err() == nil {
		e.log.warnSeldom(e.log.of(r.client, r.ID), r.client, "there is no new token to hand out again", e.now(), err)
	}
	return t, err
}

// secondsLeft returns how many whole seconds of life the token has left.
func (t *issued) secondsLeft(now time.Time) int64 { return int64(max(t.Left(now), 0) / time.Second) }

// response returns the response with the token. left is how long the token remains valid,
// and ttl after how long the reader should come back, both in seconds.
func (t *issued) response(left, ttl int64) *logical.Response {
	at := t.RequestedAt.UTC()
	resp := &logical.Response{Data: map[string]any{
		"access_token":        t.Value,
		"token_type":          "Bearer",
		"expires_in":          left,
		"expires_at":          at.Add(t.Lifetime).Truncate(time.Second).Format(time.RFC3339),
		"client_id":           t.clientID,
		"key_id":              string(t.keyID),
		"ttl":                 ttl,
		"rotation_period":     left,
		"last_vault_rotation": at.Format(time.RFC3339),
	}}
	if t.Scope != "" {
		resp.Data["scope"] = t.Scope
	}
	if t.Assumed {
		resp.AddWarning("Redox's answer has no usable expires_in: five minutes are assumed")
	}
	return resp
}

// comeBack returns after how many seconds a reader should fetch the next token: left minus
// a fifth of it (at most a minute), minus up to a thirtieth of it at random, but at least
// one second. The random part spreads readers that started together.
func comeBack(left int64) int64 {
	ttl := left - min(60, left/5)
	if spread := left / 30; spread > 0 {
		ttl -= rand.Int64N(spread + 1) //nolint:gosec // spreads load, guards nothing
	}
	return max(ttl, 1)
}
