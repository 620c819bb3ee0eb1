package repotest

import (
	"os"
	"strings"
	"testing"
)

// excerptOf splits an excerpt at its lines …, which stand for lines that were left out. It
// returns the first part that text does not have behind the parts before it, or "".
func excerptOf(excerpt, text string) (missing string) {
	for part := range strings.SplitSeq("\n"+excerpt, "\n…") {
		_, rest, found := strings.Cut("\n"+text, part+"\n")
		if !found {
			return part
		}
		text = rest
	}
	return ""
}

// The transcript in README.md is an excerpt of that in docs/demo.md. TestDemo in internal/e2e
// compares docs/demo.md with what scripts/demo prints.
func TestReadmeTranscript(t *testing.T) {
	atRoot(t)
	block := func(path string) string {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, block, found := strings.Cut(string(raw), "\n```console\n")
		block, _, ended := strings.Cut(block, "\n```")
		if !found || !ended {
			t.Fatalf("%s has no transcript", path)
		}
		return block
	}
	excerpt := block("README.md")
	if missing := excerptOf(excerpt, block("docs/demo.md")+"\n"); missing != "" {
		t.Errorf("docs/demo.md does not have, at that place:%s", missing)
	}
	if commands := strings.Count("\n"+excerpt, "\n$ vault "); commands != 4 {
		t.Errorf("%d commands were found", commands)
	}
}

func TestExcerpt(t *testing.T) {
	const text = "$ a\nb\nc\n$ d\ne\n"
	for excerpt, want := range map[string]string{
		"$ a\nb\n…\n$ d\n…": "", "$ a\n…\nc\n$ d\ne": "", "…\ne": "", "$ a\nb": "",
		"$ a\nc": "\n$ a\nc", "$ d\n…\n$ a": "\n$ a", "$ a\n…\nd": "\nd", "a\nb": "\na\nb", "$ a\n…\nb\n…\nb": "\nb",
	} {
		if got := excerptOf(excerpt, text); got != want {
			t.Errorf("%q: %q, want %q", excerpt, got, want)
		}
	}
}
