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
restored. The active key can be deleted only when it is the last one, and that
requires force=true.
`

const activateHelp = `
Makes a key the one that signs. The engine proves it first: it requests a token
with that key, and throws the token away. If Redox refuses, nothing changes and the old key goes on
signing. The replaced key stays published as retiring: activate it again to
go back. force=true skips the proof.
`

func keyIDField() *framework.FieldSchema {
	return shown(framework.TypeString, "Key ID (kid).")
}

const keyPattern = "keys/(?P<" + fieldKeyID + ">[^/]+)"

func (e *engine) pathKey() []*framework.Path {
	fields := schemas{
		fieldKeyID: keyIDField(),
		fieldForce: {Type: framework.TypeBool, Query: true, Description: "On delete: delete the key even if it is the " +
			"only one: then no token can be read. false when absent."},
	}
	return e.path(keyPattern, "key", fields, keyHelp, ops{
		logical.ReadOperation: e.read(e.readKey, "Read the public half of a key.", ok("The public half", keyFields(schemas{
			"public_key": shown(framework.TypeString, "Public key as PEM"),
			"jwk":        shown(framework.TypeString, "Public key as JWK, JSON text"),
		}))),
		logical.DeleteOperation: e.mutate(e.deleteKey, "Delete a key for good.", noContent),
	})
}

func (e *engine) pathActivate() []*framework.Path {
	fields := schemas{
		fieldKeyID: keyIDField(),
		fieldForce: {Type: framework.TypeBool, Description: "Activate without a proof. If Redox does not know the key, " +
			"reads of token fail, unless it accepts an earlier key. false when absent."},
	}
	return e.path(keyPattern+"/activate", "activate key", fields, activateHelp, ops{
		logical.UpdateOperation: e.mutate(e.activateKey, "Prove a key, then sign with it.",
			ok("The key that signs now", keyFields(nil))),
	})
}

// find returns the key in ring whose ID is in the path of the request. It returns an error
// if there is none.
func find(r *request, ring *keyring.Ring) (*keyring.Key, error) {
	text, _ := r.fields.Raw[fieldKeyID].(string)
	id, err := keyring.ParseID(text)
	if err != nil {
		return nil, invalid("%s: %s", fieldKeyID, err)
	}
	k := ring.Get(id)
	if k == nil {
		return nil, notFound("there is no key " + string(id) + ": list " + r.paths + "keys")
	}
	return k, nil
}

func forced(r *request) bool {
	force, _ := r.fields.Raw[fieldForce].(bool)
	return force
}

func (e *engine) readKey(ctx context.Context, r *request) (*logical.Response, error) {
	s, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	k, err := find(r, s.Ring)
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
	data := showKeyWithID(k, s.Config, s.Ring)
	data["public_key"] = public
	data["jwk"] = string(jwk)
	return &logical.Response{Data: data}, nil
}

func (e *engine) deleteKey(ctx context.Context, r *request) (*logical.Response, error) {
	var k *keyring.Key
	err := e.update(ctx, r, func(s *state) (err error) {
		if k, err = find(r, s.Ring); err != nil {
			return err
		}
		return s.Ring.Remove(k.ID, forced(r))
	})
	if err != nil {
		return nil, err
	}
	e.tokens.Drop(r.client) // the token may have been requested with this key
	e.log.of(r.client, r.ID).Info("key deleted", "key_id", k.ID, "state", k.State)
	return nil, nil
}

// activateKey proves the key, unless it is active already or force is set, and makes it
// the active one. It returns an error if meanwhile the key was deleted, another key has got its
// ID, the proof does not count for a changed config, or, without force, the key was active and
// no longer is.
func (e *engine) activateKey(ctx context.Context, r *request) (*logical.Response, error) {
	ring, err := loadRing(ctx, r.Storage, r.client)
	if err != nil {
		return nil, err
	}
	k, err := find(r, ring)
	if err != nil {
		return nil, err
	}
	var proved *config
	if !forced(r) && k.State != keyring.Active {
		if proved, err = e.proveKey(ctx, r, k); err != nil {
			return nil, err
		}
	}
	var now *keyring.Key
	changed := false
	err = e.update(ctx, r, func(s *state) (err error) {
		if now, err = find(r, s.Ring); err != nil {
			return err
		}
		switch {
		case now.N != k.N:
			return invalid("key %s was not activated: another key was stored under its ID meanwhile; activate %s again",
				k.ID, k.ID)
		case proved == nil && !forced(r) && now.State != keyring.Active:
			return invalid("key %s was not activated: another key has become active meanwhile; activate %s again", k.ID, k.ID)
		case proved != nil && !s.pointsAs(proved):
			return invalid("key %s was not activated: the config changed while Redox was asked; activate %s again",
				k.ID, k.ID)
		}
		if proved != nil {
			now.Accept(proved.where())
		}
		changed = now.State != keyring.Active
		return s.Ring.Activate(k.ID, e.now())
	})
	if err != nil {
		return nil, err
	}
	if changed {
		e.log.of(r.client, r.ID).Info("signing key changed", "key_id", k.ID, "proved", proved != nil)
	}
	return &logical.Response{Data: showKeyWithID(now, nil, nil)}, nil
}

// proveKey requests a token with k, and returns the config of that request.
func (e *engine) proveKey(ctx context.Context, r *request, k *keyring.Key) (*config, error) {
	s, err := r.loadComplete(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := e.prove(ctx, r, s.Config, k); err != nil {
		return nil, fmt.Errorf("key %s stays %s: %w", k.ID, k.State, err)
	}
	return s.Config, nil
}
