package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The script in docs/sandbox.md works even if the sandbox starts a second late: no command fails, and the
// script ends the sandbox.
func TestSandboxPage(t *testing.T) {
	_, text, _ := strings.Cut(page(t, "docs/sandbox.md"), "```sh\n")
	script, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("docs/sandbox.md has no script")
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"jwks.json": `{"keys":[]}`,
		"late":      "#!/bin/sh\nsleep 1\nexec " + dir + "/redox-sandbox \"$@\"\n", // on a busy machine
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil { //nolint:gosec // is run
			t.Fatal(err)
		}
	}
	script = strings.NewReplacer(
		"-o redox-sandbox", "-o "+dir+"/redox-sandbox", "./redox-sandbox", dir+"/late",
		"jwks.json", dir+"/jwks.json", "127.0.0.1:8080", "127.0.0.1:"+port,
	).Replace(script)
	before, after, found := strings.Cut(script, "# your tests here")
	if !found {
		t.Fatal("its script has no place for tests")
	}
	script = before + "curl -sS -o /dev/null -w 'answers %{http_code}\\n' -d grant_type=none http://127.0.0.1:" + port +
		"/v2/auth/token\n#" + after
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", script)
	cmd.Dir = repository
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(dir, "log")) // with a pipe, Run would wait for a sandbox that keeps running
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // if all went well, none is left
	out, readErr := os.ReadFile(log.Name())
	if err != nil || readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, out)
	}
	for _, want := range []string{"sandbox listening on http://127.0.0.1:" + port,
		"PUT /dashboard/apikeys 204", "answers 400"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	for range 200 {
		if exec.CommandContext(t.Context(), "curl", "-s", "http://127.0.0.1:"+port).Run() != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the sandbox still runs")
}
