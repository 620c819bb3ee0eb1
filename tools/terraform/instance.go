package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// instance is what the state has of one resource: all that is in it, Terraform
// would store.
type instance struct {
	Kind           string
	Arguments      map[string]any
	Computed       map[string]any
	PreventDestroy bool

	wanted bool // the configuration still has it
}

// attributes are what others may refer to.
func (i *instance) attributes() map[string]any {
	all := maps.Clone(i.Arguments)
	maps.Copy(all, i.Computed)
	return all
}

// applyInstance makes a resource, unless the state has it as it is, and says
// what Vault has otherwise than it was written.
func (m *module) applyInstance(name string, content *hcl.BodyContent, args map[string]any) (attributes map[string]any, err error) {
	prevent, ignore, err := lifecycle(content)
	if err != nil {
		return nil, err
	}
	kind := name[:slices.Index([]byte(name), '.')]
	i, did := m.state[name], "created"
	if i != nil {
		did = "changed"
	}
	if i == nil || !ignore && !reflect.DeepEqual(i.Arguments, args) {
		computed, err := m.vault.create(kind, args)
		if err != nil {
			return nil, err
		}
		i = &instance{Kind: kind, Arguments: args, Computed: computed}
		m.state[name] = i
		fmt.Printf("%s: %s\n", name, did)
	}
	i.PreventDestroy, i.wanted = prevent, true
	if kind == "vault_generic_endpoint" && !ignore {
		changes, err := m.vault.drift(args)
		if err != nil {
			return nil, err
		}
		for _, change := range changes {
			fmt.Printf("%s: would be changed: %s\n", name, change)
		}
	}
	return i.attributes(), nil
}

// lifecycle returns what the block of that name says.
func lifecycle(content *hcl.BodyContent) (prevent, ignore bool, err error) {
	for _, block := range content.Blocks {
		attributes, problems := block.Body.JustAttributes()
		if problems.HasErrors() {
			return false, false, problems
		}
		for name, attribute := range attributes {
			switch {
			case name == "ignore_changes" && hcl.ExprAsKeyword(attribute.Expr) == "all":
				ignore = true
			case name == "prevent_destroy":
				value, problems := attribute.Expr.Value(nil)
				if problems.HasErrors() {
					return false, false, problems
				}
				prevent = value.True()
			default:
				return false, false, fmt.Errorf("lifecycle: the example needs no %s like this", name)
			}
		}
	}
	return prevent, ignore, nil
}

// readData reads a data source, of which the state stores all.
func (m *module) readData(block *hcl.Block, content *hcl.BodyContent) error {
	args, err := m.arguments(content, cty.NilVal)
	if err != nil {
		return err
	}
	got, err := m.vault.request(http.MethodGet, fmt.Sprint(args["path"]), nil)
	if err != nil {
		return err
	}
	texts := map[string]any{}
	for name, value := range got {
		if text, is := value.(string); is {
			texts[name] = text
			continue
		}
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		texts[name] = string(raw)
	}
	i := &instance{Kind: "data", Arguments: args, Computed: map[string]any{"data": texts}, wanted: true}
	m.state[address(block)] = i
	return refer(m.data, block, i.attributes())
}

// destroy deletes such instances from Vault and the state, or none if one of
// them must not be.
func (m *module) destroy(such func(*instance) bool) error {
	var kept []error
	doomed := []string{}
	for name, i := range m.state {
		if !such(i) {
			continue
		}
		doomed = append(doomed, name)
		if i.PreventDestroy {
			kept = append(kept, fmt.Errorf("%s must not be destroyed", name))
		}
	}
	if len(kept) > 0 {
		return errors.Join(kept...)
	}
	for _, name := range doomed {
		if err := m.vault.remove(m.state[name]); err != nil {
			return err
		}
		delete(m.state, name)
		fmt.Printf("%s: destroyed\n", name)
	}
	return nil
}

// remove deletes what an instance stands for.
func (v vault) remove(i *instance) error {
	path := ""
	switch {
	case i.Kind == "vault_mount":
		path = fmt.Sprint("sys/mounts/", i.Arguments["path"])
	case i.Kind == "vault_policy":
		path = fmt.Sprint("sys/policies/acl/", i.Arguments["name"])
	case i.Kind == "vault_generic_endpoint" && i.Arguments["disable_delete"] != true:
		path = fmt.Sprint(i.Arguments["path"])
	default:
		return nil
	}
	_, err := v.request(http.MethodDelete, path, nil)
	return err
}

// create makes what the arguments of a resource say, and returns the attributes
// that come from Vault.
func (v vault) create(kind string, args map[string]any) (computed map[string]any, err error) {
	switch kind {
	case "vault_mount":
		_, err = v.request(http.MethodPost, fmt.Sprint("sys/mounts/", args["path"]), map[string]any{"type": args["type"], "description": args["description"]})
	case "vault_policy":
		_, err = v.request(http.MethodPut, fmt.Sprint("sys/policies/acl/", args["name"]), map[string]any{"policy": args["policy"]})
	case "vault_generic_endpoint":
		var answer map[string]any
		answer, err = v.request(http.MethodPut, fmt.Sprint(args["path"]), json.RawMessage(fmt.Sprint(args["data_json"])))
		written := map[string]any{}
		fields, _ := args["write_fields"].([]any)
		for _, field := range fields {
			name := fmt.Sprint(field)
			if answer[name] == nil {
				return nil, fmt.Errorf("the answer of %v has no %s", args["path"], name)
			}
			written[name] = answer[name]
		}
		computed = map[string]any{"write_data": written}
	}
	return computed, err
}

// drift reads an endpoint back as the provider does, and returns what it would
// plan to change again.
func (v vault) drift(args map[string]any) (changes []string, err error) {
	if args["disable_read"] == true {
		return nil, nil
	}
	var written map[string]any
	if err := json.Unmarshal([]byte(fmt.Sprint(args["data_json"])), &written); err != nil {
		return nil, err
	}
	got, err := v.request(http.MethodGet, fmt.Sprint(args["path"]), nil)
	if err != nil {
		return nil, err
	}
	for name, value := range got {
		_, named := written[name]
		if (named || args["ignore_absent_fields"] != true) && !reflect.DeepEqual(value, written[name]) {
			changes = append(changes, fmt.Sprintf("%v: %s is %v, and not %v", args["path"], name, value, written[name]))
		}
	}
	return changes, nil
}
