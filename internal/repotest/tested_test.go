package repotest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/tested.md has a row for the Go version of go.mod, and one for the Vault version of
// tools/vault/go.mod. README.md repeats the rows of all servers.
func TestTestedPage(t *testing.T) {
	atRoot(t)
	file := func(path string) string {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	version := func(pattern, path string) string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindStringSubmatch(file(path))
		if found == nil {
			t.Fatalf("%s has no %s", path, pattern)
		}
		return found[1]
	}
	generated := func(text string) string {
		_, table, _ := strings.Cut(text, "<!-- compat -->\n")
		table, _, _ = strings.Cut(table, "<!-- /compat -->")
		return table
	}
	page := file("docs/tested.md")
	for _, row := range []string{
		"\n| Go " + version(`(?m)^go (\S+)$`, "go.mod") + ", the oldest ",
		"\n| Vault " + version(`(?m)^require github.com/hashicorp/vault v(\S+)$`, "tools/vault/go.mod") + " | ",
	} {
		if !strings.Contains(generated(page), row) {
			t.Errorf("no row begins with %q: run scripts/compat --write", strings.TrimSpace(row))
		}
	}
	want := "| server | what passed | on |\n|---|---|---|\n" +
		strings.Join(regexp.MustCompile(`(?m)^\| (?:Vault|OpenBao) \d.*\n`).FindAllString(page, -1), "")
	if got := generated(file("README.md")); got != want {
		t.Errorf("README.md has\n%s\nand docs/tested.md\n%s", got, want)
	}
}
