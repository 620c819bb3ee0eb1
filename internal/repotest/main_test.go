package repotest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	redox "github.com/seed-963e9c27/vault-plugin-secrets-redox"
)

var update = flag.Bool("update", false, "write the golden files anew")

// atRoot changes to the root of the repository for the rest of the test: every path in these
// tests is relative to it. TestMain must not do that: go test would not notice when a file that
// a test reads has changed, and would show the cached result.
func atRoot(t *testing.T) {
	t.Helper()
	folder, err := root()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(folder)
}

// root returns the root of the repository: the first folder with a go.mod, from the
// working folder upwards.
func root() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(filepath.Join(folder, "go.mod"))
		if err == nil {
			return folder, nil
		}
		if parent := filepath.Dir(folder); errors.Is(err, fs.ErrNotExist) && parent != folder {
			folder = parent
			continue
		}
		return "", fmt.Errorf("looking for the root of the repository: %w", err)
	}
}

// engine is the part of the secrets engine that the tests use.
type engine interface {
	logical.Backend
	Route(path string) *framework.Path
}

// newEngine returns an engine with empty storage.
func newEngine(t *testing.T) engine {
	t.Helper()
	made, err := redox.Factory(t.Context(), &logical.BackendConfig{
		System:      &logical.StaticSystemView{PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.0"}},
		StorageView: &logical.InmemStorage{},
		Logger:      hclog.NewNullLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Cleanup(context.Background()) })
	return made.(engine)
}

// paths returns the engine's routes for all paths in its OpenAPI document, each route once.
func paths(t *testing.T, e engine) []*framework.Path {
	t.Helper()
	var all []*framework.Path
	for path := range openAPI(t).Paths {
		route := e.Route(strings.NewReplacer("{", "", "}", "").Replace(strings.TrimPrefix(path, "/")))
		if route == nil {
			t.Fatalf("no route to %s", path)
		}
		if !slices.ContainsFunc(all, func(p *framework.Path) bool { return p.Pattern == route.Pattern }) {
			all = append(all, route)
		}
	}
	return all
}
