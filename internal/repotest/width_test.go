package repotest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const width = 120

// onlyLink matches a line of Markdown that has only a link, and perhaps a bullet before it and
// a full stop or comma behind it.
var onlyLink = regexp.MustCompile(`^(?:[-*] )?(?:!?\[[^]]*\]\(\S+\)|<\S+>|https?://\S+|\[[^]]*\]: \S+)[.,]?$`)

// tooWide returns the numbers of the lines that are too wide. A tab counts as one column. In Markdown
// only prose counts, not tables, fenced code blocks, headings and lines that have only a link.
func tooWide(path, text string) []int {
	var numbers []int
	markdown, fenced, n := strings.HasSuffix(path, ".md"), false, 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if markdown {
			trimmed := strings.TrimSpace(line)
			fence := strings.HasPrefix(trimmed, "```")
			if fence {
				fenced = !fenced
			}
			if fence || fenced || strings.HasPrefix(trimmed, "|") || strings.HasPrefix(line, "#") ||
				onlyLink.MatchString(trimmed) {
				continue
			}
		}
		if utf8.RuneCountInString(line) > width {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// A line of Go, and of prose in Markdown, is at most 120 columns wide. docs/api.md is exempt.
func TestWidth(t *testing.T) {
	atRoot(t)
	files := map[string]int{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case path == "docs/api.md": // generated
			return nil
		case filepath.Ext(path) != ".go" && filepath.Ext(path) != ".md":
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files[filepath.Ext(path)]++
		for _, n := range tooWide(path, string(raw)) {
			t.Errorf("%s:%d is wider than %d columns", path, n, width)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files[".go"] < 50 || files[".md"] < 20 {
		t.Errorf("only %v files were found", files)
	}
}

func TestTooWide(t *testing.T) {
	wide, fits := strings.Repeat("é", width+1), strings.Repeat("é", width)
	for _, test := range []struct {
		path, text string
		want       []int
	}{
		{"a.go", fits + "\n\t" + fits[2:] + "\n", nil},
		{"a.go", "\n\t" + fits + "\n", []int{2}},
		{"a.go", "| " + wide + "\n# " + wide + "\n", []int{1, 2}},
		{"a.md", "| " + wide + "\n## " + wide + "\n```\n" + wide + "\n```\n", nil},
		{"a.md", "```\n```\n" + wide, []int{3}},
		{"a.md", fits + "\n- " + fits + "\n", []int{2}},
		{"a.md", "[a b](https://" + wide + ")\n- [a](" + wide + ").\n[a]: " + wide + "\n", nil},
		{"a.md", "See [a](" + wide + ")\n", []int{1}},
	} {
		if got := tooWide(test.path, test.text); !slices.Equal(got, test.want) {
			t.Errorf("%s %q: %v, want %v", test.path, test.text, got, test.want)
		}
	}
}
