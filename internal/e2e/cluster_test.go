package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cluster is a Vault of one or more nodes with raft storage. It replaces the Vault in development mode.
type cluster struct {
	nodes  []*server
	unseal string  // the unseal key
	dead   *server // the node that was killed
	lost   lost
}

const nodeConfig = `
storage "raft" {
  path                   = %[1]q
  node_id                = %[2]q
  performance_multiplier = 1
}
listener "tcp" {
  address         = "127.0.0.1:%[3]s"
  cluster_address = "127.0.0.1:%[4]s"
  tls_disable     = true
}
api_addr             = "http://127.0.0.1:%[3]s"
cluster_addr         = "https://127.0.0.1:%[4]s"
plugin_directory     = %[5]q
raw_storage_endpoint = true
disable_mlock        = true
` + openBaoConfig

// startNode starts a new node, number i, not initialized yet, and waits until it answers.
func (w *world) startNode(i int) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	clusterPort, err := freePort()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprint("node", i)
	data := filepath.Join(w.dir, "."+name)
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(w.dir, "."+name+".hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, nodeConfig, data, name, port, clusterPort, pluginDir),
		0o600); err != nil {
		return nil, err
	}
	s := &server{addr: "http://127.0.0.1:" + port, log: filepath.Join(w.dir, "."+name+".log"),
		flags: []string{"-config=" + config, "-log-level=debug"}}
	if err := s.start(w.dir); err != nil {
		return nil, err
	}
	return s, until(30*time.Second, func() error {
		_, err := w.health(s)
		return err
	})
}

// health returns the HTTP status of a node's sys/health: 200 active, 429 standby, 501 not initialized, 503
// sealed.
func (w *world) health(s *server) (status int, err error) {
	status, _, err = w.callAt(s.addr, http.MethodGet, "sys/health", "")
	return status, err
}

func until(limit time.Duration, done func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := done()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) waitHealth(s *server, want ...int) error {
	return until(60*time.Second, func() error {
		status, err := w.health(s)
		if err != nil {
			return err
		}
		for _, w := range want {
			if status == w {
				return nil
			}
		}
		return fmt.Errorf("%s: health is %d, want %v", s.addr, status, want)
	})
}

// clusterCmd replaces the script's Vault by a cluster of n nodes, three by default: cluster [<n>].
func clusterCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.vault.stop()
	w.cluster = &cluster{}
	n := 3
	if len(args) > 0 {
		var err error
		n, err = strconv.Atoi(args[0])
		ts.Check(err)
	}
	for i := range n {
		node, err := w.startNode(i)
		ts.Check(err)
		w.cluster.nodes = append(w.cluster.nodes, node)
	}
	w.vault = w.cluster.nodes[0]
	ts.Check(w.initialize())
	ts.Setenv("VAULT_ADDR", w.vault.addr)
	ts.Setenv("VAULT_TOKEN", w.rootToken)
	ts.Check(w.enableAudit())
}

func (w *world) initialize() error {
	first := w.cluster.nodes[0]
	_, answer, err := w.call(http.MethodPut, "sys/init", `{"secret_shares":1,"secret_threshold":1}`)
	if err != nil {
		return err
	}
	var made struct {
		Keys      []string `json:"keys_base64"`
		RootToken string   `json:"root_token"`
	}
	if err := json.Unmarshal(answer, &made); err != nil || len(made.Keys) != 1 {
		return errors.Join(err, fmt.Errorf("initializing: %d keys", len(made.Keys)))
	}
	w.rootToken, w.cluster.unseal = made.RootToken, made.Keys[0]
	if err := w.unseal(first); err != nil {
		return err
	}
	if err := w.waitHealth(first, http.StatusOK); err != nil {
		return err
	}
	// By default a new node may vote and lead only after ten healthy seconds. Shorten that to one.
	if _, _, err := w.call(http.MethodPut, "sys/storage/raft/autopilot/configuration",
		`{"server_stabilization_time":"1s"}`); err != nil {
		return err
	}
	for _, node := range w.cluster.nodes[1:] {
		if _, _, err := w.callAt(node.addr, http.MethodPut, "sys/storage/raft/join",
			fmt.Sprintf(`{"leader_api_addr":%q}`, first.addr)); err != nil {
			return err
		}
		if err := w.unseal(node); err != nil {
			return err
		}
		if err := w.waitHealth(node, http.StatusTooManyRequests); err != nil {
			return err
		}
	}
	return until(30*time.Second, w.allVote)
}

func (w *world) allVote() error {
	_, answer, err := w.call(http.MethodGet, "sys/storage/raft/configuration", "")
	if err != nil {
		return err
	}
	if n := strings.Count(string(answer), `"voter":true`); n != len(w.cluster.nodes) {
		return fmt.Errorf("%d nodes vote: %s", n, answer)
	}
	return nil
}

func (w *world) unseal(s *server) error {
	status, answer, err := w.callAt(s.addr, http.MethodPut, "sys/unseal", fmt.Sprintf(`{"key":%q}`, w.cluster.unseal))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("unsealing: HTTP %d %s", status, answer)
	}
	return err
}

// leader returns the active node.
func (w *world) leader() (*server, error) {
	var found *server
	err := until(60*time.Second, func() error {
		for _, node := range w.nodes() {
			if status, err := w.health(node); err == nil && status == http.StatusOK {
				found = node
				return nil
			}
		}
		return errors.New("there is no active node")
	})
	return found, err
}

// standby returns a node that is not the active one.
func (w *world) standby() (*server, error) {
	active, err := w.leader()
	if err != nil {
		return nil, err
	}
	for _, node := range w.nodes() {
		if node != active {
			return node, nil
		}
	}
	return nil, errors.New("there is one node alone")
}

// everyNodeCmd reads a path at each node, the active one last, and waits at each until the answer contains
// the text: everynode <path> <text>.
func everyNodeCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	active, err := w.leader()
	ts.Check(err)
	nodes := slices.DeleteFunc(slices.Clone(w.nodes()), func(node *server) bool { return node == active })
	for _, node := range append(nodes, active) {
		ts.Check(until(30*time.Second, func() error {
			status, answer, err := w.callAt(node.addr, http.MethodGet, args[0], "")
			w.record("read "+args[0], string(answer))
			if err == nil && !strings.Contains(string(answer), args[1]) {
				err = fmt.Errorf("%s: HTTP %d %s", node.addr, status, answer)
			}
			return err
		}))
	}
}

// standbysCmd restarts and unseals each standby: standbys restart.
func standbysCmd(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	active, err := w.leader()
	ts.Check(err)
	for _, node := range w.nodes() {
		if node == active {
			continue
		}
		node.stop()
		ts.Check(node.start(w.dir))
		ts.Check(w.waitHealth(node, http.StatusServiceUnavailable))
		ts.Check(w.unseal(node))
		ts.Check(w.waitHealth(node, http.StatusTooManyRequests))
	}
}

// stepDownCmd makes the active node step down, and waits until another node is active:
// stepdown [<limit>]. It fails if that takes longer than the limit.
func stepDownCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	old, err := w.leader()
	ts.Check(err)
	stop := w.slowest(old.addr)
	start := time.Now()
	status, answer, err := w.callAt(old.addr, http.MethodPut, "sys/step-down", "")
	ts.Check(err)
	if status != http.StatusNoContent {
		ts.Fatalf("step-down: HTTP %d %s", status, answer)
	}
	ts.Check(w.waitHealth(old, http.StatusTooManyRequests))
	next, err := w.leader()
	ts.Check(err)
	if next == old {
		ts.Fatalf("the same node leads")
	}
	took := time.Since(start)
	_, _ = fmt.Fprintf(ts.Stdout(), "another node leads after %.1f s, and the slowest of sys/mounts at the old one "+
		"meanwhile took %.1f s\n", took.Seconds(), stop().Seconds())
	if len(args) == 0 {
		return
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	if took > limit {
		ts.Fatalf("stepping down may take at most %v", limit)
	}
}
