package redox

import (
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	fieldClient = "client"
	fieldKeyID  = "key_id"
)

// checkClientName rejects names that are not valid, and the name default: the default
// client must have no paths except the bare ones, so that a policy on these cannot be
// bypassed.
func checkClientName(name, mount string) error {
	switch {
	case name == defaultClient:
		return notFound("the default client has the bare paths, such as " + mount + "token")
	case !isClientName(name):
		return invalid("client must have 1 to 64 of the characters A-Z a-z 0-9 _ . -, and begin and end with a letter or " +
			"digit, and must not have ..")
	}
	return nil
}

type handler func(ctx context.Context, r *request) (*logical.Response, error)

// serve returns an operation that calls h for the client that the path names. If h
// fails, the operation passes the error to failure, which may log it, and answers what
// respond returns. After the end of the mount it answers errEnded instead.
func (e *engine) serve(h handler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		r := &request{Request: req, client: defaultClient, paths: req.MountPoint, fields: d}
		if captured, _ := d.Raw[fieldClient].(string); captured != "" {
			if err := checkClientName(captured, req.MountPoint); err != nil {
				return respond(err, req.ID)
			}
			r.client, r.paths = captured, req.MountPoint+clientsPrefix+captured+"/"
		}
		resp, err := h(ctx, r)
		if err != nil && e.life.ended() {
			return respond(errEnded(), r.ID)
		}
		if err != nil {
			err = withReader(ctx, err)
			e.log.failure(ctx, r.client, r.ID, r.Path, e.now(), err)
			return respond(err, r.ID)
		}
		return resp, nil
	}
}

// path declares an endpoint twice in one pattern: with the bare path, and below
// clients/<name>/. The pattern accepts any client name; serve answers an invalid one with
// an error. name is the endpoint's name in generated code: a noun, with a verb before it
// if Vault's own verb for the operation (read, write) would mislead.
func (e *engine) path(pattern, name string, fields schemas, help string, operations ops) []*framework.Path {
	all := schemas{
		fieldClient: {Type: framework.TypeString, Description: "Name of a further client; the default client has the " +
			"bare path."},
	}
	for field, schema := range fields {
		all[field] = schema
	}
	help = strings.TrimSpace(help)
	synopsis, _, _ := strings.Cut(help, ".")
	verb, noun, hasVerb := strings.Cut(name, " ")
	if !hasVerb {
		verb, noun = "", name
	}
	return []*framework.Path{{
		Pattern: "(clients/(?P<" + fieldClient + ">[^/]+)/)?" + pattern,
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "redox", OperationVerb: verb, OperationSuffix: noun + "|client-" + noun,
		},
		Fields:          all,
		Operations:      operations,
		HelpSynopsis:    strings.Join(strings.Fields(synopsis), " ") + ".",
		HelpDescription: help,
	}}
}

// mutate returns an operation that writes to storage. On a node that cannot write,
// Vault forwards the request to one that can, before the handler runs.
func (e *engine) mutate(h handler, summary string, responses map[int][]framework.Response) *framework.PathOperation {
	return &framework.PathOperation{
		Callback: e.serve(h), Summary: summary, Responses: responses,
		ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
	}
}

func (e *engine) read(h handler, summary string, responses map[int][]framework.Response) *framework.PathOperation {
	return &framework.PathOperation{Callback: e.serve(h), Summary: summary, Responses: responses}
}

// schemas are the fields of a request or an answer, by name. ops are the operations
// of an endpoint.
type (
	schemas = map[string]*framework.FieldSchema
	ops     = map[logical.Operation]framework.OperationHandler
)

// shown returns the schema of a field that every answer, or every request, has.
func shown(kind framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: kind, Required: true, Description: description}
}

var noContent = map[int][]framework.Response{http.StatusNoContent: {{Description: "Done"}}}

func ok(description string, fields schemas) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}
