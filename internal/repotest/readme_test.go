package repotest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The README's tables have each path, and each field of config with its rule.
func TestReadmeNamesEverything(t *testing.T) {
	atRoot(t)
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t)
	capture := regexp.MustCompile(`\(\?P<(\w+)>\[\^/\]\+\)`)
	for _, path := range paths(t, e) {
		name := strings.TrimPrefix(strings.Trim(path.Pattern, "^$"), "(clients/(?P<client>[^/]+)/)?")
		name = strings.TrimSuffix(capture.ReplaceAllString(name, "<$1>"), "/?")
		name = strings.Replace(name, "clients/<client>", "clients/<name>", 1)
		if !strings.Contains(string(raw), "\n| `"+name+"` | ") {
			t.Errorf("no row for the path %s", name)
		}
	}
	for field := range e.Route("config").Fields {
		if field != "client" && !strings.Contains(string(raw), "\n| `"+field+"` | ") {
			t.Errorf("no row for the field %s of config", field)
		}
	}
}
