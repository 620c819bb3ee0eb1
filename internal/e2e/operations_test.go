package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// byHand lists the commands of the operator's guide that no script types, each with the
// reason or with what is run instead.
var byHand = map[string]string{
	"vault operator unseal":       "asks for the key on a terminal: unsealCmd has it",
	"umask 077":                   "a shell's own",
	"unset VAULT_TOKEN":           "likewise: env does it",
	"crontab redox-check.crontab": "changes the machine: operations.txtar runs what stands in it, as cron would",
}

// Each command in a console block of the operator's guide, except those in byHand, is typed in a script.
func TestOperationsCommands(t *testing.T) {
	typed := typedByScripts(t)
	raw, err := os.ReadFile(filepath.Join(repository, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	// Scripts use paths of their own.
	own := strings.NewReplacer(
		"/etc/vault.d/plugins/vault-plugin-secrets-redox-0.1.0", "*/*", "/etc/vault.d/plugins/", "*/",
		"install -D -m 0755 vault-plugin", "install -D -m 0755 */vault-plugin",
		"install -m 0755 redox-check.sh", "install -m 0755 */cron/redox-check.sh", "/usr/local/bin/redox-check.sh",
		"./redox-check.sh",
		"VAULT_TOKEN=$WRAPPING_TOKEN ", "", // the env command does that in scripts
	)
	assigned := regexp.MustCompile(`^[A-Z0-9_]+=\$\((.*)\)$`) // the capture command does that in scripts
	commands, blocks := 0, regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(raw), -1)
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			command, is := strings.CutPrefix(strings.TrimSpace(line), "$ ")
			if !is || byHand[command] != "" {
				continue
			}
			if inner := assigned.FindStringSubmatch(command); inner != nil {
				command, _, _ = strings.Cut(inner[1], " | cut ")
			}
			commands++
			if !typed[pattern(own.Replace(command))] {
				t.Errorf("no script runs: %s", command)
			}
		}
	}
	if commands < 30 {
		t.Errorf("%d commands were found", commands)
	}
}
