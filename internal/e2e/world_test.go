package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const repository = "../.."

// canary is the password in the Vault server's HTTPS_PROXY. No output may show it.
const canary = "canary-of-the-proxy-password"

// world is what each script has for itself: Vault, sandbox, files.
type world struct {
	dir     string
	vault   *server
	cli     string
	sandbox *redoxtest.Sandbox
	// stranger is a TLS server whose certificate nobody trusts.
	stranger *httptest.Server
	readers  *readers                 // nil unless some are at work
	crowd    *crowd                   // likewise
	idle     map[string]time.Duration // how long reads of a path take when nothing else happens
	tripwire tripwire

	rootToken string
	cluster   *cluster // nil in development mode
	retrying  *retryingReaders
	agents    []*agent
	programs  programs
	issuers   map[string]*issuer
	gateway   *gateway      // nil without a proxy
	connected *atomic.Int64 // connections that listenerCmd's server accepted

	prometheus *prometheus // nil unless one was started
	forwarder  *forwarder  // agents connect to Vault through it

	mu    sync.Mutex
	texts map[string]string // the output that record has kept
	keys  map[string]string // parts of the private keys that keepKeys saw

	others map[string]string // further secrets, by name
}

// server is a Vault server.
type server struct {
	addr  string
	log   string
	flags []string
	cmd   *exec.Cmd
	done  chan struct{} // closed when the process has ended
}

func newWorld(dir string) (*world, error) {
	w := &world{dir: dir, rootToken: "root", texts: map[string]string{}, keys: map[string]string{},
		others: map[string]string{}}
	bin := filepath.Join(dir, ".bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return nil, err
	}
	w.cli = filepath.Join(bin, "vault")
	if err := os.Symlink(vaultBin, w.cli); err != nil {
		return nil, err
	}
	w.stranger = httptest.NewUnstartedServer(http.NotFoundHandler())
	w.stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.stranger.StartTLS()
	var err error
	if w.sandbox, err = redoxtest.Start(redoxtest.Options{Log: &w.tripwire}); err != nil {
		return nil, err
	}
	for range 10 { // a port that was free may be taken by now
		if w.vault, err = startVault(dir); err == nil {
			break
		}
	}
	if err != nil {
		w.sandbox.Close()
		return nil, err
	}
	if w.forwarder, err = newForwarder(strings.TrimPrefix(w.vault.addr, "http://")); err != nil {
		return nil, err
	}
	return w, w.enableAudit()
}

func (w *world) enableAudit() error {
	status, answer, err := w.call(http.MethodPut, "sys/audit/file",
		fmt.Sprintf(`{"type":"file","options":{"file_path":%q}}`, w.auditLog()))
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("enabling the audit log: HTTP %d %s", status, answer)
	}
	return err
}

func (w *world) auditLog() string { return filepath.Join(w.dir, ".audit.log") }

func (w *world) close() {
	if w.readers != nil {
		w.readers.stop()
	}
	if w.crowd != nil {
		w.crowd.stop()
		w.crowd.all.Wait()
	}
	w.stranger.Close()
	_ = w.forwarder.close() // it may be closed already
	for _, node := range w.nodes() {
		node.stop()
	}
	w.sandbox.Close()
}

// nodes returns the script's Vault, or all nodes of its cluster.
func (w *world) nodes() []*server {
	if w.cluster != nil {
		return w.cluster.nodes
	}
	return []*server{w.vault}
}

// openBaoConfig lets OpenBao enable an audit log by a request. Vault accepts the line.
const openBaoConfig = "unsafe_allow_api_audit_creation = true\n"

func startVault(dir string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, ".vault.hcl")
	text := fmt.Sprintf("plugin_directory = %q\nraw_storage_endpoint = true\n"+openBaoConfig, pluginDir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s := &server{addr: "http://127.0.0.1:" + port, log: filepath.Join(dir, ".vault.log")}
	s.flags = []string{"-dev", "-dev-no-store-token", "-dev-root-token-id=root",
		"-dev-listen-address=127.0.0.1:" + port, "-config=" + config, "-log-level=trace"}
	if err := s.start(dir); err != nil {
		return nil, err
	}
	return s, s.ready()
}

// start starts the Vault server, and does not wait until it is ready. After the server has ended, start can
// be called again.
func (s *server) start(dir string) error {
	logFile, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.done = make(chan struct{})
	s.cmd = exec.CommandContext(context.Background(), vaultBin, append([]string{"server"}, s.flags...)...)
	s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
	s.cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "HTTPS_PROXY=http://user:" + canary + "@127.0.0.1:1"}
	if err := s.cmd.Start(); err != nil {
		return errors.Join(err, logFile.Close())
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // its log says how it ended
		_ = logFile.Close()
		close(done)
	}(s.cmd, s.done)
	return nil
}

func freePort() (string, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// ready waits until a server in development mode is ready. It returns an error if the server ends, or is not
// ready after 30 s.
func (s *server) ready() error {
	for range 600 {
		select {
		case <-s.done:
			raw, err := os.ReadFile(s.log)
			return fmt.Errorf("Vault ended: %s, %w", raw, err)
		case <-time.After(50 * time.Millisecond):
		}
		raw, err := os.ReadFile(s.log)
		if err != nil {
			return err
		}
		if bytes.Contains(raw, []byte("Development mode should NOT be used")) {
			return nil
		}
	}
	s.stop()
	return errors.New("Vault is not ready after 30 s")
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt) // it may have ended
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// asksForToken reports whether a word of the command is the path of a token.
func asksForToken(command string) bool {
	return slices.ContainsFunc(strings.Fields(command), func(word string) bool {
		return strings.HasSuffix(word, "/token") && !strings.Contains(word, "=")
	})
}

// call sends a request to the script's Vault, as root.
func (w *world) call(method, path, body string) (status int, answer []byte, err error) {
	return w.callAt(w.vault.addr, method, path, body)
}

func (w *world) callAt(addr, method, path, body string) (status int, answer []byte, err error) {
	return w.ask(context.Background(), http.DefaultClient, addr, method, path, body)
}

func (w *world) ask(ctx context.Context, client *http.Client, addr, method, path,
	body string) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, addr+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-Vault-Token", w.rootToken)
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// record keeps the output of a command for the scan for secrets. If the command asks for a token, the output
// may have each token once, and record removes those.
func (w *world) record(command string, said ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(said, "\n")
	if asksForToken(command) {
		for _, token := range w.sandbox.Tokens() {
			text = strings.Replace(text, token, "", 1)
		}
	}
	w.texts[fmt.Sprintf("answer %d, to %s", len(w.texts), command)] = text
}
