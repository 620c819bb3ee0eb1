package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// agent is a running Vault Agent or consul-template, and what the test saw in the file that it renders.
type agent struct {
	name string
	stop func()

	mu       sync.Mutex // guards all below
	token    string     // the token in the file, empty before the first
	renewals int
	looks    int
	bad      []string      // why a program could not have used the file
	least    time.Duration // the least life that a token had left when it was replaced
}

// agentCmd starts Vault Agent with the config of examples/agent, in a new directory with the role ID and
// secret ID of an AppRole: agent <name> <file of role ID> <file of secret ID> [<further HCL>].
func agentCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o700))
	for _, name := range []string{"agent.hcl", "token.ctmpl"} {
		path, err := filepath.Abs(filepath.Join(repository, "examples/agent", name))
		ts.Check(err)
		ts.Check(os.Symlink(path, filepath.Join(dir, name)))
	}
	for name, from := range map[string]string{"role-id": args[1], "secret-id": args[2]} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(ts.ReadFile(from)), 0o600))
	}
	flags := []string{"agent", "-config=agent.hcl"}
	if len(args) > 3 {
		ts.Check(os.WriteFile(filepath.Join(dir, "more.hcl"), []byte(args[3]), 0o600))
		flags = append(flags, "-config=more.hcl")
	}
	w.watch(ts, args[0], exec.CommandContext(context.Background(), w.cli, flags...))
}

// consulTemplateCmd builds consul-template, and starts it with the config of examples/agent, in a new
// directory with a Vault token: consultemplate <name> <file of token>.
func consulTemplateCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o700))
	for _, name := range []string{"consul-template.hcl", "token.ctmpl"} {
		path, err := filepath.Abs(filepath.Join(repository, "examples/agent", name))
		ts.Check(err)
		ts.Check(os.Symlink(path, filepath.Join(dir, name)))
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "vault-token"), []byte(ts.ReadFile(args[1])), 0o600))
	program := filepath.Join(dir, "consul-template")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", program,
		"github.com/hashicorp/consul-template")
	build.Dir = filepath.Join(repository, "tools/consul-template")
	build.Env = os.Environ() // the script's HOME has no build cache
	if out, err := build.CombinedOutput(); err != nil {
		ts.Fatalf("building consul-template: %v: %s", err, out)
	}
	w.watch(ts, args[0], exec.CommandContext(context.Background(), program, "-config=consul-template.hcl",
		"-vault-addr=http://"+w.forwarder.addr))
}

// watch starts cmd in the directory called name, and a goroutine that reads the file that cmd renders. Both
// end with the script.
func (w *world) watch(ts *testscript.TestScript, name string, cmd *exec.Cmd) {
	dir := ts.MkAbs(name)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "VAULT_ADDR=http://" + w.forwarder.addr}
	ts.Check(cmd.Start())
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{name: name, least: time.Hour}
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			a.look(w, filepath.Join(dir, "redox-token"))
			wait(ctx, 20*time.Millisecond)
		}
	})
	a.stop = sync.OnceFunc(func() {
		cancel()
		looking.Wait()
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		_ = cmd.Wait()                       // likewise
		w.record("agent "+a.name, said.String())
		if len(a.bad) > 0 {
			ts.Logf("%s: %s", a.name, said.String())
		}
	})
	ts.Defer(a.stop)
	w.agents = append(w.agents, a)
}

// look reads the file as a program does, and records why it cannot be used: it cannot be read, its mode is
// not 0600, or Redox refuses the token. Until there is a file, look does nothing.
func (a *agent) look(w *world, path string) {
	info, err := os.Stat(path)
	raw, readErr := os.ReadFile(path)
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) && a.token == "" {
		return
	}
	a.looks++
	token := string(raw)
	switch {
	case err != nil || readErr != nil:
		a.bad = append(a.bad, fmt.Sprint(err, readErr))
	case info.Mode().Perm() != 0o600:
		a.bad = append(a.bad, "mode "+info.Mode().String())
	case !w.sandbox.Live(token):
		a.bad = append(a.bad, fmt.Sprintf("%s: Redox refuses the token of renewal %d",
			time.Now().Format("15:04:05.000"), a.renewals))
	}
	if a.token != "" && a.token != token {
		a.renewals++
		a.least = min(a.least, w.sandbox.Left(a.token))
	}
	a.token = token
}

// agentsCmd waits until each agent has renewed its token n more times or has had a file that a program could
// not use. It prints what the looks at the files found: agents <n>.
func agentsCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	enough := map[*agent]int{}
	for _, a := range worldOf(ts).agents {
		a.mu.Lock()
		enough[a] = a.renewals + n
		a.mu.Unlock()
	}
	for a, want := range enough {
		ts.Check(until(time.Duration(n+2)*30*time.Second, func() error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.renewals < want && len(a.bad) == 0 {
				return fmt.Errorf("agent %s has renewed its token %d times, not %d", a.name, a.renewals, want)
			}
			return nil
		}))
	}
	for _, a := range worldOf(ts).agents {
		a.mu.Lock()
		_, _ = fmt.Fprintf(ts.Stdout(), "%s: %d looks, %d bad, %d renewals, the least that a token had left then: %.1f s\n",
			a.name, a.looks, len(a.bad), a.renewals, a.least.Seconds())
		for _, bad := range a.bad[:min(3, len(a.bad))] {
			_, _ = fmt.Fprintf(ts.Stdout(), "%s: %s\n", a.name, bad)
		}
		a.mu.Unlock()
	}
}

// outageCmd begins an outage when the first agent's token has at most <left> to live, and ends it after
// <for>: outage <left> <for> stopped|refused. Either Vault's process is stopped (SIGSTOP), or the agents'
// connections to Vault are refused. It prints whether the token was renewed meanwhile.
func outageCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	left, err := time.ParseDuration(args[0])
	ts.Check(err)
	length, err := time.ParseDuration(args[1])
	ts.Check(err)
	a := w.agents[0]
	before := ""
	ts.Check(until(3*time.Minute, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		before = a.token
		if w.sandbox.Left(before) > left {
			return errors.New("the token has much left still")
		}
		return nil
	}))
	end := func() error { return w.vault.cmd.Process.Signal(syscall.SIGCONT) }
	if args[2] == "refused" {
		ts.Check(w.forwarder.close())
		end = w.forwarder.open
	} else {
		ts.Check(w.vault.cmd.Process.Signal(syscall.SIGSTOP))
	}
	wait(context.Background(), length)
	a.mu.Lock()
	_, _ = fmt.Fprintf(ts.Stdout(), "the token was renewed while Vault was away: %v\n", a.token != before)
	a.mu.Unlock()
	ts.Check(end())
}
