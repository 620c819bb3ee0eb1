package repotest

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// page holds the links of a Markdown file, and the anchors of its headings.
type page struct {
	links   []string
	anchors map[string]bool
}

var (
	mdCode    = regexp.MustCompile("`[^`]*`")
	mdLink    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	mdHeading = regexp.MustCompile(`^#{1,6} +(.*)$`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// readPage finds the links and headings of a Markdown text. It ignores links in code, and
// headings in code blocks. The anchors are those that GitHub makes.
func readPage(text string) page {
	p := page{anchors: map[string]bool{}}
	fenced := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if fenced {
			continue
		}
		if heading := mdHeading.FindStringSubmatch(line); heading != nil {
			title := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading[1], "$1")
			slug := strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
			unique := slug
			for n := 1; p.anchors[unique]; n++ {
				unique = fmt.Sprintf("%s-%d", slug, n)
			}
			p.anchors[unique] = true
		}
		// Remove inline code: what looks like a link in it is none.
		for _, link := range mdLink.FindAllStringSubmatch(mdCode.ReplaceAllString(line, ""), -1) {
			p.links = append(p.links, link[1])
		}
	}
	return p
}

// brokenLinks returns the links of a file that cannot be parsed, or that have no scheme and
// lead to no file, folder or heading of this repository. relative is how many links have no
// scheme.
func brokenLinks(path, text string) (broken []string, relative int) {
	for _, link := range readPage(text).links {
		u, err := url.Parse(link)
		if err != nil {
			broken = append(broken, link+": "+err.Error())
			continue
		}
		if u.Scheme != "" {
			continue
		}
		relative++
		target := path
		if u.Path != "" {
			target = filepath.Join(filepath.Dir(path), u.Path)
		}
		info, err := os.Stat(target)
		switch {
		case err != nil || strings.HasPrefix(target, "..") || filepath.IsAbs(u.Path):
			broken = append(broken, link+": there is no such file")
		case u.Fragment == "":
		case info.IsDir():
			broken = append(broken, link+": a folder has no headings")
		default:
			there := []byte(text)
			if u.Path != "" {
				if there, err = os.ReadFile(target); err != nil {
					broken = append(broken, link+": "+err.Error())
					continue
				}
			}
			if !readPage(string(there)).anchors[u.Fragment] {
				broken = append(broken, link+": there is no such heading")
			}
		}
	}
	return broken, relative
}

// In the documents, every link without a scheme leads to a file or folder that exists, and, if
// it names a heading, to a heading that exists.
func TestLinks(t *testing.T) {
	atRoot(t)
	files := []string{"README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"}
	for _, pattern := range []string{"docs/*.md", "examples/*/README.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil || len(more) == 0 {
			t.Fatal(pattern, more, err)
		}
		files = append(files, more...)
	}
	links := 0
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		broken, relative := brokenLinks(path, string(raw))
		links += relative
		for _, link := range broken {
			t.Errorf("%s links to %s", path, link)
		}
	}
	if links < 60 {
		t.Errorf("%d links were found", links)
	}
}

// brokenLinks reports these broken links, and none of the good ones.
func TestLinksFindsWhatIsBroken(t *testing.T) {
	atRoot(t)
	heading := "# A `b_c` (d), e\n# A `b_c` (d), e\n```\n# not one\n```\n"
	for text, want := range map[string]bool{
		"[a](docs/api.md) [b](docs) [c](#a-b_c-d-e) [`[d]`](#a-b_c-d-e-1) [e](https://example.org/#x)": false,
		"[a](docs/nothing.md)":     true,
		"[a](../README.md)":        true,
		"[a](docs#api)":            true,
		"[a](#not-one)":            true,
		"[a](#a-b_c-d-e-2)":        true,
		"[a](docs/api.md#nothing)": true,
		"[a](docs/api.md#token)":   false,
		"`[a](nothing.md)`":        false,
		"```\n[a](nothing)\n```":   false,
		"[a](/docs/api.md)":        true,
		"[`a`](nothing.md)":        true,
	} {
		broken, _ := brokenLinks("README.md", heading+text+"\n")
		if (len(broken) > 0) != want {
			t.Errorf("%s: %q", text, broken)
		}
	}
}
