package repotest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const budget = "internal/repotest/testdata/modules.txt"

// testdata/modules.txt lists the modules in the binary: those that Vault's SDK requires, and
// those that we chose, each with a reason. So no module is added unnoticed.
func TestModules(t *testing.T) {
	atRoot(t)
	sdk, ours := map[string]bool{}, map[string]bool{}
	for _, system := range []string{"linux", "darwin", "windows", "freebsd"} {
		for _, processor := range []string{"amd64", "arm64"} {
			forced, wanted := modulesOf(t, system, processor)
			maps.Copy(sdk, forced)
			maps.Copy(ours, wanted)
		}
	}
	for name := range sdk {
		delete(ours, name)
	}
	raw, err := os.ReadFile(budget)
	if err != nil && !*update {
		t.Fatal(err)
	}
	head, reasons := readBudget(string(raw))
	var want strings.Builder
	want.WriteString(head + "\n# ours\n")
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if reasons[name] == "" {
			t.Errorf("%s gets into the binary: is it needed? Then run with -update, and write the reason beside it", name)
		}
		want.WriteString(strings.TrimSpace(name+" "+reasons[name]) + "\n")
	}
	want.WriteString("\n# forced in by github.com/hashicorp/vault/sdk\n")
	for _, name := range slices.Sorted(maps.Keys(sdk)) {
		want.WriteString(name + "\n")
	}
	if *update {
		if err := os.WriteFile(budget, []byte(want.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if raw, err = os.ReadFile(budget); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(raw)); diff != "" {
		t.Errorf("other modules are in the binary than %s lists; if that is meant, run with -update (-binary +list):\n%s",
			budget, diff)
	}
}

// readBudget returns the text above the list of modules that we chose, and the reason for each.
func readBudget(text string) (head string, reasons map[string]string) {
	head, list, _ := strings.Cut(text, "\n# ours\n")
	reasons = map[string]string{}
	for line := range strings.Lines(list) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		reasons[name] = reason
	}
	return head, reasons
}

// modulesOf returns the modules of the binary for a platform. sdk has the SDK and the modules
// that its packages need. rest has all but the SDK and this module, so a module can be in both.
func modulesOf(t *testing.T, system, processor string) (sdk, rest map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,Module",
		"./cmd/"+filepath.Base(module))
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type listed struct {
		ImportPath string
		Imports    []string
		Module     *struct{ Path string }
	}
	packages := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
	sdk, rest = map[string]bool{}, map[string]bool{}
	seen := map[string]bool{}
	var follow func(name string)
	follow = func(name string) {
		p, is := packages[name]
		if !is || seen[name] {
			return
		}
		seen[name] = true
		if p.Module != nil {
			sdk[p.Module.Path] = true
		}
		for _, next := range p.Imports {
			follow(next)
		}
	}
	for name, p := range packages {
		if p.Module == nil {
			continue
		}
		if p.Module.Path == "github.com/hashicorp/vault/sdk" {
			follow(name)
		} else if p.Module.Path != module {
			rest[p.Module.Path] = true
		}
	}
	if len(sdk) < 10 || len(rest) < 10 {
		t.Fatalf("%d modules for the SDK, %d others for %s/%s", len(sdk), len(rest), system, processor)
	}
	return sdk, rest
}
