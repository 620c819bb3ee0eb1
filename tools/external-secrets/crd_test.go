package externalsecrets

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// manifests returns the example, and the definitions to check it against.
func manifests(t *testing.T) (definitions, []byte) {
	t.Helper()
	dir, err := operatorDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("../../examples/external-secrets/redox-token.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return all, raw
}

func checkAll(all definitions, raw []byte) (wrong []string) {
	for manifest := range bytes.SplitSeq(raw, []byte("\n---\n")) {
		if err := all.check(manifest); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong
}

// The example has two manifests, and the definitions allow both.
func TestExample(t *testing.T) {
	all, raw := manifests(t)
	if n := bytes.Count(raw, []byte("\n---\n")); n != 1 {
		t.Fatalf("%d manifests, not 2", n+1)
	}
	for _, wrong := range checkAll(all, raw) {
		t.Error(wrong)
	}
}

// Typical mistakes in the example are rejected.
func TestMistakes(t *testing.T) {
	all, raw := manifests(t)
	for _, mistake := range []struct{ old, with, wrong string }{
		{"  path: redox/token", "  Path: redox/token", "Path in body is a forbidden property"},
		{"  path: redox/token", "  #", "path in body is required"},
		{"    server:", "    address:", "address in body is a forbidden property"},
		{"mountPath:", "mount:", "mount in body is a forbidden property"},
		{"role: redox-reader", "role: 1", "role in body must be of type string"},
		{"audiences:\n            - vault", "audiences: vault", "audiences in body must be of type array"},
		{"resultType: Data", "resultType: data", "resultType in body should be one of [Data Auth Raw]"},
		{"  refreshInterval: 3m", "  refreshAfter: 3m", "refreshAfter in body is a forbidden property"},
		{"  refreshInterval: 3m", "  refreshInterval: 180", "refreshInterval in body must be of type string"},
		{"    template:\n", "    templates:\n", "templates in body is a forbidden property"},
		{"        access_token: \"", "        access_token:\n          from: \"",
			"access_token in body must be of type string"},
		{"generatorRef:", "generator:", "generator in body is a forbidden property"},
		{"apiVersion: external-secrets.io/v1\n", "apiVersion: external-secrets.io/v1beta1\n",
			"there is no ExternalSecret in external-secrets.io/v1beta1"},
		{"kind: ExternalSecret\n", "kind: ExternalSecret\nspec:\n  x: 1\n", "already set in map"},
	} {
		t.Run(mistake.with, func(t *testing.T) {
			changed := bytes.Replace(raw, []byte(mistake.old), []byte(mistake.with), 1)
			if bytes.Equal(changed, raw) {
				t.Fatalf("the example has no %q", mistake.old)
			}
			if wrong := strings.Join(checkAll(all, changed), "\n"); !strings.Contains(wrong, mistake.wrong) {
				t.Errorf("not refused by %q, but: %q", mistake.wrong, wrong)
			}
		})
	}
}
