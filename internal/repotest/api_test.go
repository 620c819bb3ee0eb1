package repotest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// document is the part of an OpenAPI 3.0 document that the tests use.
type document struct {
	Paths      map[string]pathItem
	Components struct{ Schemas map[string]schemaObject }
}

type pathItem struct {
	Description              string
	Unauthenticated          bool `json:"x-vault-unauthenticated"`
	Parameters               []parameter
	Get, Post, Patch, Delete *apiOperation
}

func (i pathItem) operations() map[string]*apiOperation {
	all := map[string]*apiOperation{"get": i.Get, "post": i.Post, "patch": i.Patch, "delete": i.Delete}
	maps.DeleteFunc(all, func(_ string, o *apiOperation) bool { return o == nil })
	return all
}

type apiOperation struct {
	Summary, OperationID string
	Parameters           []parameter
	RequestBody          content
	Responses            map[string]content
}

// methods are the HTTP methods in the document, in the order of docs/api.md.
var methods = []string{"get", "post", "patch", "delete"}

// verb returns LIST for a GET that lists, else the HTTP method.
func (o apiOperation) verb(method string) string {
	if slices.ContainsFunc(o.Parameters, func(p parameter) bool { return p.Name == "list" }) {
		return "LIST"
	}
	return strings.ToUpper(method)
}

type parameter struct {
	Name, Description, In string
	Required              bool
	Schema                schemaObject
}

type content struct {
	Description string
	Content     map[string]struct {
		Schema struct {
			Ref string `json:"$ref"`
		}
	}
}

type schemaObject struct {
	Type, Format, Description string
	Default                   any
	Required                  []string
	Properties                map[string]schemaObject
}

// openAPI returns the engine's own OpenAPI document.
func openAPI(t *testing.T) document {
	t.Helper()
	resp, err := newEngine(t).HandleRequest(t.Context(), &logical.Request{
		Operation: logical.HelpOperation, Path: "", MountPoint: "redox/",
		Data: map[string]any{"requestResponsePrefix": "redox"},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(resp.Data["openapi"])
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

const apiHead = `# API

Written by ` + "`go test -run TestAPIDocument -update ./internal/repotest`" + ` from the engine's own OpenAPI
document, which Vault serves as well, with those of all mounts, at ` + "`sys/internal/specs/openapi`" + `. Do not
edit it.

The mount is at ` + "`redox/`" + ` here. Every request needs a Vault token whose policy allows it, except those for
` + "`jwks`" + `: read for GET, update for POST, patch, delete, and list for LIST. Fields of a POST or PATCH are JSON,
those of a DELETE are in the query. A PATCH has the content type ` + "`application/merge-patch+json`" + `.
Writes refuse unknown fields, and reads warn about them. Durations are seconds, or as ` + "`90s`, `15m`, `24h`" + `.
Answers have their fields in ` + "`data`" + `, and times in them are whole seconds; Vault's CLI shows some as
` + "`3m55s`" + `. The errors are in [operations.md](operations.md#9-troubleshooting).

A client's key ring holds at most eight keys, one of them pending. Tokens have no lease: ` + "`ttl`" + ` says when to
read the next one.

In the document that Vault serves, requests have no bodies, because it drops those of every external plugin
(hashicorp/vault#30714). The answer to
` + "`GET /v1/redox/config?help=1`" + `, and of every other path with ` + "`?help=1`" + `, has them.
`

// docs/api.md is generated from the engine's OpenAPI document, and up to date.
func TestAPIDocument(t *testing.T) {
	atRoot(t)
	d := openAPI(t)
	var text strings.Builder
	text.WriteString(apiHead)
	bare := slices.DeleteFunc(slices.Sorted(maps.Keys(d.Paths)), func(path string) bool {
		return strings.HasPrefix(path, "/clients/{client}/") // described together with the bare path
	})
	d.index(&text, bare)
	for _, path := range bare {
		if name := strings.TrimSuffix(path, "/"); name == path || d.Paths[name].Get == nil {
			d.introduce(&text, path)
		}
		d.describe(&text, path)
	}
	golden(t, "docs/api.md", text.String())
}

// index writes a table of the paths, with links to their headings.
func (d document) index(text *strings.Builder, paths []string) {
	var names []string
	verbs := map[string][]string{}
	for _, path := range paths {
		name := strings.Trim(path, "/")
		if verbs[name] == nil {
			names = append(names, name)
		}
		for _, method := range methods {
			if o := d.Paths[path].operations()[method]; o != nil {
				verbs[name] = append(verbs[name], o.verb(method))
			}
		}
	}
	text.WriteString("\n| path | | |\n|---|---|---|\n")
	for _, name := range names {
		item, is := d.Paths["/"+name]
		if !is {
			item = d.Paths["/"+name+"/"]
		}
		anchor := strings.NewReplacer("/", "", "{", "", "}", "").Replace(name)
		fmt.Fprintf(text, "| [`%s`](#%s) | %s | %s |\n", name, anchor, strings.Join(verbs[name], ", "), item.Description)
	}
}

func (d document) introduce(text *strings.Builder, path string) {
	item := d.Paths[path]
	twin := "/clients/{client}" + path
	fmt.Fprintf(text, "\n## %s\n\n%s", strings.Trim(path, "/"), item.Description)
	if _, has := d.Paths[twin]; has {
		fmt.Fprintf(text, " Also at `redox%s`, for a further client.", twin)
	}
	if item.Unauthenticated {
		text.WriteString(" Needs no Vault token.")
	}
	text.WriteString("\n")
}

func (d document) describe(text *strings.Builder, path string) {
	item, shown := d.Paths[path], map[string]string{}
	for _, method := range methods {
		o := item.operations()[method]
		if o == nil {
			continue
		}
		verb := o.verb(method)
		fields := slices.Concat(item.Parameters, d.fields(o.RequestBody))
		if method == "delete" {
			fields = append(fields, o.Parameters...) // fields in the query; a GET has none
		}
		fmt.Fprintf(text, "\n**`%s /v1/redox%s`** %s Operation ID `%s`.\n", verb, path, o.Summary, o.OperationID)
		table(text, shown, verb, "takes", fields)
		for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
			fmt.Fprintf(text, "\nAnswers %s: %s.\n", status, o.Responses[status].Description)
			table(text, shown, verb, "returns", d.fields(o.Responses[status]))
		}
	}
}

// fields returns the fields of the JSON object that c describes.
func (d document) fields(c content) []parameter {
	body := d.Components.Schemas[strings.TrimPrefix(c.Content["application/json"].Schema.Ref, "#/components/schemas/")]
	var all []parameter
	for _, name := range slices.Sorted(maps.Keys(body.Properties)) {
		field := body.Properties[name]
		all = append(all, parameter{Name: name, Description: field.Description, Schema: field,
			Required: slices.Contains(body.Required, name)})
	}
	return all
}

// table writes the fields that an operation takes or returns. If it has written the same table
// for another operation of the path, it only refers to that operation.
func table(text *strings.Builder, shown map[string]string, verb, head string, fields []parameter) {
	if len(fields) == 0 {
		return
	}
	rows := fmt.Sprintf("\n| %s | type | |\n|---|---|---|\n", head)
	for _, f := range fields {
		kind, standard := f.Schema.Type, f.Schema.Default
		if f.Schema.Format == "duration" {
			kind = "duration"
			standard = time.Duration(standard.(float64)) * time.Second
		}
		if standard != nil {
			f.Description += fmt.Sprintf(" Default: `%v`.", standard)
		}
		rows += fmt.Sprintf("| `%s` | %s | %s |\n", f.Name, kind, strings.ReplaceAll(f.Description, "|", "\\|"))
	}
	if same := shown[rows]; same != "" {
		rows = "\nIt " + head + " the same as " + same + ".\n"
	} else {
		shown[rows] = verb
	}
	text.WriteString(rows)
}
