package redox

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const fieldForce = "force"

const keyHelp = `
Shows the public half of one key, or deletes the key. A deleted key cannot be
restored. The active key can be deleted only if it is the only one, with
force=true.
`

const activateHelp = `
Makes a key the one that signs. First it is proved: a token is requested with
it, and thrown away. If Redox refuses, nothing changes and the old key goes on
signing. The replaced key stays published as retiring; activating it again is
the way back. force=true skips the proof.
`

func keyIDField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Key ID (kid)."}
}

const keyPattern = "keys/(?P<" + fieldKeyID + ">[^/]+)"

func (b *backend) pathKey() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		fieldKeyID: keyIDField(),
		fieldForce: {Type: framework.TypeBool, Query: true, Description: "On delete: also delete the only, active key, which ends all tokens. false when absent."},
	}
	return b.path(keyPattern, "key", fields, keyHelp, map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: b.read(b.readKey, "Read the public half of a key.", ok("The public half", keyFields(map[string]*framework.FieldSchema{
			"public_key": {Type: framework.TypeString, Required: true, Description: "Public key as PEM"},
			"jwk":        {Type: framework.TypeString, Required: true, Description: "Public key as JWK, JSON text"},
		}))),
		logical.DeleteOperation: b.mutate(b.deleteKey, "Delete a key for good.", noContent),
	})
}

func (b *backend) pathActivate() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		fieldKeyID: keyIDField(),
		fieldForce: {Type: framework.TypeBool, Description: "Skip the proof: Redox may not know the key, and then reads of token fail. false when absent."},
	}
	return b.path(keyPattern+"/activate", "activate key", fields, activateHelp, map[logical.Operation]framework.OperationHandler{
		logical.UpdateOperation: b.mutate(b.activateKey, "Prove a key, then sign with it.", ok("The key that signs now", keyFields(nil))),
	})
}

// find returns the ring and the key that the path names.
func find(ctx context.Context, r *request) (*keyring.Ring, *keyring.Key, error) {
	text, _ := r.fields.Raw[fieldKeyID].(string)
	id, err := keyring.ParseID(text)
	if err != nil {
		return nil, nil, invalid("%s: %s", fieldKeyID, err)
	}
	ring, err := getRing(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	k := ring.Get(id)
	if k == nil {
		return nil, nil, absent("there is no key " + string(id) + ": list " + r.paths + "keys")
	}
	return ring, k, nil
}

func forced(r *request) bool {
	force, _ := r.fields.Raw[fieldForce].(bool)
	return force
}

func (b *backend) readKey(ctx context.Context, r *request) (*logical.Response, error) {
	_, k, err := find(ctx, r)
	if err != nil {
		return nil, err
	}
	c, err := getConfig(ctx, r)
	if err != nil {
		return nil, err
	}
	public, err := k.PublicPEM()
	if err != nil {
		return nil, err
	}
	jwk, err := json.Marshal(k.JWK())
	if err != nil {
		return nil, fmt.Errorf("encoding key %s: %w", k.ID, err)
	}
	data := describe(k, c)
	data[fieldKeyID] = string(k.ID)
	data["public_key"] = public
	data["jwk"] = string(jwk)
	return &logical.Response{Data: data}, nil
}

func (b *backend) deleteKey(ctx context.Context, r *request) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ring, k, err := find(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := ring.Remove(k.ID, forced(r)); err != nil {
		return nil, err
	}
	defer b.rotation.wake()  // when it is gone
	defer b.forget(r.client) // its memory may hold the key
	if err := b.putRing(ctx, r, ring); err != nil {
		return nil, err
	}
	b.log(r).Info("key deleted", "key_id", k.ID, "state", k.State)
	return nil, nil
}

func (b *backend) activateKey(ctx context.Context, r *request) (*logical.Response, error) {
	_, k, err := find(ctx, r)
	if err != nil {
		return nil, err
	}
	var proved *config
	if !forced(r) && k.State != keyring.Active {
		if proved, _, err = load(ctx, r); err != nil {
			return nil, err
		}
		if _, err := b.prove(ctx, r, proved, k); err != nil {
			return nil, fmt.Errorf("key %s stays %s: %w", k.ID, k.State, err)
		}
	}
	return b.promote(ctx, r, k, proved)
}

// promote makes k the active key, unless what was proved has changed since.
func (b *backend) promote(ctx context.Context, r *request, k *keyring.Key, proved *config) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ring, now, err := find(ctx, r)
	if err != nil {
		return nil, err
	}
	if now.N != k.N {
		return nil, invalid("key %s was replaced by another while it was being proved: activate it again", k.ID)
	}
	if proved != nil {
		c, err := getConfig(ctx, r)
		if err != nil {
			return nil, err
		}
		if c == nil || !c.sameIdentity(proved) {
			return nil, invalid("the config changed while key %s was being proved: activate it again", k.ID)
		}
	}
	if now.State != keyring.Active {
		if err := ring.Activate(k.ID, b.now()); err != nil {
			return nil, err
		}
		if err := b.putRing(ctx, r, ring); err != nil {
			return nil, err
		}
		b.rotation.wake()
		b.log(r).Info("signing key changed", "key_id", k.ID, "proved", proved != nil)
	}
	data := describe(now, nil)
	data[fieldKeyID] = string(now.ID)
	return &logical.Response{Data: data}, nil
}
