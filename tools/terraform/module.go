package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// module is a directory of .tf files, and the state of what was made of it.
type module struct {
	dir       string
	blocks    hcl.Blocks
	vault     vault
	variables map[string]cty.Value
	resources map[string]cty.Value // by type; each an object, by name
	data      map[string]cty.Value // likewise
	state     map[string]*instance
}

// setVariables takes the defaults, and the values that were given.
func (m *module) setVariables(settings []string) error {
	m.variables, m.resources, m.data = map[string]cty.Value{}, map[string]cty.Value{}, map[string]cty.Value{}
	for _, block := range m.blocks.OfType("variable") {
		attributes, problems := block.Body.JustAttributes()
		if problems.HasErrors() {
			return problems
		}
		for name := range attributes {
			if !slices.Contains([]string{"description", "type", "default"}, name) {
				return fmt.Errorf("variable %s has no argument %s", block.Labels[0], name)
			}
		}
		if attributes["default"] == nil {
			continue
		}
		value, problems := attributes["default"].Expr.Value(nil)
		if problems.HasErrors() {
			return problems
		}
		m.variables[block.Labels[0]] = value
	}
	for _, text := range settings {
		name, value, err := setting(text)
		if err != nil {
			return err
		}
		if _, known := m.variables[name]; !known {
			return fmt.Errorf("there is no variable %s", name)
		}
		m.variables[name] = cty.StringVal(value)
	}
	return nil
}

// context is what expressions may refer to.
func (m *module) context(each cty.Value) *hcl.EvalContext {
	all := maps.Clone(m.resources)
	all["var"] = cty.ObjectVal(m.variables)
	all["data"] = cty.ObjectVal(m.data)
	all["path"] = cty.ObjectVal(map[string]cty.Value{"module": cty.StringVal(m.dir)})
	if each != cty.NilVal {
		all["each"] = cty.ObjectVal(map[string]cty.Value{"key": each, "value": each})
	}
	return &hcl.EvalContext{Variables: all, Functions: map[string]function.Function{
		"jsonencode": stdlib.JSONEncodeFunc,
		"replace":    stdlib.ReplaceFunc, // Terraform's takes /…/ for a pattern besides
		"toset":      stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		"nonsensitive": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType}},
			Type:   func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
			Impl:   func(args []cty.Value, _ cty.Type) (cty.Value, error) { return args[0], nil },
		}),
		"file": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}},
			Type:   function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				raw, err := os.ReadFile(filepath.Clean(args[0].AsString()))
				return cty.StringVal(string(raw)), err
			},
		}),
	}}
}

// apply makes each resource when all that it refers to is there, and prints the
// outputs last.
func (m *module) apply() error {
	waiting := append(m.blocks.OfType("resource"), m.blocks.OfType("data")...)
	done := map[string]bool{}
	for len(waiting) > 0 {
		later := hcl.Blocks{}
		for _, block := range waiting {
			if !m.ready(block, done) {
				later = append(later, block)
				continue
			}
			if err := m.applyBlock(block); err != nil {
				return fmt.Errorf("%s: %w", address(block), err)
			}
			done[address(block)] = true
		}
		if len(later) == len(waiting) {
			return fmt.Errorf("%s refers to what there is not", address(later[0]))
		}
		waiting = later
	}
	if err := m.destroy(func(i *instance) bool { return !i.wanted }); err != nil {
		return err
	}
	for _, block := range m.blocks.OfType("output") {
		attributes, problems := block.Body.JustAttributes()
		if problems.HasErrors() || attributes["value"] == nil {
			return fmt.Errorf("output %s: %w", block.Labels[0], problems)
		}
		value, problems := attributes["value"].Expr.Value(m.context(cty.NilVal))
		if problems.HasErrors() {
			return problems
		}
		fmt.Printf("%s = %s\n", block.Labels[0], value.AsString())
	}
	return nil
}

// address is the name by which a resource is referred to.
func address(block *hcl.Block) string {
	return strings.TrimPrefix(block.Type+"."+strings.Join(block.Labels, "."), "resource.")
}

// ready tells whether all is done that the block refers to.
func (m *module) ready(block *hcl.Block, done map[string]bool) bool {
	schema, err := bodySchema(block.Labels[0])
	if err != nil {
		return true // applyBlock says what is wrong
	}
	content, _, _ := block.Body.PartialContent(schema)
	for _, attribute := range content.Attributes {
		for _, traversal := range attribute.Expr.Variables() {
			words := []string{}
			for _, step := range traversal {
				switch step := step.(type) {
				case hcl.TraverseRoot:
					words = append(words, step.Name)
				case hcl.TraverseAttr:
					words = append(words, step.Name)
				}
			}
			needs := strings.Join(words[:min(2, len(words))], ".")
			if words[0] == "data" {
				needs = strings.Join(words[:min(3, len(words))], ".")
			}
			if !slices.Contains([]string{"var", "path", "each"}, words[0]) && !done[needs] {
				return false
			}
		}
	}
	return true
}

// applyBlock makes or reads all instances of a block.
func (m *module) applyBlock(block *hcl.Block) error {
	schema, err := bodySchema(block.Labels[0])
	if err != nil {
		return err
	}
	content, problems := block.Body.Content(schema)
	if problems.HasErrors() {
		return problems
	}
	if block.Type == "data" {
		return m.readData(block, content)
	}
	keys, err := m.instances(content)
	if err != nil {
		return err
	}
	for _, key := range keys {
		args, err := m.arguments(content, key)
		if err != nil {
			return err
		}
		name := address(block)
		if key != cty.NilVal {
			name += "[" + key.AsString() + "]"
		}
		made, err := m.applyInstance(name, content, args)
		if err != nil {
			return err
		}
		if content.Attributes["count"] == nil && key == cty.NilVal {
			if err := refer(m.resources, block, made); err != nil {
				return err
			}
		}
	}
	return nil
}

// instances returns the keys of for_each, or no key for each of count.
func (m *module) instances(content *hcl.BodyContent) (keys []cty.Value, err error) {
	if attribute := content.Attributes["for_each"]; attribute != nil {
		value, problems := attribute.Expr.Value(m.context(cty.NilVal))
		if problems.HasErrors() {
			return nil, problems
		}
		return value.AsValueSlice(), nil
	}
	count := 1
	if attribute := content.Attributes["count"]; attribute != nil {
		value, problems := attribute.Expr.Value(m.context(cty.NilVal))
		if problems.HasErrors() {
			return nil, problems
		}
		n, _ := value.AsBigFloat().Int64()
		count = int(n)
	}
	return make([]cty.Value, count), nil
}

// arguments evaluates those of the provider.
func (m *module) arguments(content *hcl.BodyContent, each cty.Value) (map[string]any, error) {
	args := map[string]any{}
	for name, attribute := range content.Attributes {
		if slices.Contains([]string{"count", "for_each", "depends_on"}, name) {
			continue
		}
		value, problems := attribute.Expr.Value(m.context(each))
		if problems.HasErrors() {
			return nil, problems
		}
		var err error
		if args[name], err = plain(value); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// plain turns a value of the language into one of Go.
func plain(value cty.Value) (plain any, err error) {
	raw, err := ctyjson.Marshal(value, value.Type())
	if err == nil {
		err = json.Unmarshal(raw, &plain)
	}
	return plain, err
}

// refer lets expressions refer to what a resource has.
func refer(to map[string]cty.Value, block *hcl.Block, attributes map[string]any) error {
	raw, err := json.Marshal(attributes)
	if err != nil {
		return err
	}
	kind, err := ctyjson.ImpliedType(raw)
	if err != nil {
		return err
	}
	value, err := ctyjson.Unmarshal(raw, kind)
	if err != nil {
		return err
	}
	of := map[string]cty.Value{}
	if others, found := to[block.Labels[0]]; found {
		of = others.AsValueMap()
	}
	of[block.Labels[1]] = value
	to[block.Labels[0]] = cty.ObjectVal(of)
	return nil
}
