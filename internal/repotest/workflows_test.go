package repotest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	uses = regexp.MustCompile(`(?m)^[^#\n]*\buses\b.*$`)
	// An action is pinned to a commit, because a tag can be moved. A comment in the same
	// line names the version for people.
	pinned = regexp.MustCompile(`^ *(?:- )?uses: ([\w.-]+/[\w.-]+)(?:/[\w./-]+)?@([0-9a-f]{40} # v\d+\.\d+\.\d+)$`)
	local  = regexp.MustCompile(`^ *(?:- )?uses: \./[\w./-]+$`)
)

// unpinned returns the lines of a workflow that use an action of another repository without a
// pin, or with another pin than the one in pins. pins maps a repository to the first pin of its
// actions; unpinned adds those that are missing.
func unpinned(workflow string, pins map[string]string) (wrong []string) {
	for _, line := range uses.FindAllString(workflow, -1) {
		action := pinned.FindStringSubmatch(line)
		switch {
		case local.MatchString(line):
		case action == nil:
			wrong = append(wrong, strings.TrimSpace(line)+": not pinned as owner/name@<40 hex digits> # vX.Y.Z")
		case pins[action[1]] == "":
			pins[action[1]] = action[2]
		case pins[action[1]] != action[2]:
			wrong = append(wrong, strings.TrimSpace(line)+": elsewhere it is "+pins[action[1]])
		}
	}
	return wrong
}

// Workflows and the example for GitHub Actions pin each action of another repository to a
// commit, and everywhere to the same one.
func TestWorkflowsArePinned(t *testing.T) {
	atRoot(t)
	files, err := filepath.Glob(".github/workflows/*.y*ml")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	pins := map[string]string{}
	for _, file := range append(files, "examples/github-actions/token.yml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range unpinned(string(text), pins) {
			t.Errorf("%s: %s", file, wrong)
		}
	}
	if len(pins) < 5 {
		t.Errorf("only %d actions were found: %v", len(pins), pins)
	}
}

// Each workflow names bash as the shell of its run steps: then a step fails if any command of a
// pipe fails. No checkout leaves a token for later steps.
func TestWorkflowsAreCareful(t *testing.T) {
	atRoot(t)
	files, err := filepath.Glob(".github/workflows/*.y*ml")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\ndefaults:\n  run:\n    shell: bash\n") {
			t.Errorf("%s does not name bash as the shell of all runs", file)
		}
		n := strings.Count(string(text), "actions/checkout@")
		if safe := strings.Count(string(text), "persist-credentials: false\n"); n != safe {
			t.Errorf("%s: %d of %d checkouts say persist-credentials: false", file, safe, n)
		}
	}
}

// unpinned finds each of these mistakes.
func TestUnpinned(t *testing.T) {
	commit, other := strings.Repeat("a1", 20), strings.Repeat("b2", 20)
	for line, is := range map[string]bool{
		"      - uses: a/b@" + commit + " # v1.2.3":      true,
		"        uses: a/b/c@" + commit + " # v1.2.3":    true,
		"    uses: ./.github/workflows/verify.yml":       true,
		"      # uses: a/b@v1 would do":                  true,
		"      - uses: a/b@" + commit:                    false,
		"      - uses: a/b@" + commit + " # v1":          false,
		"      - uses: a/b@" + commit[:39] + " # v1.2.3": false,
		"      - uses: a/b@v1 # v1.2.3":                  false,
		"      - {uses: a/b@" + commit + "}":             false,
		"      - \"uses\": a/b@v1":                       false,
		"      - uses: docker://a/b:1":                   false,
		"      - uses: k/n@" + other + " # v1.2.3":       false,
		"      - uses: k/n/o@" + other + " # v1.2.3":     false,
		"      - uses: k/n@" + commit + " # v1.2.4":      false,
		"      - uses: k/n@" + commit + " # v1.2.3":      true,
	} {
		pins := map[string]string{"k/n": commit + " # v1.2.3"}
		if wrong := unpinned("jobs:\n"+line+"\n", pins); (wrong == nil) != is {
			t.Errorf("%s: %v", line, wrong)
		}
	}
}
