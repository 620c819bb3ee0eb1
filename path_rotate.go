package redox

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const rotateHelp = `
Replaces the signing key, by itself from here on: generates the next key,
publishes it, waits publish_window unless it is pasted by hand, proves it by a real
token request until Redox takes it, and signs with it. The old key stays
published for retire_after and is then deleted. No read of token fails
meanwhile. A key that is pending already is the next one. In an empty ring it
is the same as keys/generate.
`

func (b *backend) pathRotate() []*framework.Path {
	return b.path("keys/rotate", "rotate key", nil, rotateHelp, map[logical.Operation]framework.OperationHandler{
		logical.UpdateOperation: b.mutate(b.rotateKey, "Replace the signing key.", added),
	})
}

func (b *backend) rotateKey(ctx context.Context, r *request) (*logical.Response, error) {
	ring, err := getRing(ctx, r)
	if err != nil {
		return nil, err
	}
	if ring.Active() == nil {
		return b.generateKey(ctx, r)
	}
	var k *keyring.Key
	if ring.Pending() == nil {
		if err := ring.CanAdd(); err != nil {
			return nil, err
		}
		if k, err = keyring.Generate(successorBits(ring.Active().Bits), b.now()); err != nil {
			return nil, err
		}
	}
	return b.beginRotation(ctx, r, k)
}

// beginRotation lets the pending key rotate, else adds k to do so.
func (b *backend) beginRotation(ctx context.Context, r *request, k *keyring.Key) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ring, err := load(ctx, r)
	if err != nil {
		return nil, err
	}
	if ring.Pending() == nil {
		if k == nil {
			return nil, invalid("the pending key was deleted or activated meanwhile: repeat")
		}
		if _, _, err := ring.Add(k, b.now()); err != nil {
			return nil, err
		}
	}
	if k, err = ring.Rotate(); err != nil {
		return nil, err
	}
	ring.Settle(c.policy(), b.now()) // the rotator sees to what is left
	if err := b.putRing(ctx, r, ring); err != nil {
		return nil, err
	}
	b.rotation.wake()
	b.log(r).Info("rotation begins", "key_id", k.ID)
	data := describe(k, c)
	data[fieldKeyID] = string(k.ID)
	data["next"] = waitsFor(r, c, k)
	if c.policy().Way != keyring.Pasted {
		data["next"] = "nothing: " + waitsFor(r, c, k)
	}
	return &logical.Response{Data: data}, nil
}

// waitsFor says what a rotating key waits for, and who has to do it.
func waitsFor(r *request, c *config, k *keyring.Key) string {
	p := c.policy()
	var text string
	switch {
	case p.Way == keyring.Pasted:
		text = "give Redox the public half (vault read -field=jwks " + r.paths + "keys) in the dashboard and press Save Changes; key " + string(k.ID) + " then signs by itself"
	case !k.Published(p):
		text = "the engine publishes key " + string(k.ID) + " at Redox (publication tells how that goes) and proves it " + p.Window.String() + " later"
	default:
		where := r.paths + "jwks"
		if p.Way == keyring.Pushed {
			where = "Redox"
		}
		text = "key " + string(k.ID) + " is published at " + where + " since " + timestamp(k.PublishedAt) + " and is proved from " + k.ProvableFrom(p).Format(time.RFC3339)
	}
	if k.Proofs.Failure != "" {
		text += "; the last proof, at " + timestamp(k.Proofs.LastAt) + ", failed: " + k.Proofs.Failure + "; the next is at " + timestamp(k.Proofs.NextAt)
	}
	return text
}

// publication says how Redox gets to know the ring's public keys, and whether
// it does.
func publication(r *request, c *config, ring *keyring.Ring) string {
	p := ring.Publication
	switch {
	case c == nil || c.policy().Way == keyring.Pasted:
		return "by hand: paste jwks into Redox's dashboard and press Save Changes"
	case c.PublicJWKS:
		return "Redox fetches " + r.paths + "jwks"
	case p == nil || p.LastAt.IsZero():
		return "about to begin"
	case p.Failure != "" && p.NextAt.IsZero():
		return "not up to date: " + p.Failure + "; tried at " + timestamp(p.LastAt) + ", and about to be tried again"
	case p.Failure != "":
		return "not up to date: " + p.Failure + "; tried at " + timestamp(p.LastAt) + ", the next time is " + timestamp(p.NextAt)
	case p.NextAt.IsZero():
		return "about to be updated"
	}
	return "up to date: Redox listed every key at " + timestamp(p.ReadAt)
}
