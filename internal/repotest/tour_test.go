package repotest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// With the code of the tour in CONTRIBUTING.md, typed as it stands there, the tour's test passes.
// An overlay gives the compiler the changed files; nothing in the repository changes.
func TestTour(t *testing.T) {
	atRoot(t)
	if _, err := os.Stat("path_contact.go"); err == nil {
		t.Skip("somebody is taking the tour here")
	}
	file := func(path string) string {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	_, tour, _ := strings.Cut(file("CONTRIBUTING.md"), "\n## A tour")
	tour = strings.ReplaceAll(tour, "\n   ", "\n") // the blocks stand in a list
	var blocks []string
	for part := range strings.SplitSeq(tour, "\n```go\n") {
		block, _, _ := strings.Cut(part, "\n```\n")
		blocks = append(blocks, block+"\n")
	}
	if len(blocks) != 5 {
		t.Fatalf("the tour has %d blocks of Go", len(blocks)-1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	folder := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		from, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		overlay.Replace[from] = filepath.Join(folder, name)
		if err := os.WriteFile(overlay.Replace[from], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	insert := func(text, more, before string) string {
		t.Helper()
		first, rest, found := strings.Cut(text, before)
		if !found {
			t.Fatalf("there is no %q", before)
		}
		return first + more + before + rest
	}
	put("path_contact_test.go", blocks[1])
	config := insert(file("config.go"), blocks[2], "\n\t// PlatformClient ")
	put("config.go", insert(config, blocks[3], "\tname: \"platform_client\""))
	put("path_contact.go", blocks[4])
	put("backend.go", strings.Replace(file("backend.go"), "\t\t\tb.pathCheck(),\n",
		"\t\t\tb.pathCheck(),\n\t\t\tb.pathContact(),\n", 1))
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), "go", "test", "-overlay", list, "-v", "-run", "^TestContact$", ".")
	if out, err := run.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestContact") {
		t.Errorf("%v\n%s", err, out)
	}
}
