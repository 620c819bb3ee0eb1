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

const generateHelp = `
Generates an RSA key in Vault. The private key never leaves it. The ring's
first key signs at once; a later one is pending until keys/<key_id>/activate.
`

const importHelp = `
Imports an RSA private key that Redox knows already, as PEM (PKCS#8 or PKCS#1)
or as a private JWK. Read it from a file, so that it stands on no command line:
vault write redox/keys/import private_key=@key.pem. Delete the file then.
`

var added = ok("The key in the ring", keyFields(map[string]*framework.FieldSchema{
	"next": {Type: framework.TypeString, Required: true, Description: "What to do next"},
}))

func (b *backend) pathGenerate() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		fieldKeyBits: {Type: framework.TypeInt, Default: keyring.MinBits, AllowedValues: []any{2048, 3072, 4096}, Description: "Size in bits: 2048, 3072 or 4096. 2048 when absent."},
	}
	return b.path("keys/generate", "generate key", fields, generateHelp, map[logical.Operation]framework.OperationHandler{
		logical.UpdateOperation: b.mutate(b.generateKey, "Generate a key in Vault.", added),
	})
}

func (b *backend) pathImport() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		fieldPrivateKey: {Type: framework.TypeString, Required: true, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true, EditType: "textarea"}, Description: "RSA private key of 2048 to 4096 bits: PEM (PKCS#8 or PKCS#1, also with line ends written as \\n) or a private JWK."},
		fieldKeyID:      {Type: framework.TypeString, Description: "Key ID (kid) under which Redox knows the key. The JWK's kid, else the RFC 7638 thumbprint, when absent or empty."},
	}
	return b.path("keys/import", "import key", fields, importHelp, map[logical.Operation]framework.OperationHandler{
		logical.UpdateOperation: b.mutate(b.importKey, "Import a private key.", added),
	})
}

func (b *backend) generateKey(ctx context.Context, r *request) (*logical.Response, error) {
	bits, given := r.fields.Raw[fieldKeyBits].(int64)
	if !given {
		bits = keyring.MinBits
	}
	if bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, invalid("%s must be 2048, 3072 or 4096", fieldKeyBits)
	}
	ring, err := getRing(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := ring.CanAdd(); err != nil {
		return nil, err
	}
	k, err := keyring.Generate(int(bits), b.now())
	if err != nil {
		return nil, err
	}
	return b.addKey(ctx, r, k)
}

func (b *backend) importKey(ctx context.Context, r *request) (*logical.Response, error) {
	var id keyring.ID
	if s, _ := r.fields.Raw[fieldKeyID].(string); s != "" {
		var err error
		if id, err = keyring.ParseID(s); err != nil {
			return nil, invalid("%s: %s", fieldKeyID, err)
		}
	}
	text, _ := r.fields.Raw[fieldPrivateKey].(string)
	k, err := keyring.Parse(text, id, b.now())
	if err != nil {
		return nil, invalid("%s: %s", fieldPrivateKey, err)
	}
	return b.addKey(ctx, r, k)
}

func (b *backend) addKey(ctx context.Context, r *request, k *keyring.Key) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ring, err := stored(ctx, r)
	if err != nil {
		return nil, err
	}
	k, isNew, err := ring.Add(k, b.now())
	if err != nil {
		return nil, err
	}
	if isNew {
		if err := b.putRing(ctx, r, ring); err != nil {
			return nil, err
		}
		b.rotation.wake()
		b.log(r).Info("key added", "key_id", k.ID, "state", k.State, "origin", k.Origin)
	}
	data := describe(k, nil)
	data[fieldKeyID] = string(k.ID)
	data["next"] = nextStep(r, c, k)
	return &logical.Response{Data: data}, nil
}

func nextStep(r *request, c *config, k *keyring.Key) string {
	paste := "give Redox the public half (vault read -field=jwks " + r.paths + "keys) in the dashboard and press Save Changes"
	switch {
	case k.State == keyring.Pending && c != nil && c.policy().Way != keyring.Pasted:
		return "write to " + r.paths + "keys/rotate, and the key signs when Redox knows it; or, when you know that it does, to " + r.paths + "keys/" + string(k.ID) + "/activate"
	case k.State == keyring.Pending:
		return paste + ", then write to " + r.paths + "keys/" + string(k.ID) + "/activate"
	case k.State == keyring.Active:
		return paste + ", write client_id to " + r.paths + "config, then read " + r.paths + "check"
	}
	return "nothing: the key is in the ring already, as " + string(k.State)
}
