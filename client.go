package redox

import (
	"context"
	"crypto/rsa"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// client requests tokens from Redox for one Redox OAuth API key. It lives as long as
// one request, or one step of a worker.
type client struct {
	name    string
	paths   string // for advice: redox/ or redox/clients/acme/
	config  *config
	conn    *connection
	metrics *metrics // nil: count nothing
	now     func() time.Time
	log     hclog.Logger

	// allow returns nil if the host of the token URL is allowed and the engine is not being
	// stopped. It is called before each request to Redox, as either can change between two.
	allow func(ctx context.Context) error

	reads, proofs, signing *slots
	chargeTo               string // the client whose slots are taken: for whom the request is
	worker                 bool   // the request is of that client's worker
}

// issued is an access token, with the client ID and the key ID of its request.
type issued struct {
	*redoxapi.Token
	clientID string
	keyID    keyring.ID // that signed the request
}

// complete returns an error that lists what a token request still needs, in the order in
// which a person should provide it. It returns nil if nothing is missing.
func complete(paths string, c *config, ring *keyring.Ring) error {
	var missing []string
	if ring.Active() == nil {
		missing = append(missing, "no signing key: write to "+paths+"keys/generate, then give Redox the public half "+
			"(vault read -field=jwks "+inShell(paths+"keys")+")")
	}
	if c == nil {
		missing = append(missing, "no client ID: write client_id to "+paths+"config")
	}
	if len(missing) > 0 {
		return invalid("%s", strings.Join(missing, "; "))
	}
	return nil
}

// issue requests a token with the active key of v's ring. If Redox does not know that
// key, issue tries the retiring key that was replaced last, of those that Redox accepted
// with this config. If that succeeds, the retiring key is tried first for a minute (see
// unknownFor). This helps in two cases: Redox has many machines, and some learn of a new key
// later than others; or somebody has activated a key that Redox does not know. unknownKey
// reports whether Redox did not know the key that was tried first.
func (c *client) issue(ctx context.Context, v *view) (t *issued, unknownKey bool, err error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	first, second := v.ring.Active(), v.ring.NewestAccepted(v.where)
	if second != nil && c.conn.isUnknown(first.ID, c.now()) {
		first, second = second, first
	}
	t, err = c.requestWith(ctx, v, first)
	if err == nil || !isUnknownKey(err) {
		return t, false, err
	}
	if second == nil {
		return nil, true, err
	}
	t, secondErr := c.requestWith(ctx, v, second)
	if secondErr != nil {
		return nil, true, err
	}
	if second.State == keyring.Retiring {
		c.conn.noteUnknown(first.ID, c.now())
		c.log.Warn("Redox, or a part of it, does not know the active key: an earlier key signs",
			"key_id", first.ID, "signed_with", second.ID)
	}
	return t, true, nil
}

// requestWith requests a token, signing with k. If k is a retiring key, requestWith counts
// the token in the metrics.
func (c *client) requestWith(ctx context.Context, v *view, k *keyring.Key) (*issued, error) {
	private, err := v.signer(k)
	if err != nil {
		return nil, err
	}
	from := c.reads
	if c.worker {
		from = c.proofs
	}
	t, err := c.requestToken(ctx, k, private, from)
	if err != nil {
		return nil, err
	}
	if k.State == keyring.Retiring {
		c.metrics.retiringSigned(c.name)
	}
	return &issued{t, c.config.ClientID, k.ID}, nil
}

// prove requests a token with k, to find out whether Redox accepts k. No reader gets the
// token.
func (c *client) prove(ctx context.Context, k *keyring.Key) (*redoxapi.Token, error) {
	private, err := k.Private()
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.limited(ctx)
	defer cancel()
	return c.requestToken(ctx, k, private, c.proofs)
}

// limited returns ctx with request_timeout as its limit. For a worker it adds no limit: a
// worker may wait long for a slot, and each attempt has a limit of its own.
func (c *client) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.worker {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, seconds(c.config.RequestTimeout))
}

// requestToken requests a token, signing with k; private is k's parsed private half. After
// a transient error (see [redoxapi.UpstreamError.Transient]) it pauses, and repeats the request
// with a new assertion, at most max_retries times and only while pause returns true. Its error
// is a [*tokenError].
func (c *client) requestToken(
	ctx context.Context, k *keyring.Key, private *rsa.PrivateKey, from *slots,
) (*redoxapi.Token, error) {
	for tries := int64(0); ; tries++ {
		t, err := c.attempt(ctx, k.ID, private, from)
		if err == nil {
			return t, nil
		}
		var up *redoxapi.UpstreamError
		if !errors.As(err, &up) || !up.Transient() || tries >= c.config.MaxRetries ||
			!pause(ctx, tries, up.RetryAfter, seconds(c.config.RequestTimeout)) {
			return nil, &tokenError{err: err, config: c.config, keyID: k.ID, origin: k.Origin, paths: c.paths}
		}
		c.metrics.retried(c.name)
	}
}

// attempt signs one assertion and sends it once.
func (c *client) attempt(
	ctx context.Context, id keyring.ID, private *rsa.PrivateKey, from *slots,
) (*redoxapi.Token, error) {
	release, err := from.acquire(ctx, c.chargeTo, c.worker)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := c.allow(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.attemptTimeout())
	defer cancel()
	signed, at, err := c.sign(ctx, id, private)
	if err != nil {
		return nil, err
	}
	sent := c.now()
	t, err := c.conn.api.Exchange(ctx, c.config.tokenURL(), signed, c.config.Scope)
	if err == nil {
		t.RequestedAt = at
	}
	now := c.now()
	c.metrics.answered(c.name, now.Sub(sent), t, err)
	if err == nil && t.Left(now) < time.Second {
		return nil, &redoxapi.UpstreamError{
			Kind: redoxapi.Unusable, What: "the token had less than a second left when it arrived",
		}
	}
	return t, err
}

// sign waits for the client's turn, then signs an assertion. at is the time of signing; the
// issue time in the assertion is clock_leeway earlier.
func (c *client) sign(
	ctx context.Context, id keyring.ID, private *rsa.PrivateKey,
) (signed string, at time.Time, err error) {
	release, err := c.signing.acquire(ctx, c.chargeTo, true)
	if err != nil {
		return "", at, err
	}
	defer release()
	at = c.now()
	signed, err = assertion.Sign(private, assertion.Claims{
		ClientID: c.config.ClientID, KeyID: string(id), Audience: c.config.audience(), Scope: c.config.Scope,
		ID: assertion.NewID(), IssuedAt: at.Add(-seconds(c.config.ClockLeeway)), TTL: seconds(c.config.AssertionTTL),
	})
	return signed, at, err
}

// pause waits before the next attempt: 100 ms, doubled for each earlier retry, then
// shortened at random by up to half. It waits at least as long as least, which the
// server asked for. It returns true after the wait. It returns false at once if the wait
// would take most or longer, or would outlast ctx, and as soon as ctx is canceled.
func pause(ctx context.Context, tries int64, least, most time.Duration) bool {
	wait := 100 * time.Millisecond << tries
	wait -= rand.N(wait / 2) //nolint:gosec // spreads load, guards nothing
	wait = max(wait, least)
	if deadline, limited := ctx.Deadline(); wait >= most || limited && time.Until(deadline) <= wait {
		return false
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}
