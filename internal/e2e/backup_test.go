package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// unsealCmd unseals Vault: unseal [lost]. After a restore, unseal lost uses the unseal key of the lost Vault,
// and makes its root token the token of the script.
func unsealCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	key := ""
	switch {
	case len(args) > 0:
		key, w.rootToken = w.cluster.lost.unseal, w.cluster.lost.rootToken
		ts.Setenv("VAULT_TOKEN", w.rootToken)
	case w.cluster != nil:
		key = w.cluster.unseal
	default:
		raw, err := os.ReadFile(w.vault.log)
		ts.Check(err)
		_, rest, _ := strings.Cut(string(raw), "Unseal Key: ")
		key, _, _ = strings.Cut(rest, "\n")
	}
	vaultCmd(ts, false, []string{"operator", "unseal", strings.TrimSpace(key)})
	ts.Check(w.waitHealth(w.vault, http.StatusOK))
}

// lost holds the unseal key and the root token of a Vault that was lost.
type lost struct{ unseal, rootToken string }

// loseCmd stops the only node for good, and starts an empty Vault at another address, with a new unseal key:
// lose.
func loseCmd(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	ts.Check(w.keepKeys())
	gone := w.cluster
	w.vault.stop()
	log, err := os.ReadFile(w.vault.log)
	ts.Check(err)
	w.record("the log of the lost node", string(log))
	node, err := w.startNode(len(gone.nodes))
	ts.Check(err)
	w.vault, w.cluster = node, &cluster{nodes: []*server{node}, lost: lost{gone.unseal, w.rootToken}}
	ts.Check(w.initialize())
	ts.Setenv("VAULT_ADDR", node.addr)
	ts.Setenv("VAULT_TOKEN", w.rootToken)
	ts.Check(w.enableAudit())
	_, _ = fmt.Fprintln(ts.Stdout(), "an empty Vault takes its place")
}
