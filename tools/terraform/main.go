// Command terraform does with examples/terraform what Terraform and the provider
// hashicorp/vault do, as far as the example goes, for where Terraform is not to
// be had:
//
//	terraform apply|destroy <directory> <state file> [<variable>=<value>…]
//
// It refuses files that terraform fmt would alter, and blocks and arguments that
// the provider does not have; makes what the state lacks; reads the rest back;
// and prints what it did, and the outputs. VAULT_ADDR and VAULT_TOKEN say where.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

func main() {
	if len(os.Args) < 4 || (os.Args[1] != "apply" && os.Args[1] != "destroy") {
		fmt.Fprintln(os.Stderr, "usage: terraform apply|destroy <directory> <state file> [<variable>=<value>…]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "terraform:", err)
		os.Exit(1)
	}
}

func run(what, dir, stateFile string, settings []string) error {
	blocks, err := parse(dir)
	if err != nil {
		return err
	}
	m := &module{dir: dir, blocks: blocks, vault: vault{os.Getenv("VAULT_ADDR"), os.Getenv("VAULT_TOKEN")}, state: map[string]*instance{}}
	raw, err := os.ReadFile(stateFile)
	if err == nil {
		err = json.Unmarshal(raw, &m.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := m.setVariables(settings); err != nil {
		return err
	}
	var doErr error
	if what == "apply" {
		doErr = m.apply()
	} else {
		doErr = m.destroy(func(*instance) bool { return true })
	}
	raw, err = json.MarshalIndent(m.state, "", "  ")
	if err == nil {
		err = os.WriteFile(stateFile, raw, 0o600)
	}
	return errors.Join(doErr, err)
}

// parse reads the .tf files of a directory, which are formatted.
func parse(dir string) (blocks hcl.Blocks, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no .tf files in %s: %w", dir, err)
	}
	parser := hclparse.NewParser()
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(hclwrite.Format(raw), raw) {
			return nil, fmt.Errorf("%s is not formatted", path)
		}
		file, problems := parser.ParseHCL(raw, path)
		if problems.HasErrors() {
			return nil, problems
		}
		content, problems := file.Body.Content(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
			{Type: "terraform"}, {Type: "variable", LabelNames: []string{"name"}}, {Type: "output", LabelNames: []string{"name"}},
			{Type: "resource", LabelNames: []string{"type", "name"}}, {Type: "data", LabelNames: []string{"type", "name"}},
		}})
		if problems.HasErrors() {
			return nil, problems
		}
		blocks = append(blocks, content.Blocks...)
	}
	return blocks, nil
}

// setting splits name=value.
func setting(text string) (name, value string, err error) {
	name, value, found := strings.Cut(text, "=")
	if !found {
		return "", "", fmt.Errorf("%q is not name=value", text)
	}
	return name, value, nil
}
