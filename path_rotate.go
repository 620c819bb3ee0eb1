package redox

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const rotateHelp = `
Replaces the signing key. The rest happens automatically: the engine generates the
next key, publishes it, waits publish_window unless you paste it by hand, proves
it by real token requests until Redox accepts one, and then signs with it. The
old key stays published for retire_after and is then deleted. No read of token
fails meanwhile. If a key is pending already, it is the next one. In an empty
ring this is the same as keys/generate.
`

func (e *engine) pathRotate() []*framework.Path {
	return e.path("keys/rotate", "rotate key", nil, rotateHelp, ops{
		logical.UpdateOperation: e.mutate(e.rotateKey, "Replace the signing key.", added),
	})
}

func (e *engine) rotateKey(ctx context.Context, r *request) (*logical.Response, error) {
	ring, err := loadRing(ctx, r.Storage, r.client)
	if err != nil {
		return nil, err
	}
	if ring.Active() == nil {
		return e.generateKey(ctx, r)
	}
	var k *keyring.Key
	if ring.Pending() == nil {
		if err := ring.CanAdd(); err != nil {
			return nil, err
		}
		if k, err = e.generate(ctx, r, successorBits(ring.Active().Bits)); err != nil {
			return nil, err
		}
	}
	return e.beginRotation(ctx, r, k)
}

// beginRotation begins the rotation to the pending key, or to k when no key is
// pending. The client's worker does the rest.
func (e *engine) beginRotation(ctx context.Context, r *request, k *keyring.Key) (*logical.Response, error) {
	var c *config
	err := e.update(ctx, r, func(s *state) (err error) {
		if err := complete(r.paths, s.Config, s.Ring); err != nil {
			return err
		}
		if s.Ring.Pending() == nil {
			if k == nil {
				return invalid("the pending key was deleted or activated meanwhile: repeat")
			}
			if _, _, err := s.Ring.Add(k, e.now()); err != nil {
				return err
			}
		}
		if k, err = s.Ring.Rotate(); err != nil {
			return err
		}
		c = s.Config
		s.Ring.Settle(c.policy(), e.now())
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.log.of(r.client, r.ID).Info("rotation begins", "key_id", k.ID)
	data := showKeyWithID(k, nil, nil)
	data["next"] = waitsFor(r.paths, c, k)
	if c.policy().Publishing != keyring.Manual {
		data["next"] = "nothing: " + waitsFor(r.paths, c, k)
	}
	return &logical.Response{Data: data}, nil
}
