package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	cronSetting = regexp.MustCompile(`(?m)^[A-Z_]+=.*$`)
	cronCommand = regexp.MustCompile(`(?m)^(?:[0-9*][0-9*/,-]* ){5}(.+)$`)
)

// crontabCmd runs the only command of a crontab of the examples once, as cron does: with /bin/sh, the
// variables that cron sets, the crontab's own settings, and nothing else. stdout is the command's output,
// which cron would mail, and its exit status. Each <old>, an address or a path in the crontab, is replaced by
// <new>: crontab <example> [<old> <new>]…
func crontabCmd(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples", args[0]))
	ts.Check(err)
	text := string(raw)
	for pair := args[1:]; len(pair) > 1; pair = pair[2:] {
		if !strings.Contains(text, pair[0]) {
			ts.Fatalf("%s has no %q", args[0], pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	commands := cronCommand.FindAllStringSubmatch(text, -1)
	if len(commands) != 1 {
		ts.Fatalf("%s has %d commands", args[0], len(commands))
	}
	home := ts.Getenv("HOME")
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", commands[0][1])
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "LOGNAME=somebody", "SHELL=/bin/sh", "PATH=/usr/bin:/bin"}
	cmd.Env = append(cmd.Env, cronSetting.FindAllString(text, -1)...)
	said, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	worldOf(ts).record("crontab", string(said))
	_, err = fmt.Fprintf(ts.Stdout(), "%sexit %d\n", said, cmd.ProcessState.ExitCode())
	ts.Check(err)
}
