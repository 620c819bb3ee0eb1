package repotest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// No line of a Mermaid picture has a semicolon: it would end a statement, and GitHub would show
// an error instead of the picture.
func TestPictures(t *testing.T) {
	atRoot(t)
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pictures := 0
	for _, path := range append(pages, "README.md") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(string(raw), "\n```mermaid\n") {
			if i == 0 {
				continue
			}
			pictures++
			picture, _, _ := strings.Cut(part, "\n```")
			for line := range strings.Lines(picture) {
				if strings.Contains(line, ";") {
					t.Errorf("%s: %s", path, line)
				}
			}
		}
	}
	if pictures < 5 {
		t.Errorf("%d pictures were found", pictures)
	}
}
