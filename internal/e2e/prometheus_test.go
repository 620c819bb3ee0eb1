package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// prometheus is a running Prometheus with the config and the alerts of examples/prometheus.
type prometheus struct {
	dir  string
	addr string
}

// prometheusCmd controls a Prometheus:
//
//	prometheus start <file of the token>          starts it
//	prometheus up                                 waits until a scrape succeeded, and all rules were evaluated
//	prometheus alert <name> <state> [<client>]    waits for the state: pending, firing or, without a client, inactive
//	prometheus query <regexp> <PromQL>            waits until a line of the answer matches
//	prometheus dashboard                          fails unless every query of the examples/grafana dashboard has a result
func prometheusCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	switch args[0] {
	case "start":
		w.prometheus = startPrometheus(ts, args[1])
	case "up":
		ts.Check(until(30*time.Second, w.prometheus.up))
		ts.Check(until(30*time.Second, w.prometheus.rulesAreWell))
	case "alert":
		ts.Check(until(150*time.Second,
			func() error { return w.prometheus.alert(args[1], args[2], strings.Join(args[3:], "")) }))
	case "query":
		want, err := regexp.Compile("(?m)" + args[1])
		ts.Check(err)
		ts.Check(until(30*time.Second, func() error {
			samples, err := w.prometheus.query(args[2])
			if answer := strings.Join(samples, "\n"); err == nil && !want.MatchString(answer) {
				err = fmt.Errorf("%s is never %s: %s", args[2], args[1], answer)
			}
			return err
		}))
	case "dashboard":
		w.prometheus.dashboard(ts)
	default:
		ts.Fatalf("prometheus has no command %s", args[0])
	}
}

// startPrometheus starts Prometheus with the example's config, to which it adds short intervals. In place of
// Vault's address it puts that of a proxy with TLS in front of Vault, because the example uses https and the
// system's certificates.
func startPrometheus(ts *testscript.TestScript, tokenFile string) *prometheus {
	w := worldOf(ts)
	dir := ts.MkAbs("prometheus")
	ts.Check(os.Mkdir(dir, 0o700))
	target, err := url.Parse(w.vault.addr)
	ts.Check(err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // scrapes that took too long
	front := httptest.NewUnstartedServer(proxy)
	front.Config.ErrorLog = proxy.ErrorLog
	front.StartTLS()
	ts.Defer(front.Close)

	example := filepath.Join(repository, "examples/prometheus")
	config, err := os.ReadFile(filepath.Join(example, "prometheus.yml"))
	ts.Check(err)
	if bytes.Count(config, []byte(`"vault.example:8200"`)) != 1 {
		ts.Fatalf("prometheus.yml has no target to replace")
	}
	alerts, err := os.ReadFile(filepath.Join(example, "alerts.yml"))
	ts.Check(err)
	text := strings.Replace(string(config), "vault.example:8200", front.Listener.Addr().String(), 1)
	text += "\nglobal: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}\n"
	for name, content := range map[string]string{
		"prometheus.yml": text, "alerts.yml": string(alerts), "vault-token": strings.TrimSpace(ts.ReadFile(tokenFile)),
		"system.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})),
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	for range 10 { // a port that was free may be taken by now
		var p *prometheus
		if p, err = runPrometheus(ts, dir); err == nil {
			return p
		}
	}
	ts.Check(err)
	return nil
}

func runPrometheus(ts *testscript.TestScript, dir string) (*prometheus, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &prometheus{dir: dir, addr: "http://127.0.0.1:" + port}
	cmd := exec.CommandContext(context.Background(), "prometheus", "--config.file=prometheus.yml",
		"--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:"+port)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=system.pem"}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its output says how it ended
		close(ended)
	}()
	err = until(30*time.Second, func() error {
		select {
		case <-ended:
			return nil
		default:
			_, err := p.get("/-/ready", nil)
			return err
		}
	})
	stop := func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		<-ended
		worldOf(ts).record("prometheus", said.String())
	}
	if err == nil { // it may have ended
		_, err = p.get("/-/ready", nil)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	ts.Defer(stop)
	return p, nil
}

func (p *prometheus) get(path string, with url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.addr+path+"?"+with.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("Prometheus: HTTP %d: %s", resp.StatusCode, answer)
	}
	return answer, err
}

// ask reads a path of Prometheus's API, and decodes the data of the answer into data.
func (p *prometheus) ask(path string, with url.Values, data any) error {
	raw, err := p.get("/api/v1/"+path, with)
	if err != nil {
		return err
	}
	answer := struct {
		Status string
		Data   any
	}{Data: data}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, raw)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, raw)
	}
	return nil
}

// query sends an instant query, and returns a line with labels and value for each sample.
func (p *prometheus) query(expr string) (samples []string, err error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.ask("query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	for _, r := range data.Result {
		labels, err := json.Marshal(r.Metric)
		if err != nil {
			return nil, err
		}
		samples = append(samples, fmt.Sprintf("%s %v", labels, r.Value[1]))
	}
	return samples, nil
}

func (p *prometheus) up() error {
	var data struct {
		ActiveTargets []struct{ Health, LastError, ScrapeURL string }
	}
	if err := p.ask("targets", nil, &data); err != nil {
		return err
	}
	if len(data.ActiveTargets) != 1 || data.ActiveTargets[0].Health != "up" ||
		!strings.HasSuffix(data.ActiveTargets[0].ScrapeURL, "/v1/redox/metrics") {
		return fmt.Errorf("the targets: %+v", data.ActiveTargets)
	}
	return nil
}

type rule struct {
	Name, Type, Health, LastError, State string
	Alerts                               []struct {
		State  string
		Labels map[string]string
	}
}

func (p *prometheus) rules() (all []rule, err error) {
	var data struct{ Groups []struct{ Rules []rule } }
	err = p.ask("rules", nil, &data)
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all, err
}

// rulesAreWell returns nil if all rules of alerts.yml were evaluated without an error.
func (p *prometheus) rulesAreWell() error {
	rules, err := p.rules()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "alerts.yml"))
	if err != nil {
		return err
	}
	if want := bytes.Count(text, []byte("- alert: ")); len(rules) != want || want == 0 {
		return fmt.Errorf("%d rules, want %d", len(rules), want)
	}
	for _, r := range rules {
		if r.Health != "ok" || r.Type != "alerting" {
			return fmt.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
		}
	}
	return nil
}

// alert returns nil if the alert is in the state: for the client, or as a whole if client is empty.
func (p *prometheus) alert(name, state, client string) error {
	rules, err := p.rules()
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Name != name {
			continue
		}
		if client == "" && r.State == state {
			return nil
		}
		for _, a := range r.Alerts {
			if a.State == state && a.Labels["client"] == client {
				return nil
			}
		}
		return fmt.Errorf("alert %s is %s, want %s for client %q: %+v", name, r.State, state, client, r.Alerts)
	}
	return errors.New("there is no alert " + name)
}
