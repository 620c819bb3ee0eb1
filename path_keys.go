package redox

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const fieldKeyID = "key_id"

const keysHelp = `
Shows the key ring and its public half. Field jwks is what Redox's dashboard
takes: vault read -field=jwks redox/keys. An empty ring is a 404: make the
first key with vault write -f redox/keys/generate. Private keys are never
shown.
`

func (b *backend) pathKeys() []*framework.Path {
	return b.path("keys/?", "keys", nil, keysHelp, map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: b.read(b.readKeys, "Read the ring's state and its public JWK Set.", ok("The key ring", map[string]*framework.FieldSchema{
			"active":   {Type: framework.TypeString, Required: true, Description: "Key that signs"},
			"pending":  {Type: framework.TypeString, Required: true, Description: "Key that waits to be activated, empty for none"},
			"retiring": {Type: framework.TypeStringSlice, Required: true, Description: "Keys that signed before and are still published"},
			"jwks":     {Type: framework.TypeString, Required: true, Description: "Public JWK Set as JSON text, for Redox's dashboard"},
			"rotation": {Type: framework.TypeString, Required: true, Description: "What a rotation waits for, or when the next one begins, and when replaced keys are deleted"},

			"publication": {Type: framework.TypeString, Required: true, Description: "How Redox gets to know the keys, and with platform_client whether it lists them all"},
		})),
		logical.ListOperation: b.read(b.listKeys, "List the key IDs.", ok("The key IDs, oldest first", map[string]*framework.FieldSchema{
			"keys":     {Type: framework.TypeStringSlice, Description: "Key IDs, absent when there are none"},
			"key_info": {Type: framework.TypeMap, Description: "State, origin, size and dates by key ID"},
		})),
	})
}

func (b *backend) readKeys(ctx context.Context, r *request) (*logical.Response, error) {
	c, ring, err := stored(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(ring.Keys) == 0 {
		return nil, absent("there are no keys: write to " + r.paths + "keys/generate")
	}
	jwks, err := ring.JWKS()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"active":   first(ring.In(keyring.Active)),
		"pending":  first(ring.In(keyring.Pending)),
		"retiring": ids(ring.In(keyring.Retiring)),
		"jwks":     jwks,
		"rotation": outlook(r, c, ring) + retirements(c, ring),

		"publication": publication(r, c, ring),
	}}, nil
}

// outlook says in a sentence what comes next for the ring.
func outlook(r *request, c *config, ring *keyring.Ring) string {
	k := ring.Pending()
	if c == nil {
		c = &config{}
	}
	due := ring.Due(c.policy())
	switch {
	case k != nil && k.Rotating:
		return "under way: " + waitsFor(r, c, k)
	case k != nil && due.IsZero():
		return "key " + string(k.ID) + " waits for a write to " + r.paths + "keys/" + string(k.ID) + "/activate, or to " + r.paths + "keys/rotate"
	case k != nil:
		return "key " + string(k.ID) + " waits for a write to " + r.paths + "keys/rotate, and no longer than " + timestamp(due)
	case due.IsZero():
		return "off: there is no rotation_period"
	}
	return "the next begins at " + timestamp(due)
}

// retirements says when each replaced key is deleted; without a config none is.
func retirements(c *config, ring *keyring.Ring) string {
	text := ""
	for _, k := range ring.In(keyring.Retiring) {
		if at := publishedUntil(c, k); at != "" {
			text += "; key " + string(k.ID) + " is deleted at " + at
		}
	}
	return text
}

// publishedUntil is when a replaced key is deleted by itself, empty for never.
func publishedUntil(c *config, k *keyring.Key) string {
	if c == nil || k.State != keyring.Retiring {
		return ""
	}
	return timestamp(k.RetiredAt.Add(seconds(c.RetireAfter)))
}

func (b *backend) listKeys(ctx context.Context, r *request) (*logical.Response, error) {
	c, ring, err := stored(ctx, r)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, k := range ring.Keys {
		info[string(k.ID)] = describe(k, c)
	}
	return logical.ListResponseWithInfo(ids(ring.Keys), info), nil
}

func ids(keys []*keyring.Key) []string {
	list := make([]string, 0, len(keys))
	for _, k := range keys {
		list = append(list, string(k.ID))
	}
	return list
}

func first(keys []*keyring.Key) string {
	if len(keys) == 0 {
		return ""
	}
	return string(keys[0].ID)
}

// describe names each public field by hand, so that nothing else can slip out.
// Without a config, nil, nothing is deleted by itself.
func describe(k *keyring.Key, c *config) map[string]any {
	data := map[string]any{
		"state":           string(k.State),
		"origin":          string(k.Origin),
		"key_bits":        k.Bits,
		"created_at":      k.CreatedAt.Format(time.RFC3339),
		"activated_at":    timestamp(k.ActivatedAt),
		"retired_at":      timestamp(k.RetiredAt),
		"published_until": publishedUntil(c, k),
	}
	return data
}

// timestamp is empty for what has not happened.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// keyFields is the schema of describe.
func keyFields(more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		fieldKeyID:        {Type: framework.TypeString, Required: true, Description: "Key ID (kid), by default the RFC 7638 thumbprint"},
		"state":           {Type: framework.TypeString, Required: true, Description: "pending, active or retiring"},
		"origin":          {Type: framework.TypeString, Required: true, Description: "generated (never was outside Vault) or imported"},
		"key_bits":        {Type: framework.TypeInt, Required: true, Description: "Size of the modulus in bits"},
		"created_at":      {Type: framework.TypeString, Required: true, Description: "When it was generated or imported, RFC 3339"},
		"activated_at":    {Type: framework.TypeString, Required: true, Description: "When it began to sign, empty for never"},
		"retired_at":      {Type: framework.TypeString, Required: true, Description: "When it was replaced, empty for not yet"},
		"published_until": {Type: framework.TypeString, Required: true, Description: "Until when a retiring key stays published, and then is deleted; empty for as long as nobody deletes it"},
	}
	for name, schema := range more {
		fields[name] = schema
	}
	return fields
}
