package e2e

import (
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// killLeaderCmd kills the process of the active node (kill -9), but not that node's plugin, which it kills
// when the script ends. It waits until another node is active and serves a token of the client. The script
// then talks to that node: killleader <path of a client>.
func killLeaderCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	old, err := w.leader()
	ts.Check(err)
	orphans, err := children(old.cmd.Process.Pid)
	ts.Check(err)
	ts.Defer(func() {
		for _, pid := range orphans {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
	start := time.Now()
	ts.Check(old.cmd.Process.Kill())
	<-old.done
	w.cluster.dead = old
	w.vault, err = w.leader()
	ts.Check(err)
	ts.Setenv("VAULT_ADDR", w.vault.addr)
	leads := time.Since(start)
	ts.Check(until(30*time.Second, func() error {
		_, err := w.token(args[0])
		return err
	}))
	_, _ = fmt.Fprintf(ts.Stdout(), "another node leads after %.1f s and serves a token after %.1f s, with "+
		"performance_multiplier = 1\n",
		leads.Seconds(), time.Since(start).Seconds())
}

// reviveCmd starts the killed node again, unseals it, and waits until it is a standby that votes: revive.
func reviveCmd(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	node := w.cluster.dead
	ts.Check(node.start(w.dir))
	ts.Check(w.waitHealth(node, http.StatusServiceUnavailable))
	ts.Check(w.unseal(node))
	ts.Check(w.waitHealth(node, http.StatusTooManyRequests))
	ts.Check(until(30*time.Second, w.allVote))
}
