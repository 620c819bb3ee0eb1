package redox

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const (
	fieldKeyBits    = "key_bits"
	fieldPrivateKey = "private_key"
)

const keysHelp = `
Shows the key ring and its public half. Paste the field jwks into Redox's
dashboard: vault read -field=jwks redox/keys. An empty ring is a 404: generate
the first key with vault write -f redox/keys/generate. Private keys are never
shown.
`

const generateHelp = `
Generates an RSA key in Vault. The private key never leaves it. The ring's
first key signs at once; a later one is pending until keys/<key_id>/activate or
a rotation.
`

const importHelp = `
Imports an RSA private key that Redox knows already, as a private JWK, which
carries its key ID, or as PEM (PKCS#8 or PKCS#1). Read it from a file, so that
it stands on no command line: vault write redox/keys/import
private_key=@key.json, or private_key=@key.pem. Delete the file then.
`

// added is the response of the endpoints that add a key to the ring.
var added = ok("The key in the ring", keyFields(schemas{
	"next": shown(framework.TypeString, "What to do next"),
}))

func (e *engine) pathKeys() []*framework.Path {
	return e.path("keys/?", "keys", nil, keysHelp, ops{
		logical.ReadOperation: e.read(e.readKeys, "Read the ring's state and its public JWK Set.", ok("The key ring", schemas{
			"active":   shown(framework.TypeString, "Key that signs"),
			"pending":  shown(framework.TypeString, "Key that waits to be activated, empty if there is none"),
			"retiring": shown(framework.TypeStringSlice, "Keys that signed before and are still published"),
			"kept": shown(framework.TypeStringSlice, "Retiring keys past retire_after that the engine does not delete by "+
				"itself: rotation says why"),
			"jwks": shown(framework.TypeString, "Public JWK Set as JSON text, for Redox's dashboard"),
			"rotation": shown(framework.TypeString, "What a rotation waits for, or when the next one begins, and when "+
				"replaced keys are deleted"),

			"publication": shown(framework.TypeString, "How Redox learns the keys, and with platform_client whether Redox "+
				"lists them all"),
		})),
		logical.ListOperation: e.read(e.listKeys, "List the key IDs.", ok("The key IDs, oldest first", schemas{
			"keys":     {Type: framework.TypeStringSlice, Description: "Key IDs, absent when there are none"},
			"key_info": {Type: framework.TypeMap, Description: "State, origin, size and dates by key ID"},
		})),
	})
}

func (e *engine) pathGenerate() []*framework.Path {
	fields := schemas{
		fieldKeyBits: {
			Type: framework.TypeInt, Default: keyring.MinBits, AllowedValues: []any{2048, 3072, 4096},
			Description: "Size in bits: 2048, 3072 or 4096. 2048 when absent.",
		},
	}
	return e.path("keys/generate", "generate key", fields, generateHelp, ops{
		logical.UpdateOperation: e.mutate(e.generateKey, "Generate a key in Vault.", added),
	})
}

func (e *engine) pathImport() []*framework.Path {
	fields := schemas{
		fieldPrivateKey: {
			Type: framework.TypeString, Required: true,
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true, EditType: "textarea"},
			Description: "RSA private key of 2048 to 4096 bits: a private JWK, as text or as a JSON object, or PEM " +
				"(PKCS#8 or PKCS#1). One that is quoted, escaped, indented, in base64 or among certificates is " +
				"accepted too.",
		},
		fieldKeyID: {Type: framework.TypeString, Description: "Key ID (kid) under which Redox knows the key. The " +
			"JWK's kid, else the RFC 7638 thumbprint, when absent or empty."},
	}
	return e.path("keys/import", "import key", fields, importHelp, ops{
		logical.UpdateOperation: e.mutate(e.importKey, "Import a private key.", added),
	})
}

func (e *engine) readKeys(ctx context.Context, r *request) (*logical.Response, error) {
	s, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	if len(s.Ring.Keys) == 0 {
		return nil, notFound("there are no keys: write to " + r.paths + "keys/generate")
	}
	jwks, err := s.Ring.JWKS()
	if err != nil {
		return nil, err
	}
	pending := ""
	if k := s.Ring.Pending(); k != nil {
		pending = string(k.ID)
	}
	status := e.statusOf(r, s)
	kept := []*keyring.Key{}
	if s.Config != nil {
		kept = s.Ring.Kept(s.Config.policy(), e.now())
	}
	return &logical.Response{Data: map[string]any{
		"active":   string(s.Ring.Active().ID),
		"pending":  pending,
		"retiring": keyIDs(s.Ring.In(keyring.Retiring)),
		"jwks":     jwks,
		"kept":     keyIDs(kept),
		"rotation": status.rotation(),

		"publication": status.publication(),
	}}, nil
}

func (e *engine) listKeys(ctx context.Context, r *request) (*logical.Response, error) {
	s, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, k := range s.Ring.Keys {
		info[string(k.ID)] = showKey(k, s.Config, s.Ring)
	}
	return logical.ListResponseWithInfo(keyIDs(s.Ring.Keys), info), nil
}

func (e *engine) generateKey(ctx context.Context, r *request) (*logical.Response, error) {
	bits, given := r.fields.Raw[fieldKeyBits].(int64)
	if !given {
		bits = keyring.MinBits
	}
	if bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, invalid("%s must be 2048, 3072 or 4096", fieldKeyBits)
	}
	ring, err := loadRing(ctx, r.Storage, r.client)
	if err != nil {
		return nil, err
	}
	if err := ring.CanAdd(); err != nil {
		return nil, err
	}
	k, err := e.generate(ctx, r, int(bits))
	if err != nil {
		return nil, err
	}
	return e.addKey(ctx, r, k)
}

func (e *engine) importKey(ctx context.Context, r *request) (*logical.Response, error) {
	var id keyring.ID
	if s, _ := r.fields.Raw[fieldKeyID].(string); s != "" {
		var err error
		if id, err = keyring.ParseID(s); err != nil {
			return nil, invalid("%s: %s", fieldKeyID, err)
		}
	}
	text, _ := r.fields.Raw[fieldPrivateKey].(string)
	k, warnings, err := keyring.Parse(text, id, e.now())
	if err != nil {
		return nil, invalid("%s: %s", fieldPrivateKey, err)
	}
	resp, err := e.addKey(ctx, r, k)
	if err != nil {
		return nil, err
	}
	for _, warning := range warnings {
		resp.AddWarning(fieldPrivateKey + ": " + warning)
	}
	return resp, nil
}

func (e *engine) addKey(ctx context.Context, r *request, k *keyring.Key) (*logical.Response, error) {
	var isNew bool
	var c *config
	err := e.update(ctx, r, func(s *state) (err error) {
		c = s.Config
		k, isNew, err = s.Ring.Add(k, e.now())
		return err
	})
	if err != nil {
		return nil, err
	}
	if isNew {
		e.log.of(r.client, r.ID).Info("key added", "key_id", k.ID, "state", k.State, "origin", k.Origin)
	}
	data := showKeyWithID(k, nil, nil)
	data["next"] = afterAdding(r.paths, c, k)
	return &logical.Response{Data: data}, nil
}
