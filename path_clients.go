package redox

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const clientsHelp = `
Lists the clients that have a config or a key, without the default one. Each is
one OAuth API key of Redox. The default client has the bare paths, such as
redox/token.
`

const clientHelp = `
Shows what a client has, or deletes its config and its keys. Deleting a client
that has keys requires force=true, because deleted keys cannot be restored.
`

func (e *engine) pathClients() []*framework.Path {
	attrs := func(suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: "redox", OperationSuffix: suffix}
	}
	return []*framework.Path{{
		Pattern:      "clients/?",
		DisplayAttrs: attrs("clients"),
		Operations: ops{
			logical.ListOperation: e.read(e.readClients, "List the clients.", ok("The clients' names", schemas{
				"keys": {Type: framework.TypeStringSlice, Description: "Names, absent when there are none"},
			})),
		},
		HelpSynopsis:    "Lists the clients.",
		HelpDescription: strings.TrimSpace(clientsHelp),
	}, {
		Pattern:      "clients/(?P<" + fieldClient + ">[^/]+)",
		DisplayAttrs: attrs("client"),
		Fields: schemas{
			fieldClient: shown(framework.TypeString, "Name of the client."),
			fieldForce: {Type: framework.TypeBool, Query: true, Description: "On delete: also delete the client's keys. " +
				"false when absent."},
		},
		Operations: ops{
			logical.ReadOperation: e.read(e.readClient, "Read what a client has.", ok("The client", schemas{
				"client_id": shown(framework.TypeString, "Client ID, empty while there is no config"),
				"key_ids":   shown(framework.TypeStringSlice, "Key IDs, oldest first"),
			})),
			logical.DeleteOperation: e.mutate(e.deleteClient, "Delete a client's config and keys.", noContent),
		},
		HelpSynopsis:    "Shows or deletes a client.",
		HelpDescription: strings.TrimSpace(clientHelp),
	}}
}

func (e *engine) readClients(ctx context.Context, r *request) (*logical.Response, error) {
	names, err := loadClients(ctx, r.Storage)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(slices.DeleteFunc(names, func(name string) bool { return name == defaultClient })), nil
}

func (e *engine) readClient(ctx context.Context, r *request) (*logical.Response, error) {
	s, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	if s.Config == nil && len(s.Ring.Keys) == 0 {
		return nil, nil
	}
	clientID := ""
	if s.Config != nil {
		clientID = s.Config.ClientID
	}
	return &logical.Response{Data: map[string]any{"client_id": clientID, "key_ids": keyIDs(s.Ring.Keys)}}, nil
}

// deleteClient deletes the client's config, then its key ring: a crash between the two
// leaves a client that issues no tokens and can be deleted again.
func (e *engine) deleteClient(ctx context.Context, r *request) (*logical.Response, error) {
	keys := 0
	err := e.entries.remove(ctx, r.Storage, r.client, func(ring *keyring.Ring) error {
		if keys = len(ring.Keys); keys > 0 && !forced(r) {
			return invalid("client %s has keys, which cannot be restored once deleted: repeat with force=true if that is "+
				"meant", r.client)
		}
		return nil
	})
	var user userError
	if errors.As(err, &user) {
		return nil, err
	}
	e.forget(r.client)
	e.schedule.Forget(r.client)
	if err != nil {
		return nil, err
	}
	e.log.of(r.client, r.ID).Info("client deleted", "keys", keys)
	return nil, nil
}
