package repotest

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/release.md names the version of Go that builds releases, and how many modules are compiled in
// on any system.
func TestReleasePage(t *testing.T) {
	atRoot(t)
	file := func(path string) string {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	one := func(pattern, text string) string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("there is no %s", pattern)
		}
		return found[1]
	}
	page := file("docs/release.md")
	// Another version of Go builds a different binary, so the page must name the
	// version.
	if want := "`scripts/release` builds with " + one(`(?m)^toolchain (\S+)$`, file("tools/release/go.mod")) +
		","; !strings.Contains(page, want) {
		t.Errorf("it does not say: %s", strings.TrimSpace(want))
	}
	_, list, _ := strings.Cut(file(budget), "\n# ours\n")
	ours, forced, _ := strings.Cut(list, "\n# forced")
	n, m := strings.Count(strings.TrimSpace(ours), "\n")+1, strings.Count(strings.TrimSpace(forced), "\n")
	if want := fmt.Sprintf("<!-- modules -->\nCode of %d modules is compiled in on one system or another: %d that we "+
		"want, and %d that", n+m, n, m); !strings.Contains(page, want) {
		t.Errorf("it does not say: %s", want)
	}
}
