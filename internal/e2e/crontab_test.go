package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	cronSetting = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=(.*)$`)
	cronJob     = regexp.MustCompile(`^(\S+) +(\S+) +(\S+) +(\S+) +(\S+) +(\S.*)$`)
	cronPart    = regexp.MustCompile(`^(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?$`)
	// What the five fields may be: minute, hour, day of month, month, day of week.
	cronBounds = [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}}
)

// job is a line that cron runs, with the settings that stand above it.
type job struct {
	settings []string
	command  string
}

// parseCrontab reads what every cron understands, and refuses the rest.
func parseCrontab(text string) (jobs []job, err error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, errors.New("the last line has no end: cron leaves it out")
	}
	var settings []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch fields := cronJob.FindStringSubmatch(line); {
		case line == "", strings.HasPrefix(line, "#"):
		case cronSetting.MatchString(line):
			if strings.ContainsAny(line, "$~'\"#") {
				return nil, fmt.Errorf("cron expands nothing in a setting, and some take no quotes or comment: %s", line)
			}
			settings = append(settings, line)
		case fields == nil:
			return nil, fmt.Errorf("neither a setting nor five fields and a command: %s", line)
		case strings.Contains(fields[6], "%"):
			return nil, fmt.Errorf("cron ends the command at %%: %s", line)
		default:
			for i, bounds := range cronBounds {
				if err := cronField(fields[i+1], bounds); err != nil {
					return nil, fmt.Errorf("field %d of %q: %w", i+1, line, err)
				}
			}
			jobs = append(jobs, job{settings[:len(settings):len(settings)], fields[6]})
		}
	}
	if len(jobs) == 0 {
		return nil, errors.New("there is nothing to run")
	}
	return jobs, nil
}

func cronField(field string, bounds [2]int) error {
	for part := range strings.SplitSeq(field, ",") {
		found := cronPart.FindStringSubmatch(part)
		if found == nil {
			return fmt.Errorf("%q is no number, range or step", part)
		}
		low, high := bounds[0], bounds[1]
		for i, n := range []*int{&low, &high} {
			if found[i+1] == "" {
				continue
			}
			var err error
			if *n, err = strconv.Atoi(found[i+1]); err != nil || *n < bounds[0] || *n > bounds[1] {
				return fmt.Errorf("%s is not in %d-%d", found[i+1], bounds[0], bounds[1])
			}
		}
		step, _ := strconv.Atoi(found[3]) // 0 without one
		if low > high || found[3] != "" && (step < 1 || step > bounds[1]) {
			return fmt.Errorf("%q never comes", part)
		}
	}
	return nil
}

// crontabCmd runs each command of a crontab of the examples once, as cron does:
// by /bin/sh, with what cron sets, the crontab's own settings, and nothing else.
// What a command says, of which cron makes a mail, is stdout, and how it ended.
// Each old stands in the crontab and gives way to new, an address or a path:
// crontab <example> [<old> <new>]…
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
	jobs, err := parseCrontab(text)
	ts.Check(err)
	home := ts.Getenv("HOME")
	for _, job := range jobs {
		cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", job.command)
		cmd.Dir = home
		cmd.Env = append([]string{"HOME=" + home, "LOGNAME=somebody", "SHELL=/bin/sh", "PATH=/usr/bin:/bin"}, job.settings...)
		said, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			ts.Check(err)
		}
		worldOf(ts).record("crontab", string(said))
		_, err = fmt.Fprintf(ts.Stdout(), "%sexit %d\n", said, cmd.ProcessState.ExitCode())
		ts.Check(err)
	}
}

// Each crontab of the examples is one, and what is none is refused.
func TestCrontabs(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(repository, "examples/*/*.crontab"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseCrontab(string(raw)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, wrong := range []string{
		"", "# nothing\n", "0 * * * * true", "0 * * * true\n", "60 * * * * true\n", "0 24 * * * true\n", "0 0 0 * * true\n", "0 0 * 13 * true\n", "0 0 * * 8 true\n",
		"*/0 * * * * true\n", "*/90 * * * * true\n", "30-10 * * * * true\n", "x * * * * true\n", "0 * * * * date +%s\n", "A B=c\n0 * * * * true\n", "A=$B\n0 * * * * true\n",
	} {
		if jobs, err := parseCrontab(wrong); err == nil {
			t.Errorf("%q is %v", wrong, jobs)
		}
	}
	jobs, err := parseCrontab("A=1\n5,10-20/2 0 1 1 7 one\n\nB=2\n*/15 * * * * two words\n")
	if got, want := fmt.Sprintf("%q %v", jobs, err), `[{["A=1"] "one"} {["A=1" "B=2"] "two words"}] <nil>`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
