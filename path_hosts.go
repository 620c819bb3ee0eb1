package redox

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

const (
	fieldAllowed = "allowed"
	maxHosts     = 1000
)

const hostsHelp = `
Names the hosts that this mount may talk to besides Redox's own, for all its
clients. A token_url in config must name one of them or of Redox's: so who may
write config cannot send requests into your network. Every operation needs sudo.

    vault write redox/hosts allowed=gateway.example,gateway.example:8443

A host without a port means port 443. Names are compared exactly, in lower
case. http needs a loopback address that is in the list with its port. A proxy
from the environment needs no entry.
`

func (e *engine) pathHosts() []*framework.Path {
	output := ok("The hosts", schemas{
		fieldAllowed: shown(framework.TypeStringSlice, "Hosts that the mount may talk to besides Redox's own"),
		"always":     shown(framework.TypeStringSlice, "Redox's own hosts, which need no entry"),
	})
	return []*framework.Path{{
		Pattern:      hostsKey,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "redox", OperationSuffix: "hosts"},
		Fields: schemas{
			fieldAllowed: {Type: framework.TypeCommaStringSlice, Required: true, Description: "The whole list, at most " +
				"1000 of them: each a host or host:port, port 443 when absent. An IPv6 address stands in brackets."},
		},
		Operations: ops{
			logical.ReadOperation:   e.read(e.readHosts, "Read which hosts are allowed.", output),
			logical.UpdateOperation: e.mutate(e.writeHosts, "Replace the list of allowed hosts.", output),
			logical.DeleteOperation: e.mutate(e.deleteHosts, "Allow no host but Redox's own.", noContent),
		},
		HelpSynopsis:    "Names the hosts that this mount may talk to.",
		HelpDescription: strings.TrimSpace(hostsHelp),
	}}
}

func (e *engine) readHosts(ctx context.Context, r *request) (*logical.Response, error) {
	list, err := loadHosts(ctx, r.Storage)
	if err != nil {
		return nil, err
	}
	return list.show(), nil
}

// writeHosts reads the stored list first: it must not overwrite one that is damaged or that a newer
// plugin wrote.
func (e *engine) writeHosts(ctx context.Context, r *request) (*logical.Response, error) {
	given, is := r.fields.Raw[fieldAllowed]
	if !is {
		return nil, invalid("%s is required: the whole list of hosts", fieldAllowed)
	}
	items, _ := given.([]string) // null: none
	list, err := newHostList(items)
	if err != nil {
		return nil, err
	}
	if _, err := loadHosts(ctx, r.Storage); err != nil {
		return nil, err
	}
	defer e.hostsChanged()
	if err := store.Put(ctx, r.Storage, hostsKey, list); err != nil {
		return nil, err
	}
	e.log.of("", r.ID).Info("hosts written", "number", len(list.Allowed))
	return list.show(), nil
}

func (e *engine) deleteHosts(ctx context.Context, r *request) (*logical.Response, error) {
	defer e.hostsChanged()
	if err := store.Delete(ctx, r.Storage, hostsKey); err != nil {
		return nil, err
	}
	e.log.of("", r.ID).Info("hosts deleted")
	return nil, nil
}

func (l *hostList) show() *logical.Response {
	return &logical.Response{Data: map[string]any{
		fieldAllowed: append([]string{}, l.Allowed...), "always": slices.Clone(redoxHosts),
	}}
}

// newHostList returns the list of the items as parseHost returns them, without duplicates.
func newHostList(items []string) (*hostList, error) {
	if len(items) > maxHosts {
		return nil, invalid("%s must name at most %d hosts", fieldAllowed, maxHosts)
	}
	list := &hostList{}
	for i, item := range items {
		item = strings.TrimSpace(item)
		host, err := parseHost(item)
		if err != nil {
			return nil, invalid("%s must list hosts as host or host:port, such as gateway.example:8443; item %d is %q: %s",
				fieldAllowed, i+1, redoxapi.Quotable(item, 64), err)
		}
		if !slices.Contains(list.Allowed, host) {
			list.Allowed = append(list.Allowed, host)
		}
	}
	return list, nil
}
