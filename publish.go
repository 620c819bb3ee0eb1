package redox

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// authority returns the config of the client's platform client, if that may
// publish the client's keys. Who may is said there and not here: else whoever
// writes the config of one client could put his key on another's API key. A
// platform client that does not exist is answered like one that may not.
func authority(ctx context.Context, r *request, c *config) (*config, error) {
	p, err := getConfig(ctx, &request{Request: r.Request, client: c.PlatformClient})
	if err != nil {
		return nil, err
	}
	entry := r.client + "=" + c.ClientID
	if p == nil || !slices.Contains(p.Manages, entry) {
		return nil, invalid("the config of client %s, the platform client, does not list %s in manages", c.PlatformClient, entry)
	}
	if p.tokenURL() != c.tokenURL() || p.audience() != c.audience() {
		return nil, invalid("token URL and audience must be those of client %s, the platform client", c.PlatformClient)
	}
	return p, nil
}

// aim is what the client's keys are published to, and by whose authority, for
// [keyring.Ring.Aim]. Empty where the engine publishes nothing.
func aim(ctx context.Context, r *request, c *config) (string, error) {
	if c.PlatformClient == "" {
		return "", nil
	}
	by := "nobody"
	p, err := authority(ctx, r, c)
	var user userError
	switch {
	case err == nil:
		by = p.identity()
	case !errors.As(err, &user):
		return "", err
	}
	sum := sha256.Sum256([]byte(c.identity() + "\n" + c.PlatformClient + "\n" + by))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// publish makes Redox's list of the client's public keys what it should be,
// and returns what is then to be noted in the ring.
func (b *backend) publish(ctx context.Context, r *request, c *config, ring *keyring.Ring) func(*keyring.Ring, time.Time) error {
	var list []json.RawMessage
	var added []keyring.ID
	proved := ring.Publication.Proved
	p, err := authority(ctx, r, c)
	if err == nil && !proved {
		err = b.proveOwner(ctx, r, c, p, ring.Active())
		proved = err == nil
	}
	if err == nil {
		list, added, err = b.updateList(ctx, r, c, p, ring)
	}
	return func(ring *keyring.Ring, now time.Time) error {
		ring.Sent(added)
		ring.Publication.Proved = proved
		if err == nil {
			ring.Listed(list, now)
			return nil
		}
		return noteFailure(&ring.Publication.Attempts, err, now)
	}
}

// proveOwner requests a token with the client's active key from where its
// platform client, of config p, gets its own: only who can sign for an API key
// may have its keys changed.
func (b *backend) proveOwner(ctx context.Context, r *request, c, p *config, active *keyring.Key) error {
	way, err := b.pool.lane(c.PlatformClient, p.CAPEM)
	if err != nil {
		return err
	}
	as := *p
	as.ClientID, as.Scope = c.ClientID, c.Scope
	_, err = b.request(ctx, r, &as, active, way, way.proofs)
	switch {
	case err == nil:
		return nil
	case isUnknownKey(err):
		return fmt.Errorf("Redox has to know the active key before the engine may publish others beside it, so that one is pasted once: %w", withoutRemedy(err))
	}
	return fmt.Errorf("proving the active key: %w", withoutRemedy(err))
}

// updateList reads Redox's list, updates it unless it is as it should be, and
// reads what has become of it. added are the keys that were missing, also when
// the update failed.
func (b *backend) updateList(ctx context.Context, r *request, c, p *config, ring *keyring.Ring) (list []json.RawMessage, added []keyring.ID, err error) {
	api, err := b.platform(ctx, r, c.PlatformClient, p)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, seconds(p.RequestTimeout))
	defer cancel()
	found, err := api.read(ctx, c.ClientID)
	if err != nil {
		return nil, nil, err
	}
	if found.JWKSURL != "" {
		return nil, nil, invalid("somebody has given this API key a JWKS URL, and where there is one, Redox looks at no other keys: remove it in the dashboard, or platform_client here")
	}
	merged, added, changed, err := ring.Merge(found.Keys)
	if err != nil || !changed {
		return found.Keys, nil, err
	}
	if err := api.update(ctx, c.ClientID, merged); err != nil {
		return nil, added, err
	}
	b.log(r).Info("public keys sent to Redox", "client_id", c.ClientID, "added", added, "listed", len(merged))
	if found, err = api.read(ctx, c.ClientID); err != nil {
		return nil, added, fmt.Errorf("the public keys were sent, and cannot be read back: %w", err)
	}
	return found.Keys, added, nil
}

// platform returns the Platform API with a fresh token of the platform client.
func (b *backend) platform(ctx context.Context, r *request, name string, p *config) (*platformAPI, error) {
	as := &request{Request: r.Request, client: name}
	ring, err := getRing(ctx, as)
	if err != nil {
		return nil, err
	}
	if ring.Active() == nil {
		return nil, invalid("client %s, the platform client, has no key", name)
	}
	t, err := b.issue(ctx, as, p, ring)
	if err != nil {
		return nil, fmt.Errorf("client %s, the platform client, gets no token: %w", name, withoutRemedy(err))
	}
	way, err := b.pool.lane(name, p.CAPEM)
	if err != nil {
		return nil, err
	}
	return newPlatformAPI(way.http, p.tokenURL(), t.Value)
}

// noteFailure notes why Redox could not be had to do something. What is not
// about Redox, nor about the settings, is returned.
func noteFailure(a *keyring.Attempts, err error, now time.Time) error {
	var (
		rule    keyring.Rule
		user    userError
		no      *refusal
		noAPI   *platformRefusal
		passing *upstreamError
	)
	switch {
	case errors.As(err, &passing):
		a.Unanswered(withoutRemedy(err).Error(), now)
	case errors.As(err, &no), errors.As(err, &noAPI), errors.As(err, &user), errors.As(err, &rule):
		a.Refused(withoutRemedy(err).Error(), now)
	default:
		return err
	}
	return nil
}

// withoutRemedy returns the bare error of a token request, for what is stored:
// a remedy names paths of a mount, which may move.
func withoutRemedy(err error) error {
	var t *tokenError
	if errors.As(err, &t) {
		return t.err
	}
	return err
}
