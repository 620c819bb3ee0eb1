package redox

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

const clientsHelp = `
Lists the further clients that have a config or a key: one for each OAuth API
key of Redox, besides the one that has the bare paths, such as redox/token.
`

const clientHelp = `
Shows what a client has, or deletes its config and its keys. While it has keys
that needs force=true, because deleted keys cannot be restored.
`

func (b *backend) pathClients() []*framework.Path {
	attrs := func(suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: "redox", OperationSuffix: suffix}
	}
	return []*framework.Path{{
		Pattern:      "clients/?",
		DisplayAttrs: attrs("clients"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.read(b.listClients, "List the clients.", ok("The clients' names", map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice, Description: "Names, absent when there are none"},
			})),
		},
		HelpSynopsis:    "Lists the clients.",
		HelpDescription: strings.TrimSpace(clientsHelp),
	}, {
		Pattern:      "clients/(?P<" + fieldClient + ">[^/]+)",
		DisplayAttrs: attrs("client"),
		Fields: map[string]*framework.FieldSchema{
			fieldClient: {Type: framework.TypeString, Required: true, Description: "Name of the client."},
			fieldForce:  {Type: framework.TypeBool, Query: true, Description: "On delete: also delete the client's keys. false when absent."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.read(b.readClient, "Read what a client has.", ok("The client", map[string]*framework.FieldSchema{
				"client_id": {Type: framework.TypeString, Required: true, Description: "Client ID, empty while there is no config"},
				"key_ids":   {Type: framework.TypeStringSlice, Required: true, Description: "Key IDs, oldest first"},
			})),
			logical.DeleteOperation: b.mutate(b.deleteClient, "Delete a client's config and keys.", noContent),
		},
		HelpSynopsis:    "Shows or deletes a client.",
		HelpDescription: strings.TrimSpace(clientHelp),
	}}
}

func (b *backend) listClients(ctx context.Context, r *request) (*logical.Response, error) {
	names, err := store.List(ctx, r.Storage, clientsPrefix)
	if err != nil {
		return nil, err
	}
	further := names[:0]
	for _, name := range names {
		if name = strings.TrimSuffix(name, "/"); name != defaultClient {
			further = append(further, name)
		}
	}
	return logical.ListResponse(further), nil
}

func (b *backend) readClient(ctx context.Context, r *request) (*logical.Response, error) {
	c, ring, err := stored(ctx, r)
	if err != nil {
		return nil, err
	}
	if c == nil && len(ring.Keys) == 0 {
		return nil, nil
	}
	clientID := ""
	if c != nil {
		clientID = c.ClientID
	}
	return &logical.Response{Data: map[string]any{"client_id": clientID, "key_ids": ids(ring.Keys)}}, nil
}

// deleteClient removes the config first: a crash in between leaves a client
// that issues nothing and can be deleted again.
func (b *backend) deleteClient(ctx context.Context, r *request) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ring, err := getRing(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(ring.Keys) > 0 && !forced(r) {
		return nil, invalid("client %s has keys, which cannot be restored once deleted: repeat with force=true if that is meant", r.client)
	}
	defer b.rotation.wake() // when it is gone
	defer b.forget(r.client)
	defer b.metrics.forget(r.client)
	if err := b.deleteConfigEntry(ctx, r); err != nil {
		return nil, err
	}
	if err := b.putRing(ctx, r, &keyring.Ring{}); err != nil {
		return nil, err
	}
	b.log(r).Info("client deleted", "keys", len(ring.Keys))
	return nil, nil
}
