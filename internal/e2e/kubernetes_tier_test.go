package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

var (
	kubernetesBin = flag.String("kubernetes", "", "a folder with an API server of Kubernetes, etcd and both operators: "+
		"run the examples with them (scripts/kubernetes makes one)")
	kubernetesOutage = flag.Duration("kubernetes-outage", time.Minute, "how long Redox and Vault fail in that test")
)

// tenth is the life of a token in the test, a tenth of a real token's life. The test
// shortens the times in the manifests likewise.
const tenth = 30 * time.Second

// tier is an API server with both operators, the examples that are applied there, and the Secrets that they
// fill.
type tier struct {
	t         *testing.T
	w         *world
	kube      *kube
	operators map[string]*operator
	door      *forwarder // operators connect to Vault through it, with TLS
	dir       string     // has the edited manifests
	env       []string
	secrets   []*secret
}

// The examples for Kubernetes work with a real API server and the two operators. Each sh block in the READMEs
// of both operators' examples is run. A sample of a Secret may be without a token that Redox accepts only
// during and after a failure of Redox or Vault. The test prints for how long.
func TestKubernetes(t *testing.T) {
	if *kubernetesBin == "" {
		t.Skip("scripts/kubernetes runs it")
	}
	k := newTier(t)
	k.follow()
	k.reviews()
	k.helm()
	k.apply()

	ctx, cancel := context.WithCancel(t.Context())
	for _, s := range k.secrets {
		s.watch(ctx, k)
	}
	t.Cleanup(func() {
		cancel()
		for _, s := range k.secrets {
			s.all.Wait()
		}
	})
	k.renew()
	k.trouble()
	k.w.scan(t)
}

func newTier(t *testing.T) *tier {
	t.Helper()
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	w.sandbox.SetTokenTTL(tenth)
	k := &tier{t: t, w: w, dir: t.TempDir(), operators: operators()}
	k.env = []string{"VAULT_ADDR=" + w.vault.addr, "VAULT_TOKEN=root", "NO_PROXY=127.0.0.1",
		"PATH=" + filepath.Dir(w.cli) + string(os.PathListSeparator) + os.Getenv("PATH")}
	k.openDoor()
	start := time.Now()
	k.kube, err = startKube(*kubernetesBin, t.TempDir())
	if k.kube != nil {
		t.Cleanup(k.kube.stop)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("the API server is ready after %.1f s\n", time.Since(start).Seconds())
	for _, o := range k.operators {
		if err := k.kube.install(o); err != nil {
			t.Fatal(err)
		}
	}
	k.engine()
	return k
}

// openDoor makes Vault reachable with TLS. A private authority signs the certificate, and
// openDoor writes the authority's certificate to ca.crt.
func (k *tier) openDoor() {
	certificate, authority, err := certify([]string{"localhost"})
	if err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, "ca.crt"), authority, 0o600); err != nil {
		k.t.Fatal(err)
	}
	target, err := url.Parse(k.w.vault.addr)
	if err != nil {
		k.t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	front.TLS = serverTLS(certificate)
	front.StartTLS()
	k.t.Cleanup(front.Close)
	if k.door, err = newForwarder(front.Listener.Addr().String()); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = k.door.close() })
}

// engine mounts the secrets engine, configures its default client, registers that
// client's key at Redox, and writes the policy redox-reader.
func (k *tier) engine() {
	policy, err := filepath.Abs(repository + "/examples/policies/redox-reader.hcl")
	if err != nil {
		k.t.Fatal(err)
	}
	k.run(fmt.Sprintf(`
vault plugin register -sha256=%s secret %[2]s
vault secrets enable -path=redox %[2]s
vault write redox/hosts allowed=%[3]s
vault write -f redox/keys/generate
vault write redox/config client_id=my-client token_url=%[4]s
vault policy write redox-reader %[5]s
`, checksum(k.t, pluginName), pluginName, hostOf(k.w.sandbox.URL()), k.w.sandbox.TokenURL(), policy))
	k.paste()
}

// paste registers the keys of the default client at Redox.
func (k *tier) paste() {
	if err := k.w.paste("my-client", "redox"); err != nil {
		k.t.Fatal(err)
	}
}

func (k *tier) run(script string) string {
	k.t.Helper()
	out, err := k.kube.bash(k.dir, script, k.env...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// follow edits the manifests for the test. Then it runs each sh block of the READMEs of both operators'
// examples, in order, in the folder with the edited manifests.
func (k *tier) follow() {
	all := strings.NewReplacer("https://vault.example.org:8200", "https://localhost:"+portOf(k.door.addr))
	k.edit("vault-secrets-operator/connection.yaml", all, "# caCertSecretRef", "caCertSecretRef")
	k.edit("vault-secrets-operator/refresh-after.yaml", all, "name: redox-token", "name: redox-refresh-after",
		"refreshAfter: 4m", "refreshAfter: 24s")
	k.edit("vault-secrets-operator/static-creds.yaml", all, "name: redox-token", "name: redox-token")
	k.edit("external-secrets/redox-token.yaml", all, "\n    # ", "\n    ", "name: redox-token",
		"name: redox-external-secrets", "refreshInterval: 1m", "refreshInterval: 6s")
	fence := regexp.MustCompile("(?s)```sh\n(.*?)```")
	for _, example := range []string{"vault-secrets-operator", "external-secrets"} {
		raw, err := os.ReadFile(filepath.Join(repository, "examples", example, "README.md"))
		if err != nil {
			k.t.Fatal(err)
		}
		blocks := fence.FindAllStringSubmatch(string(raw), -1)
		if len(blocks) == 0 {
			k.t.Fatalf("the README of %s has no commands", example)
		}
		for _, block := range blocks {
			fmt.Print(k.run(block[1]))
		}
	}
}

// reviews logs in to Vault with tokens of Kubernetes. A token for the audience vault can be used to read
// redox/token, and one for another audience is refused. If Vault has no account that may ask Kubernetes about
// tokens, it refuses the login with HTTP 403.
func (k *tier) reviews() {
	const login = "vault write -field=token auth/kubernetes/login role=redox-reader " +
		"jwt=$(kubectl create token redox --namespace=ehr --audience=%s)"
	k.run("VAULT_TOKEN=$(" + fmt.Sprintf(login, "vault") + ") vault read -field=access_token redox/token")
	if out, err := k.kube.bash(k.dir, fmt.Sprintf(login, "elsewhere"), k.env...); err == nil {
		k.t.Errorf("a token for another audience logs in: %s", out)
	}
	const config = "vault write auth/kubernetes/config kubernetes_host=%s kubernetes_ca_cert=@kubernetes-ca.crt " +
		"disable_local_ca_jwt=true token_reviewer_jwt=%s"
	k.run(fmt.Sprintf(config, k.kube.url, "''"))
	out, err := k.kube.bash(k.dir, fmt.Sprintf(login, "vault"), k.env...)
	if err == nil || !strings.Contains(err.Error(), "Code: 403") {
		k.t.Errorf("without a reviewer: %s, %v", out, err)
	}
	fmt.Printf("without a reviewer: %v\n", err)
	k.run(fmt.Sprintf(config, k.kube.url, "$(kubectl create token vault-reviewer --namespace=kube-system)"))
}

// edit reads a manifest in examples, applies all to it, replaces the first text of each pair by the
// second, and writes the result to the folder of the test. Each first text must be there when its turn
// comes.
func (k *tier) edit(path string, all *strings.Replacer, pairs ...string) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples", path))
	if err != nil {
		k.t.Fatal(err)
	}
	text := all.Replace(string(raw))
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(text, pair[0]) {
			k.t.Fatalf("%s has no %q", path, pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	if err := os.WriteFile(filepath.Join(k.dir, filepath.Base(path)), []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// apply applies static-creds.yaml, because no command of the READMEs does. In a dry run, the API server also
// checks the manifests as they are in examples. Then apply starts the operators and waits for the Secrets.
func (k *tier) apply() {
	examples, err := filepath.Abs(repository + "/examples")
	if err != nil {
		k.t.Fatal(err)
	}
	k.run("kubectl apply --filename=static-creds.yaml\n" + "kubectl apply --dry-run=server --validate=strict --filename=" +
		examples + "/external-secrets --filename=" + examples + "/vault-secrets-operator")
	for _, o := range k.operators {
		if err := k.kube.start(o); err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(func() { o.runs.stop() }) // the one that runs then
	}
	k.secrets = []*secret{
		{example: "vault-secrets-operator/refresh-after.yaml", name: "redox-refresh-after"},
		{example: "vault-secrets-operator/static-creds.yaml", name: "redox-token"},
		{example: "external-secrets/redox-token.yaml", name: "redox-external-secrets"},
	}
	for _, s := range k.secrets {
		err := until(2*time.Minute, func() error {
			_, err := s.read(k)
			return err
		})
		if err != nil {
			k.t.Fatalf("%s: %v\n%s", s.example, err, k.said())
		}
		k.documented(s)
	}
}

// said returns the end of each operator's log.
func (k *tier) said() (all string) {
	for name := range k.operators {
		raw, err := os.ReadFile(filepath.Join(k.kube.dir, name+".log"))
		if err == nil {
			all += "--- " + name + "\n" + string(raw[max(0, len(raw)-6000):])
		}
	}
	return all
}

// documented fails unless the README of an example names each key of the Secret.
func (k *tier) documented(s *secret) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples", filepath.Dir(s.example), "README.md"))
	if err != nil {
		k.t.Fatal(err)
	}
	data, err := s.data(k)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if !strings.Contains(string(raw), "`"+key+"`") {
			k.t.Errorf("%s: its README does not name the key %s of the Secret", s.example, key)
		}
	}
}

// renewals is how many renewals of each Secret renew waits for, after a first one.
const renewals = 10

// renew waits until each Secret was renewed often enough, and prints when. Each sample must have a token that
// Redox accepts. At most two logins may have a lease in Vault: External Secrets Operator, which logs in for
// each read, must leave none.
func (k *tier) renew() {
	start := time.Now()
	err := until(10*time.Minute, func() error {
		for _, s := range k.secrets {
			if n := len(s.changes(start, time.Now())); n <= renewals {
				return fmt.Errorf("%s was renewed %d times", s.example, n)
			}
		}
		return nil
	})
	if err != nil {
		k.t.Fatalf("%v\n%s", err, k.said())
	}
	end := time.Now()
	fmt.Println("\n| example, tokens of 30 s | renewals: seconds after the first | samples | refused | least life left |")
	fmt.Println("|---|---|--:|--:|--:|")
	for _, s := range k.secrets {
		var at []string
		changes := s.changes(start, end)
		for _, change := range changes[1:] {
			at = append(at, fmt.Sprintf("%.0f", change.Sub(changes[0]).Seconds()))
		}
		taken, refused, least := s.sum(start, end)
		fmt.Printf("| `%s` | %s | %d | %d | %.1f s |\n", s.example, strings.Join(at, ", "), taken, refused, least.Seconds())
		k.assertNone(s, "while nothing happened", refused)
	}
	status, answer, err := k.w.call("LIST", "sys/leases/lookup/auth/kubernetes/login", "")
	if err != nil || status != http.StatusOK {
		k.t.Fatalf("listing the leases of logins: HTTP %d %s %v", status, answer, err)
	}
	n := strings.Count(string(answer), `"h`)
	fmt.Printf("leases of logins in Vault: %d\n", n)
	if n > 2 {
		k.t.Errorf("%d logins left a lease in Vault: %s", n, answer)
	}
}

func (k *tier) assertNone(s *secret, when string, refused int) {
	if refused > 0 {
		k.t.Errorf("%s: %d samples had no token that Redox accepts, %s\n%s", s.example, refused, when, k.said())
	}
}

// trouble rotates the key, restarts the operators, and makes Redox, then Vault, fail for a while. It prints
// how long each Secret had no token that Redox accepts. The rotation and the restart must not cause that.
func (k *tier) trouble() {
	fmt.Printf("\n| seconds with an ended token: in all, and after the end of the trouble |")
	for _, s := range k.secrets {
		fmt.Printf(" `%s` |", s.example)
	}
	fmt.Println("\n|---|" + strings.Repeat("--:|", len(k.secrets)))
	k.rest("the key is rotated", true, func() {
		id := strings.TrimSpace(k.run("vault write -f -field=key_id redox/keys/generate"))
		k.paste()
		k.run("vault write -f redox/keys/" + id + "/activate")
	})
	k.rest("both operators are restarted", true, func() {
		for _, o := range k.operators {
			o.runs.stop()
			if err := k.kube.start(o); err != nil {
				k.t.Fatal(err)
			}
		}
	})
	for _, fault := range []redoxtest.Fault{redoxtest.FaultTooMany, redoxtest.FaultBadGateway} {
		k.rest(fmt.Sprintf("Redox answers %s for %v", fault, *kubernetesOutage), false, func() {
			k.w.sandbox.SetFault(fault, -1)
			time.Sleep(*kubernetesOutage)
			k.w.sandbox.SetFault("", 0)
		})
	}
	k.rest(fmt.Sprintf("Vault is away for %v", *kubernetesOutage), false, func() {
		if err := k.door.close(); err != nil {
			k.t.Fatal(err)
		}
		time.Sleep(*kubernetesOutage)
		if err := k.door.open(); err != nil {
			k.t.Fatal(err)
		}
	})
}

// rest calls do. Then it waits for at least a token's life, and until each Secret was renewed twice. It
// prints a row for the table of trouble. If smooth, it fails if a Secret had no token that Redox accepts.
func (k *tier) rest(what string, smooth bool, do func()) {
	start := time.Now()
	do()
	over := time.Now()
	err := until(15*time.Minute, func() error {
		for _, s := range k.secrets {
			if len(s.changes(over, time.Now())) < 2 || time.Since(over) < tenth+5*time.Second {
				return fmt.Errorf("%s, and then %s is not renewed", what, s.example)
			}
		}
		return nil
	})
	if err != nil {
		k.t.Fatalf("%v\n%s", err, k.said())
	}
	fmt.Printf("| %s |", what)
	for _, s := range k.secrets {
		ended, after := s.ended(start, over)
		fmt.Printf(" %.1f, %.1f |", ended.Seconds(), after.Seconds())
		if smooth && ended > 0 {
			k.t.Errorf("%s: when %s, the Secret has an ended token for %v\n%s", s.example, what, ended, k.said())
		}
	}
	fmt.Println()
}
