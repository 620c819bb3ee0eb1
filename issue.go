package redox

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// load reads from storage what a token request needs.
func load(ctx context.Context, r *request) (*config, *keyring.Ring, error) {
	c, ring, err := stored(ctx, r)
	if err == nil {
		err = complete(r, c, ring)
	}
	return c, ring, err
}

// complete is an error that lists everything that a token request still lacks,
// in the order in which to do it.
func complete(r *request, c *config, ring *keyring.Ring) error {
	var missing []string
	if ring.Active() == nil {
		missing = append(missing, "no signing key: write to "+r.paths+"keys/generate, then give Redox the public half (vault read -field=jwks "+r.paths+"keys)")
	}
	if c == nil {
		missing = append(missing, "no client ID: write client_id to "+r.paths+"config")
	}
	if len(missing) > 0 {
		return invalid("%s", strings.Join(missing, "; "))
	}
	return nil
}

// issued is an access token and what it was issued for.
type issued struct {
	*accessToken
	clientID string
	keyID    keyring.ID // that signed the request
}

// issue asks Redox for a token to hand out. Redox is many machines, and some
// learn of a new key later than the one that proved it: so for retire_after
// after a switch, a refusal because the key is unknown is tried once more with
// the key that signed before.
func (b *backend) issue(ctx context.Context, r *request, c *config, ring *keyring.Ring) (*issued, error) {
	way, err := b.pool.lane(r.client, c.CAPEM)
	if err != nil {
		return nil, err
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
	if err == nil {
		return b.signed(r, c, first, t), nil
	}
	if !isUnknownKey(err) {
		return nil, err
	}
	if c.PlatformClient != "" && way.mayDoubt(b.now()) {
		b.rotation.doubt(r.client)
	}
	if second == nil {
		return nil, err
	}
	t, secondErr := b.request(ctx, r, c, second, way, way.reads)
	if secondErr != nil {
		return nil, err
	}
	if second.State == keyring.Retiring {
		way.noteUnknown(string(first.ID), b.now())
		b.log(r).Warn("Redox does not know the active key everywhere yet: the one before it signs", "key_id", first.ID, "signed_with", second.ID)
	}
	return b.signed(r, c, second, t), nil
}

// signed is the token of a request that k signed, which is counted if k is not
// the active key.
func (b *backend) signed(r *request, c *config, k *keyring.Key, t *accessToken) *issued {
	if k.State == keyring.Retiring {
		b.metrics.retiring.WithLabelValues(r.client).Inc()
	}
	return &issued{t, c.ClientID, k.ID}
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
		at := b.now()
		signed, err := assertion.Sign(private, assertion.Claims{
			ClientID: c.ClientID, KeyID: string(k.ID), Audience: c.audience(), Scope: c.Scope,
			ID: assertion.NewID(), IssuedAt: at.Add(-seconds(c.ClockLeeway)), TTL: seconds(c.AssertionTTL),
		})
		if err != nil {
			return nil, err
		}
		sent := b.now()
		t, err := exchange(ctx, way.http, c.tokenURL(), signed, c.Scope)
		if err == nil {
			t.RequestedAt = at
		}
		now := b.now()
		b.metrics.answered(r.client, now.Sub(sent), t, err)
		if err == nil && t.left(now) < time.Second {
			return nil, &upstreamError{Kind: broken, What: "the token had ended before it came"}
		}
		return t, err
	}
	for tries := int64(0); ; tries++ {
		t, err := attempt()
		if err == nil {
			return t, nil
		}
		var up *upstreamError
		if !errors.As(err, &up) || !up.transient() || tries >= c.MaxRetries || !pause(ctx, tries, up.RetryAfter) {
			return nil, &tokenError{err: err, config: c, keyID: k.ID, paths: r.paths}
		}
		b.metrics.retries.WithLabelValues(r.client).Inc()
	}
}

// pause waits before the next attempt, 100 ms doubled with each and up to a
// half less at random, but no less than the server asks for; false means that
// there is no time for it.
func pause(ctx context.Context, tries int64, least time.Duration) bool {
	wait := 100 * time.Millisecond << tries
	wait -= rand.N(wait / 2) //nolint:gosec // spreads load, guards nothing
	wait = max(wait, least)
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
