package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a program that startProcess started.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// startProcess starts the program at path in the folder dir, and appends its output to <name of the
// program>.log there.
func startProcess(dir, path string, env []string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, filepath.Base(path)+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(context.Background(), path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, env...)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		_ = p.cmd.Wait() // its log says how it ended
		_ = out.Close()
		close(p.done)
	}()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// wait waits until ready returns nil. It returns an error if the program ends first, or after the limit.
func (p *process) wait(limit time.Duration, ready func() error) error {
	err := until(limit, func() error {
		select {
		case <-p.done:
			return nil
		default:
			return ready()
		}
	})
	select {
	case <-p.done:
		err = errors.New("it ended")
	default:
	}
	if err != nil {
		raw, _ := os.ReadFile(p.log) // the error is enough without it
		return fmt.Errorf("%s: %w: %s", p.cmd.Path, err, raw[max(0, len(raw)-4000):])
	}
	return nil
}

// kube is a Kubernetes cluster that has only etcd and the API server.
type kube struct {
	bin, dir string
	url      string
	client   *http.Client
	parts    []*process
}

// kubeAdmin is the token of the administrator.
const kubeAdmin = "token-of-the-administrator"

// startKube starts etcd and the API server, with role-based access control and
// without anonymous access.
func startKube(bin, dir string) (*kube, error) {
	k := &kube{bin: bin, dir: dir}
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	clients, peers := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	etcd, err := startProcess(dir, filepath.Join(bin, "etcd"), nil, "--data-dir", filepath.Join(dir, "etcd"),
		"--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peers,
		"--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	if err != nil {
		return nil, err
	}
	k.parts = append(k.parts, etcd)
	if err := k.writeKeys(); err != nil {
		return k, err
	}
	k.url = "https://127.0.0.1:" + ports[2]
	server, err := startProcess(dir, filepath.Join(bin, "kube-apiserver"), nil,
		"--etcd-servers="+clients, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+ports[2],
		"--cert-dir="+dir, "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
		"--anonymous-auth=false", "--token-auth-file="+filepath.Join(dir, "tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file="+filepath.Join(dir, "accounts.pem"),
		"--service-account-key-file="+filepath.Join(dir, "accounts.pem"),
		"--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount")
	if err != nil {
		return k, err
	}
	k.parts = append(k.parts, server)
	if err := server.wait(2*time.Minute, k.ready); err != nil {
		return k, err
	}
	return k, k.writeConfig("admin", kubeAdmin)
}

// writeKeys writes two files for the API server: the key that signs the tokens of service accounts, and the
// administrator's token.
func (k *kube) writeKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return errors.Join(os.WriteFile(filepath.Join(k.dir, "accounts.pem"), text, 0o600),
		os.WriteFile(filepath.Join(k.dir, "tokens.csv"), []byte(kubeAdmin+",admin,admin,system:masters\n"), 0o600))
}

// ready returns nil if the API server answers that it is ready.
func (k *kube) ready() error {
	authority, err := os.ReadFile(filepath.Join(k.dir, "apiserver.crt")) // the server writes it when it starts
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	k.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return k.get("/readyz", nil)
}

// get reads a path of the API as the administrator. If into is not nil, get decodes the JSON answer into it.
func (k *kube) get(path string, into any) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, k.url+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+kubeAdmin)
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("reading %s: HTTP %d %s", path, resp.StatusCode, answer)
	}
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(answer, into)
}

// config returns the path of a user's kubeconfig.
func (k *kube) config(user string) string { return filepath.Join(k.dir, user+".kubeconfig") }

// writeConfig writes a user's kubeconfig.
func (k *kube) writeConfig(user, token string) error {
	return os.WriteFile(k.config(user), fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: tests
contexts: [{name: tests, context: {cluster: tests, user: tests}}]
clusters: [{name: tests, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: tests, user: {token: %q}}]
`, k.url, filepath.Join(k.dir, "apiserver.crt"), token), 0o600)
}

// bash runs a script in a folder, with kubectl as the administrator, and returns its standard output.
func (k *kube) bash(dir, script string, env ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append([]string{"HOME=" + k.dir, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + k.config("admin")}, env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s\n%w: %s%s", script, err, out, errs.String())
	}
	return string(out), nil
}

// operator is Vault Secrets Operator or External Secrets Operator, with a service account of its own.
type operator struct {
	name string // of the binary, the namespace and the account
	args []string
	runs *process
	uid  int // a number in the UID of its Pod, which does not exist
}

// operators returns both operators, by name. They serve no metrics and elect no leader.
func operators() map[string]*operator {
	return map[string]*operator{
		"vault-secrets-operator": {name: "vault-secrets-operator", args: []string{"-leader-elect=false",
			"-metrics-bind-address=0", "-health-probe-bind-address=0"}},
		"external-secrets": {name: "external-secrets", args: []string{"--metrics-addr=0"}},
	}
}

// install applies an operator's custom resource definitions, creates its service account with the rights that
// role returns, and writes its kubeconfig.
func (k *kube) install(o *operator) error {
	role, err := k.role(o)
	if err != nil {
		return err
	}
	file := filepath.Join(k.dir, o.name+"-role.yaml")
	if err := os.WriteFile(file, []byte(role), 0o600); err != nil {
		return err
	}
	definitions, err := filepath.EvalSymlinks(filepath.Join(k.bin, o.name+"-crds")) // kubectl does not follow one
	if err != nil {
		return err
	}
	token, err := k.bash(k.dir, fmt.Sprintf(`
kubectl apply --server-side --filename=%[2]q >&2
kubectl create namespace %[1]s >&2
kubectl create serviceaccount %[1]s --namespace=%[1]s >&2
kubectl apply --filename=%[3]q >&2
kubectl create clusterrolebinding %[1]s --clusterrole=%[1]s --serviceaccount=%[1]s:%[1]s >&2
kubectl wait --for=condition=Established crd --all --timeout=60s >&2
kubectl create token %[1]s --namespace=%[1]s --duration=8h
`, o.name, definitions, file))
	if err != nil {
		return err
	}
	return k.writeConfig(o.name, strings.TrimSpace(token))
}

// role returns a ClusterRole, as YAML, with the rules of an operator's own role, including those that the
// chart of External Secrets adds only for some values.
func (k *kube) role(o *operator) (string, error) {
	raw, err := os.ReadFile(filepath.Join(k.bin, o.name+"-role.yaml"))
	if err != nil {
		return "", err
	}
	_, rules, found := strings.Cut(string(raw), "\nrules:\n")
	if !found {
		return "", fmt.Errorf("%s has no rules", o.name)
	}
	rules, _, _ = strings.Cut(rules, "\n---")
	var kept strings.Builder
	for line := range strings.Lines(rules) {
		if !strings.Contains(line, "{{") {
			kept.WriteString(line)
		}
	}
	return fmt.Sprintf("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: %s\nrules:\n%s\n",
		o.name, kept.String()), nil
}

// start starts an operator, with the UID of a new Pod.
func (k *kube) start(o *operator) (err error) {
	o.uid++
	o.runs, err = startProcess(k.dir, filepath.Join(k.bin, o.name), []string{"KUBECONFIG=" + k.config(o.name),
		"OPERATOR_NAMESPACE=" + o.name, fmt.Sprintf("OPERATOR_POD_UID=pod-%d", o.uid)}, o.args...)
	return err
}

func (k *kube) stop() {
	for i := len(k.parts) - 1; i >= 0; i-- {
		k.parts[i].stop()
	}
}
