package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// page returns the text of a file of the repository.
func page(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// documents returns the text of the README, of docs/*.md, and of the READMEs of the examples.
func documents(t *testing.T) string {
	t.Helper()
	all := page(t, "README.md")
	paths, err := filepath.Glob(filepath.Join(repository, "docs/*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	examples, err := filepath.Glob(filepath.Join(repository, "examples/*/README.md"))
	if err != nil || len(examples) == 0 {
		t.Fatal(examples, err)
	}
	for _, path := range append(paths, examples...) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all += string(raw)
	}
	return all
}

// variable lists the parts of a demo's output that differ between two runs, and the
// text that replaces each.
var variable = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`"n":"[^"]*"`), `"n":"…"`},
	{regexp.MustCompile(`sandbox-[A-Z2-7]{52}`), "TOKEN"},
	{regexp.MustCompile(`(?m)([ "])[A-Za-z0-9_-]{43}("|$)`), "${1}KEY-ID$2"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST"},
	{regexp.MustCompile(`(expires_in|rotation_period|ttl)( +)[0-9ms]+`), "$1$2LEFT"},
	{regexp.MustCompile(`(clock_skew) +-?[0-9]+s`), "$1 SKEW"},
	{regexp.MustCompile(`(took) +[0-9.]+m?s`), "$1 DURATION"},
}

func normal(text string) string {
	for _, v := range variable {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return text
}

// normal also replaces a key ID that begins and ends with a hyphen.
func TestNormal(t *testing.T) {
	id := "-" + strings.Repeat("a", 41) + "-"
	if got := normal("key_id  " + id + "\n\"kid\":\"" + id + "\""); got != "key_id  KEY-ID\n\"kid\":\"KEY-ID\"" {
		t.Error(got)
	}
}

// docs/demo.md shows what scripts/demo prints. Two demos run at the same time, with settings for Vault in the
// environment that they must not use.
func TestDemo(t *testing.T) {
	_, block, found := strings.Cut(page(t, "docs/demo.md"), "<!-- demo -->\n```console\n")
	if !found {
		t.Fatal("docs/demo.md has no transcript")
	}
	want, _, _ := strings.Cut(block, "\n```")
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), filepath.Join(repository, "scripts/demo"))
			tmp := t.TempDir()
			cmd.Env = append(os.Environ(), "VAULT_BIN="+vaultBin, "VAULT_ADDR=http://127.0.0.1:1",
				"VAULT_NAMESPACE=nobody", "TMPDIR="+tmp)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if left, err := filepath.Glob(tmp + "/redox-demo.*"); len(left) > 0 || err != nil {
				t.Errorf("it leaves behind %v, %v", left, err)
			}
			_, got, _ := strings.Cut(string(out), "\n\n# Register")
			got, _, _ = strings.Cut("# Register"+got, "\n\n# That was all")
			if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
				t.Errorf("docs/demo.md shows another transcript (-page +demo):\n%s", diff)
			}
		})
	}
	t.Run("a wrong argument", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(repository, "scripts/demo"), "--kepp").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "usage: scripts/demo [--keep]") {
			t.Errorf("%v, %s", err, out)
		}
	})
}

// With --keep, Vault and the sandbox keep running, and the printed variables give access to them. The printed
// command ends Vault.
func TestDemoKeep(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), filepath.Join(repository, "scripts/demo"), "--keep")
	cmd.Env = append(os.Environ(), "VAULT_BIN="+vaultBin, "TMPDIR="+t.TempDir())
	log, err := os.Create(filepath.Join(t.TempDir(), "log")) // a pipe would keep Run waiting
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	out, readErr := os.ReadFile(log.Name())
	if err != nil || readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, out)
	}
	_, printed, _ := strings.Cut(string(out), "All of it keeps running.")
	use, end, found := strings.Cut(printed, "To end it:")
	if !found {
		t.Fatalf("it does not say how to use and end it:\n%s", out)
	}
	bash := func(script string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "bash", "-ec", script).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	_, exports, _ := strings.Cut(use, "\n\n")
	if token := bash(exports + "\nvault read -field=access_token redox/token"); !strings.HasPrefix(token, "sandbox-") {
		t.Errorf("the token is %q", token)
	}
	bash(end)
	ended := exports + "\n! curl -s $VAULT_ADDR && ! curl -s $REDOX"
	for range 200 {
		if exec.CommandContext(t.Context(), "bash", "-uc", ended).Run() == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("Vault or the sandbox still runs")
}

// variables matches the parts of a command that may differ between the documents and a script: values after =
// and shell variables.
var variables = regexp.MustCompile(`=\$\([^)]*\)|=[^ ]+|\$[A-Z_]+`)

// pattern returns a command without comment and redirection, and with * for each part
// that variables matches.
func pattern(line string) string {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " > ")
	return strings.TrimSpace(variables.ReplaceAllString(line, "*"))
}

// typedByScripts returns the patterns of all lines of the scripts, without a leading [jq] or exec.
func typedByScripts(t *testing.T) map[string]bool {
	t.Helper()
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	patterns := map[string]bool{}
	for _, script := range scripts {
		raw, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimPrefix(line, "[jq] ")
			patterns[pattern(strings.TrimPrefix(line, "exec "))] = true
		}
	}
	return patterns
}

// Each line that begins with the word vault, in the README, in docs or in the READMEs of the examples, is run
// by a script, except vault agent.
func TestReadmeCommands(t *testing.T) {
	patterns := typedByScripts(t)
	commands := 0
	for line := range strings.Lines(documents(t)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "vault ") || strings.HasPrefix(line, "vault agent ") { // agentCmd runs that
			continue
		}
		commands++
		if strings.Contains(line, " -oci_image=") { // no container program is installed here, so Vault refuses it
			line = "! " + line
		}
		if !patterns[pattern(line)] {
			t.Errorf("no script runs: %s", line)
		}
	}
	if commands < 12 {
		t.Errorf("%d commands were found", commands)
	}
}
