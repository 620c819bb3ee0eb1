package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"gopkg.in/yaml.v3"
)

// decodeExample decodes a YAML file of the examples. The script fails if the file has a field that into
// lacks.
func decodeExample(ts *testscript.TestScript, name string, into any) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples", name))
	ts.Check(err)
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		ts.Fatalf("%s: %v", name, err)
	}
}

// runJob runs the script of a CI job from a file, with the job's variables. The job must set each variable in
// addresses; runJob replaces its value by the one in addresses.
func runJob(ts *testscript.TestScript, shell []string, script string, variables, addresses map[string]string) error {
	variables = maps.Clone(variables)
	for name, address := range addresses {
		if variables[name] == "" {
			ts.Fatalf("the job does not set %s", name)
		}
		variables[name] = address
	}
	file := ts.MkAbs("job.sh")
	ts.Check(os.WriteFile(file, []byte(script), 0o600))
	cmd := exec.CommandContext(context.Background(), shell[0], append(slices.Clone(shell[1:]), file)...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=" + ts.Getenv("PATH"), "COMMANDS=" + ts.Getenv("COMMANDS"),
		"NO_PROXY=127.0.0.1", "VAULT_MAX_RETRIES=0"}
	for name, value := range variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	said, err := cmd.CombinedOutput()
	worldOf(ts).record("job", string(said))
	_, printErr := ts.Stdout().Write(said)
	ts.Check(printErr)
	return err
}

func fhirBase(w *world) string { return w.sandbox.URL() + "/fhir/R4/redox-fhir-sandbox/Development" }

func endJob(ts *testscript.TestScript, neg bool, err error) {
	if neg == (err == nil) {
		ts.Fatalf("the job ended with %v", err)
	}
}

// gitlabJobCmd runs the script of examples/gitlab in a shell, with an ID token for the audience that the
// example names. idToken says what a <claim> does. Usage: gitlabjob bash|sh [<claim>=<value>…].
func gitlabJobCmd(ts *testscript.TestScript, neg bool, args []string) {
	var jobs map[string]struct {
		Image, Timeout string
		Rules          []map[string]string
		IDTokens       map[string]struct{ Aud string } `yaml:"id_tokens"`
		Variables      map[string]string
		BeforeScript   []string `yaml:"before_script"` // installs programs, which are here already
		Script         []string
	}
	decodeExample(ts, "gitlab/gitlab-ci.yml", &jobs)
	job := jobs["patients"]
	variables := maps.Clone(job.Variables)
	for name, token := range job.IDTokens {
		variables[name] = idToken(ts, "gitlab", append([]string{"aud=" + token.Aud}, args[1:]...))
	}
	// GitLab's runner begins a script in the same way.
	script := "if set -o | grep pipefail >/dev/null; then set -o pipefail; fi\nset -o errexit\n" +
		strings.Join(job.Script, "\n")
	w := worldOf(ts)
	endJob(ts, neg, runJob(ts, args[:1], script, variables,
		map[string]string{"VAULT_ADDR": w.vault.addr, "REDOX_FHIR_BASE": fhirBase(w)}))
}

// githubJobCmd runs the steps of examples/github-actions: for vault-action it makes the action's requests,
// and scripts run with bash -e, as at GitHub. idToken says what a <claim> does. Usage: githubjob
// [<claim>=<value>…].
func githubJobCmd(ts *testscript.TestScript, neg bool, args []string) {
	var workflow struct {
		Name        string
		On          map[string]any
		Permissions map[string]string
		Jobs        map[string]struct {
			RunsOn      string `yaml:"runs-on"`
			Timeout     int    `yaml:"timeout-minutes"`
			Permissions map[string]string
			Steps       []struct {
				ID, Name, Uses, Run string
				With, Env           map[string]string
			}
		}
	}
	decodeExample(ts, "github-actions/token.yml", &workflow)
	job := workflow.Jobs["patients"]
	if job.Permissions["id-token"] != "write" {
		ts.Fatalf("GitHub gives no ID token to this job")
	}
	outputs := map[string]string{}
	expression := regexp.MustCompile(`\$\{\{ (steps\.\w+\.outputs\.\w+) \}\}`)
	for _, step := range job.Steps {
		if strings.HasPrefix(step.Uses, "hashicorp/vault-action@") {
			got, err := vaultAction(ts, step.With, args)
			if err != nil {
				_, printErr := fmt.Fprintln(ts.Stdout(), err)
				ts.Check(printErr)
				endJob(ts, neg, err)
				return
			}
			for name, value := range got {
				outputs["steps."+step.ID+".outputs."+name] = value
			}
			continue
		}
		for name, value := range step.Env {
			step.Env[name] = expression.ReplaceAllStringFunc(value, func(found string) string {
				return outputs[expression.FindStringSubmatch(found)[1]]
			})
		}
		if step.Run == "" || strings.Contains(step.Run+fmt.Sprint(step.Env), "${{") {
			ts.Fatalf("the tests do not know how to run the step %+v", step)
		}
		if err := runJob(ts, []string{"bash", "-e"}, step.Run, step.Env,
			map[string]string{"REDOX_FHIR_BASE": fhirBase(worldOf(ts))}); err != nil {
			endJob(ts, neg, err)
			return
		}
	}
	endJob(ts, neg, nil)
}

// vaultAction makes the requests that hashicorp/vault-action makes for these inputs, and returns the action's
// outputs. said are claims for idToken.
func vaultAction(ts *testscript.TestScript, with map[string]string, said []string) (map[string]string, error) {
	known := []string{"exportEnv", "jwtGithubAudience", "method", "path", "role", "secrets", "url"}
	if got := slices.Sorted(maps.Keys(with)); !slices.Equal(got, known) || with["method"] != "jwt" ||
		with["exportEnv"] != "false" {
		ts.Fatalf("the tests know the inputs %v, not %v", known, with)
	}
	w := worldOf(ts)
	login, err := json.Marshal(map[string]string{"role": with["role"],
		"jwt": idToken(ts, "github", append([]string{"aud=" + with["jwtGithubAudience"]}, said...))})
	ts.Check(err)
	var entered struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	if err := w.asAction(http.MethodPost, "auth/"+with["path"]+"/login", "", string(login), &entered); err != nil {
		return nil, err
	}
	w.others[fmt.Sprintf("login token %d", len(w.others))] = entered.Auth.ClientToken
	outputs := map[string]string{}
	for secret := range strings.SplitSeq(with["secrets"], ";") {
		if strings.TrimSpace(secret) == "" {
			continue
		}
		selector, name, renamed := strings.Cut(secret, "|")
		parts := strings.Fields(selector)
		if !renamed || len(parts) != 2 || strings.Contains(parts[1], ".") {
			ts.Fatalf("vault-action or the tests do not understand %q", secret)
		}
		var read struct{ Data map[string]any }
		if err := w.asAction(http.MethodGet, parts[0], entered.Auth.ClientToken, "", &read); err != nil {
			return nil, err
		}
		if read.Data["data"] != nil { // vault-action would treat it as an answer of KV version 2
			ts.Fatalf("%s has a field data", parts[0])
		}
		value, isText := read.Data[parts[1]].(string)
		if !isText {
			ts.Fatalf("%s has no field %s", parts[0], parts[1])
		}
		outputs[strings.TrimSpace(name)] = value
	}
	return outputs, nil
}

func (w *world) asAction(method, path, token, body string, into any) error {
	req, err := http.NewRequestWithContext(context.Background(), method, w.vault.addr+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: HTTP %d: %s", method, path, resp.StatusCode, raw)
	}
	return json.Unmarshal(raw, into)
}
