package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// tripwire is the sandbox's log. It calls a function when the n-th line that contains text is written. The
// sandbox writes a request's line before it sends the response.
type tripwire struct {
	mu    sync.Mutex
	text  string // part of the line, empty when it is not armed
	n     int
	act   func()
	fired chan struct{}
}

func (t *tripwire) Write(line []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text == "" || !strings.Contains(string(line), t.text) {
		return len(line), nil
	}
	if t.n--; t.n == 0 {
		t.text = ""
		t.act()
		close(t.fired)
	}
	return len(line), nil
}

// arm makes the tripwire call act at the n-th line from now on that contains text. It returns a channel that
// is closed after the call.
func (t *tripwire) arm(text string, n int, act func()) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text, t.n, t.act, t.fired = text, n, act, make(chan struct{})
	return t.fired
}

// crashesCmd starts a rotation for each moment, kills the plugin's process at that moment, and waits until
// the new key signs. Then it deletes the old key: crashes <path of a client> <moment>…. A <moment> is
// <n>:<text>, the n-th line of the sandbox's log that contains the text, from the start of the rotation on.
func crashesCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	for _, moment := range args[1:] {
		count, line, _ := strings.Cut(moment, ":")
		n, err := strconv.Atoi(count)
		ts.Check(err)
		old, err := w.settled(args[0])
		ts.Check(err)
		killed := w.tripwire.arm(line, n, func() {
			if err := w.killPlugin(); err != nil {
				w.record("killing the plugin", err.Error())
			}
		})
		start := time.Now()
		_, answer, err := w.call(http.MethodPut, args[0]+"/keys/rotate", "")
		ts.Check(err)
		next, err := field(answer, "key_id")
		ts.Check(err)
		select {
		case <-killed:
		case <-time.After(60 * time.Second):
			ts.Fatalf("the moment %s never comes", moment)
		}
		ts.Check(w.waitActive(args[0], next))
		token, err := w.token(args[0])
		ts.Check(err)
		if !w.sandbox.Live(token) {
			ts.Fatalf("Redox does not accept the token")
		}
		_, _ = fmt.Fprintf(ts.Stdout(), "killed at %s: %s signs after %.1f s\n", moment, next, time.Since(start).Seconds())
		ts.Check(w.keepKeys())
		status, answer, err := w.call(http.MethodDelete, args[0]+"/keys/"+old, "")
		ts.Check(err)
		if status >= 300 {
			ts.Fatalf("the old key is not deleted: HTTP %d: %s", status, answer)
		}
	}
}

// settled waits until the engine has nothing left to publish, and returns the ID of the active key.
func (w *world) settled(client string) (active string, err error) {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		_, answer, err := w.call(http.MethodGet, client+"/keys", "")
		if err != nil {
			return "", err
		}
		publication, err := field(answer, "publication")
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(publication, "about to ") && !strings.HasPrefix(publication, "not ") {
			return field(answer, "active")
		}
	}
	return "", fmt.Errorf("the keys of %s are never published", client)
}

// killPluginCmd kills all plugin processes of the script's Vault; in a cluster, those of the active node. If
// there is none yet, it waits for one.
func killPluginCmd(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(worldOf(ts).killPlugin())
}

func (w *world) killPlugin() error {
	active, err := w.leader()
	if err != nil {
		return err
	}
	var pids []int
	err = until(10*time.Second, func() error { // Vault may be starting it
		pids, err = children(active.cmd.Process.Pid)
		if err == nil && len(pids) == 0 {
			err = errors.New("there is no process to kill")
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// children returns the process IDs of a process's children. Those of a Vault are its plugins.
func children(of int) (pids []int, err error) {
	statuses, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range statuses {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The file begins with: pid (name) state ppid
		var pid, parent int
		var state string
		name, rest, _ := strings.Cut(string(raw), ") ")
		if _, err := fmt.Sscanf(name, "%d", &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscanf(rest, "%s %d", &state, &parent); err == nil && parent == of {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
