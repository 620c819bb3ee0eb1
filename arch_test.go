package redox

import (
	"bufio"
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

// sources calls see with each Go file of the module, the tools' own aside.
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

// mayImport says what the packages in a folder may import besides the standard
// library; a prefix when it ends with a slash.
var mayImport = map[string][]string{
	"internal/assertion":   {"github.com/golang-jwt/jwt/v5"},
	"internal/keyring":     {"github.com/go-jose/go-jose/v4"},
	"internal/store":       {"github.com/hashicorp/vault/sdk/logical"},
	"internal/redoxtest":   {"github.com/go-jose/go-jose/v4"},
	"internal/e2e":         {}, // tests alone
	"internal/e2e/watched": {module, "github.com/hashicorp/vault/sdk/plugin"},
	"internal/bench":       {},
	"internal/bench/nothing": {
		"github.com/hashicorp/vault/sdk/framework", "github.com/hashicorp/vault/sdk/logical", "github.com/hashicorp/vault/sdk/plugin",
	},
	"internal/bench/signpost": {
		"github.com/hashicorp/vault/sdk/framework", "github.com/hashicorp/vault/sdk/logical", "github.com/hashicorp/vault/sdk/plugin", module + "/internal/assertion",
	},
	"examples/go":       {}, // nothing to download for who copies it
	"cmd/redox-sandbox": {module + "/internal/redoxtest"},
	"cmd/vault-plugin-secrets-redox": {
		module, "github.com/hashicorp/go-hclog", "github.com/hashicorp/vault/sdk/plugin",
	},
	".": {
		"github.com/hashicorp/vault/sdk/framework", "github.com/hashicorp/vault/sdk/logical",
		"github.com/prometheus/client_golang/prometheus", "github.com/prometheus/common/expfmt",
		"github.com/hashicorp/go-hclog", "golang.org/x/time/rate",
		module + "/internal/assertion", module + "/internal/keyring", module + "/internal/store",
	},
}

// The request to Redox is made without Vault: these files could be a package
// for anybody.
var withoutVault = []string{"client.go", "platform.go", "pool.go", "refusal.go"}

// The pure packages know neither Vault nor HTTP, and only the store and the
// root know Vault's storage.
func TestImports(t *testing.T) {
	sources(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		allowed, known := mayImport[filepath.Dir(path)]
		if !known {
			t.Errorf("%s: say in mayImport what its folder may import", path)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			name := strings.Trim(spec.Path.Value, `"`)
			foreign := strings.Contains(strings.Split(name, "/")[0], ".")
			if foreign && !slices.Contains(allowed, name) {
				t.Errorf("%s must not import %s", path, name)
			}
			if slices.Contains(withoutVault, path) && foreign {
				t.Errorf("%s must not import %s: it knows nothing of Vault", path, name)
			}
			if name == "net/http" && (path != "client.go" && strings.HasPrefix(path, "internal/") && !strings.HasPrefix(path, "internal/redoxtest/") && !strings.HasPrefix(path, "internal/bench/")) {
				t.Errorf("%s must not import net/http", path)
			}
		}
	})
}

// No file is longer than 300 lines, no state lives in a package, and each
// endpoint has a file.
func TestShape(t *testing.T) {
	endpoints := 0
	sources(t, func(path string) {
		lines := 0
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		for scanner := bufio.NewScanner(file); scanner.Scan(); {
			lines++
		}
		if lines > 300 {
			t.Errorf("%s has %d lines, and a file has at most 300", path, lines)
		}
		if strings.HasPrefix(path, "path_") && !strings.HasSuffix(path, "_test.go") {
			endpoints++
		}
	})
	if endpoints < 6 {
		t.Errorf("%d files of endpoints", endpoints)
	}
}

// Assertions are signed by internal/assertion alone, with the one algorithm
// that Redox documents, and nowhere is a certificate left unchecked.
func TestForbiddenNames(t *testing.T) {
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
				t.Errorf("%s uses %s: Redox documents RS384 alone", path, name.Name)
			}
			return true
		})
	})
}
