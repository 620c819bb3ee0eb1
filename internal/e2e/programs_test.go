package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// programs are the example programs that can run here, one per language. They run side by side and
// must all behave the same.
type programs struct {
	running []*program
	counted [3]int // the counts at the last count command, or else at the first start
	stub    *stub  // nil unless there is one
}

type program struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	said  bytes.Buffer // what it wrote to stderr; complete when lines is closed and cmd has ended
}

// languages returns, by language, the command of each example program that can run here.
func languages(ts *testscript.TestScript) map[string][]string {
	abs := func(name string) string {
		path, err := filepath.Abs(filepath.Join(repository, "examples", name))
		ts.Check(err)
		return path
	}
	goProgram := ts.MkAbs("redox-go")
	if _, err := os.Stat(goProgram); err != nil {
		build := exec.CommandContext(context.Background(), "go", "build", "-race", "-o", goProgram, module+"/examples/go")
		build.Env = os.Environ() // the script's HOME has no build cache
		if out, err := build.CombinedOutput(); err != nil {
			ts.Fatalf("%v: %s", err, out)
		}
	}
	all := map[string][]string{"go": {goProgram}}
	if has, _ := condition("python"); has {
		all["python"] = []string{"python3", abs("python/redox.py")}
	}
	if has, _ := condition("node"); has {
		all["node"] = []string{"node", abs("node/redox.mjs")}
	}
	if has, _ := condition("java"); has {
		all["java"] = []string{"java", abs("java/Redox.java")}
	}
	return all
}

// programsCmd controls the examples in Go, Python, Node.js and Java:
//
//	programs start [<variable>=<value>…]  ends the programs that run, and starts all of them
//	programs ask <family>                 asks each program, and prints the answers
//	programs until failed                 asks until there were twice as many more token requests as programs
//	programs until renewed                asks until as many more tokens were issued as there are programs
//	programs fail <family>                asks each program, which must end with an error, and prints the errors
//	programs meet <fault>                 makes as many of the next token requests fail as there are programs
//	programs count <n> <n> <n>            compares with the numbers of token requests, of tokens issued, and of API
//	                                      requests refused for their token, per program, since the last count or
//	                                      else the first start; - accepts any number
func programsCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	p := &w.programs
	switch args[0] {
	case "start":
		p.stop(w)
		if p.counted[0] == 0 { // otherwise an earlier start or count has set it
			p.counted = p.count(w)
		}
		for name, argv := range languages(ts) {
			p.running = append(p.running, startProgram(ts, name, argv, args[1:]))
		}
		ts.Defer(func() { p.stop(w) })
	case "ask":
		for _, answer := range p.ask(ts, w, args[1]) {
			_, _ = fmt.Fprintln(ts.Stdout(), answer)
		}
	case "until":
		met := func() int { return len(w.sandbox.Tokens()) }
		more := len(p.running)
		if args[1] == "failed" {
			met = func() int { return len(w.sandbox.Assertions()) }
			more *= 2
		}
		enough := met() + more
		ts.Check(until(30*time.Second, func() error {
			p.ask(ts, w, "Green")
			if met() < enough {
				return errors.New("too few token requests, or tokens")
			}
			return nil
		}))
	case "meet":
		f, err := redoxtest.ParseFault(args[1])
		ts.Check(err)
		w.sandbox.SetFault(f, len(p.running))
	case "fail":
		p.fail(ts, w, args[1])
	case "count":
		now := p.count(w)
		for i, what := range []string{"token requests", "tokens issued", "tokens refused"} {
			got := float64(now[i]-p.counted[i]) / float64(len(p.running))
			if want := args[1+i]; want != "-" && want != fmt.Sprint(got) {
				ts.Fatalf("%v %s per program, want %s", got, what, want)
			}
		}
		p.counted = now
	}
}

// count returns how many assertions were received and how many tokens were issued so far, and how many
// API requests were refused because of their token.
func (p *programs) count(w *world) [3]int {
	return [3]int{len(w.sandbox.Assertions()), len(w.sandbox.Tokens()), w.sandbox.Unauthorized()}
}

func startProgram(ts *testscript.TestScript, name string, argv, variables []string) *program {
	p := &program{name: name, lines: make(chan string, 1),
		cmd: exec.CommandContext(context.Background(), argv[0], argv[1:]...)}
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "VAULT_") })
	p.cmd.Env = append(p.cmd.Env, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "VAULT_ADDR="+ts.Getenv("VAULT_ADDR"),
		"PYTHONDONTWRITEBYTECODE=1")
	p.cmd.Env = append(p.cmd.Env, variables...)
	p.cmd.Stderr = &p.said
	var err error
	p.in, err = p.cmd.StdinPipe()
	ts.Check(err)
	out, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	return p
}

// ask makes all programs search for a family name at the same time, and returns their
// answers.
func (p *programs) ask(ts *testscript.TestScript, w *world, family string) (answers []string) {
	for _, one := range p.running {
		_, err := fmt.Fprintln(one.in, family)
		ts.Check(err)
	}
	for _, one := range p.running {
		answer, alive := "", false
		select {
		case answer, alive = <-one.lines:
		case <-time.After(60 * time.Second):
			ts.Fatalf("%s never answers", one.name)
		}
		if !alive {
			_ = one.cmd.Wait()
			ts.Fatalf("%s has ended: %s", one.name, one.said.String())
		}
		w.record("program "+one.name, answer)
		answers = append(answers, one.name+": "+answer)
	}
	return answers
}

// fail makes all programs search, and fails the script unless each of them ends with
// exit status 1. It prints their errors.
func (p *programs) fail(ts *testscript.TestScript, w *world, family string) {
	for _, one := range p.running {
		_, _ = fmt.Fprintln(one.in, family) // it may have ended before it reads
	}
	for _, one := range p.running {
		if answer, alive := <-one.lines; alive {
			ts.Fatalf("%s says %s, and should have failed", one.name, answer)
		}
		var exit *exec.ExitError
		if err := one.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			ts.Fatalf("%s ended with %v: %s", one.name, err, one.said.String())
		}
		w.record("program "+one.name, one.said.String())
		_, _ = fmt.Fprintf(ts.Stdout(), "%s: %s\n", one.name, strings.TrimSpace(one.said.String()))
	}
}

// stop ends the programs by closing their input, and records what they wrote.
func (p *programs) stop(w *world) {
	for _, one := range p.running {
		_ = one.in.Close()
		for line := range one.lines {
			w.record("program "+one.name, line)
		}
		_ = one.cmd.Wait() // it may have been waited for
		w.record("program "+one.name, one.said.String())
	}
	p.running = nil
}
