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
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// authority returns the config of the client's platform client, or an error if the
// platform client may not publish the client's keys. Only the platform client's config can
// allow that: otherwise whoever may write a client's config could use the rights of any
// platform client. If manages does not list the client, the error does not tell whether the
// platform client exists.
func authority(ctx context.Context, r *request, c *config) (*config, error) {
	p, err := loadConfig(ctx, r.Storage, c.PlatformClient)
	if err != nil {
		return nil, err
	}
	entry := r.client + "=" + c.ClientID
	if p == nil || !slices.Contains(p.Manages, entry) {
		return nil, invalid("the config of client %s, the platform client, does not list %s in manages",
			c.PlatformClient, entry)
	}
	if p.tokenURL() != c.tokenURL() || p.audience() != c.audience() {
		return nil, invalid("token URL and audience must be those of client %s, the platform client", c.PlatformClient)
	}
	return p, nil
}

// publishTo returns a digest of which list of keys the engine updates, and with whose rights.
// [keyring.Ring.PublishTo] compares the digest with the stored one. The digest is empty without
// platform_client.
func publishTo(ctx context.Context, r *request, c *config) (string, error) {
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

// change applies the outcome of a step to the ring that is stored now.
type change func(ring *keyring.Ring, now time.Time) error

// publish tries to bring Redox's list of the client's public keys up to date. It returns
// the change that records the result in the ring.
func (e *engine) publish(ctx context.Context, r *request, s *state) change {
	var list []json.RawMessage
	var added []keyring.ID
	proved := s.Ring.Publication.Proved
	p, err := authority(ctx, r, s.Config)
	if err == nil && !proved {
		err = e.proveOwner(ctx, r, s, p)
		proved = err == nil
	}
	if err == nil {
		list, added, err = e.updateList(ctx, r, s, p)
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

// proveOwner proves that the API key is the client's: it requests a token with the
// client's ID and active key, at the token URL of the platform client, whose config is p.
// Without that proof the engine must not change the keys of that API key.
func (e *engine) proveOwner(ctx context.Context, r *request, s *state, p *config) error {
	as := *p
	as.ClientID, as.Scope = s.Config.ClientID, s.Config.Scope
	c, err := e.clientNamed(r, s.Config.PlatformClient, &as)
	if err != nil {
		return err
	}
	c.name = r.client // use the platform client's connection, but count for this client
	_, err = c.prove(ctx, s.Ring.Active())
	switch {
	case err == nil:
		return nil
	case isUnknownKey(err):
		return fmt.Errorf("Redox must know the active key before the engine can publish others, so paste that one "+
			"once: %w", withoutAdvice(err))
	}
	return fmt.Errorf("proving the active key: %w", withoutAdvice(err))
}

// updateList reads Redox's list. If the list is not up to date, updateList updates it and
// reads it again. list is what it read last. added are the keys that the list lacked, also
// if the update failed, or was not made because others took the ID of a key.
func (e *engine) updateList(
	ctx context.Context, r *request, s *state, p *config,
) (list []json.RawMessage, added []keyring.ID, err error) {
	api, err := e.platform(ctx, r, s.Config.PlatformClient)
	if err != nil {
		return nil, nil, err
	}
	release, err := e.proofs.acquire(ctx, r.client, r.worker)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, seconds(p.RequestTimeout))
	defer cancel()
	id := s.Config.ClientID
	found, err := api.Read(ctx, id)
	if err == nil {
		err = ignoresList(found)
	}
	if err != nil {
		return nil, nil, err
	}
	merged, added, changed, err := s.Ring.Merge(found.Keys)
	if err != nil || !changed {
		return found.Keys, added, err
	}
	if err := api.Update(ctx, id, merged); err != nil {
		return nil, added, err
	}
	e.log.of(r.client, "").Info("public keys sent to Redox", "client_id", id, "added", added, "listed", len(merged))
	if found, err = api.Read(ctx, id); err != nil {
		return nil, added, fmt.Errorf("the public keys were sent, and cannot be read back: %w", err)
	}
	return found.Keys, added, ignoresList(found)
}

// ignoresList returns an error if Redox ignores the list of the API key.
func ignoresList(k *redoxapi.APIKey) error {
	if k.JWKSURL == "" {
		return nil
	}
	return invalid("somebody gave this API key a JWKS URL, so Redox ignores all other keys: remove the URL in the " +
		"dashboard, or platform_client from config")
}

// platformAPI is Redox's Platform API. It makes a request only while the host is
// allowed.
type platformAPI struct {
	*redoxapi.Platform

	allow func(ctx context.Context) error
}

func (p *platformAPI) Read(ctx context.Context, clientID string) (*redoxapi.APIKey, error) {
	if err := p.allow(ctx); err != nil {
		return nil, err
	}
	return p.Platform.Read(ctx, clientID)
}

func (p *platformAPI) Update(ctx context.Context, clientID string, keys []json.RawMessage) error {
	if err := p.allow(ctx); err != nil {
		return err
	}
	return p.Platform.Update(ctx, clientID, keys)
}

// platform returns the Platform API with a fresh token of the platform client, which is
// called name.
func (e *engine) platform(ctx context.Context, r *request, name string) (*platformAPI, error) {
	v, err := e.entries.view(ctx, r.Storage, name)
	if err != nil {
		return nil, err
	}
	if v.config == nil || v.ring.Active() == nil {
		return nil, invalid("client %s, the platform client, has no key", name)
	}
	t, err := e.issue(ctx, r, name, v)
	if err != nil {
		return nil, fmt.Errorf("client %s, the platform client, gets no token: %w", name, withoutAdvice(err))
	}
	c, err := e.clientNamed(r, name, v.config)
	if err != nil {
		return nil, err
	}
	api, err := c.conn.api.Platform(v.config.tokenURL(), t.Value)
	return &platformAPI{api, c.allow}, err
}

// noteFailure records err in a and returns nil if Redox refused or gave no usable answer,
// or if somebody has to change the settings or Redox's list. It returns any other err. A
// host that is not allowed counts as no answer: once the host is allowed, work goes on
// within a minute.
func noteFailure(a *keyring.Attempts, err error, now time.Time) error {
	var (
		rule     keyring.Rule
		user     userError
		host     *hostError
		refused  *redoxapi.Error
		platform *redoxapi.PlatformError
	)
	switch {
	case isUpstream(err), errors.As(err, &host):
		a.Unanswered(withoutAdvice(err).Error(), now)
	case errors.As(err, &refused), errors.As(err, &platform), errors.As(err, &user), errors.As(err, &rule):
		a.Refused(withoutAdvice(err).Error(), now)
	default:
		return err
	}
	return nil
}
