package repotest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/seed-963e9c27/vault-plugin-secrets-redox"

// sources calls see with the path of each Go file of the repository, except those in tools and
// in folders named testdata.
func sources(t *testing.T, see func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "tools" || path == ".git" || d.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go"):
			see(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rooms lists, for some folders, the packages that their Go files may import besides the
// standard library. Tests may import others.
var rooms = map[string][]string{
	"internal/assertion":  {"github.com/golang-jwt/jwt/v5"},
	"internal/keyring":    {"github.com/go-jose/go-jose/v4", module + "/internal/pasted"},
	"internal/pasted":     {},
	"internal/redoxapi":   {},
	"internal/tokencache": {},
	"internal/schedule":   {},
	"internal/store":      {"github.com/hashicorp/vault/sdk/logical"},
	".": {
		"github.com/hashicorp/vault/sdk/framework", "github.com/hashicorp/vault/sdk/helper/locksutil",
		"github.com/hashicorp/vault/sdk/logical", "github.com/hashicorp/go-secure-stdlib/parseutil",
		"github.com/prometheus/client_golang/prometheus", "github.com/prometheus/common/expfmt",
		"github.com/hashicorp/go-hclog", "golang.org/x/time/rate",
		module + "/internal/assertion", module + "/internal/keyring", module + "/internal/pasted",
		module + "/internal/redoxapi", module + "/internal/schedule", module + "/internal/store", module +
			"/internal/tokencache",
	},
	"cmd/vault-plugin-secrets-redox": {module, "github.com/hashicorp/go-hclog", "github.com/hashicorp/vault/sdk/plugin"},

	"internal/redoxtest": {"github.com/go-jose/go-jose/v4"}, // never the root package, whose tests import it
	"cmd/redox-sandbox":  {module + "/internal/redoxtest"},
	"examples/go":        {}, // whoever copies it needs no further module
}

func TestRooms(t *testing.T) {
	atRoot(t)
	seen := map[string]bool{}
	sources(t, func(path string) {
		folder := filepath.Dir(path)
		allowed, isRoom := rooms[folder]
		if !isRoom || strings.HasSuffix(path, "_test.go") {
			return
		}
		seen[folder] = true
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			name := strings.Trim(spec.Path.Value, `"`)
			if strings.Contains(strings.Split(name, "/")[0], ".") && !slices.Contains(allowed, name) {
				t.Errorf("%s must not import %s", path, name)
			}
		}
	})
	for folder := range rooms {
		if !seen[folder] {
			t.Errorf("there is no room %s", folder)
		}
	}
}

// No Go file has more than 300 lines, except tests and files in tools: a longer one probably
// mixes two ideas.
func TestSizes(t *testing.T) {
	atRoot(t)
	sources(t, func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(raw, []byte("\n")); lines > 300 && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines, and a file has at most 300", path, lines)
		}
	})
}

// No Go file names DefaultClient, DefaultTransport, InsecureSkipVerify, or a SigningMethod of
// golang-jwt other than that of RS384, which is all that Redox documents. Tests and files in
// tools may.
func TestForbiddenNames(t *testing.T) {
	atRoot(t)
	sources(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			name, is := n.(*ast.Ident)
			if !is {
				return true
			}
			switch {
			case name.Name == "InsecureSkipVerify", name.Name == "DefaultClient", name.Name == "DefaultTransport":
				t.Errorf("%s uses %s", path, name.Name)
			case strings.HasPrefix(name.Name, "SigningMethod") && name.Name != "SigningMethodRS384":
				t.Errorf("%s uses %s: Redox documents only RS384", path, name.Name)
			}
			return true
		})
	})
}
