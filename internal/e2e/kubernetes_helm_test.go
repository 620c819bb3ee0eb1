package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

// chartValues are the values of HashiCorp's chart for Vault that the example sets.
type chartValues struct {
	Server struct {
		ExtraInitContainers []map[string]any `yaml:"extraInitContainers"`
		Volumes             []map[string]any
		VolumeMounts        []map[string]any `yaml:"volumeMounts"`
		StatefulSet         struct {
			SecurityContext struct{ Container map[string]any } `yaml:"securityContext"`
		} `yaml:"statefulSet"`
		Standalone struct{ Config string }
	}
}

// statefulSet returns a minimal StatefulSet that has the values, except the config, where the chart puts
// them.
func (v chartValues) statefulSet() map[string]any {
	labels := map[string]any{"app": "vault"}
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": map[string]any{"name": "vault", "namespace": "ehr"},
		"spec": map[string]any{
			"serviceName": "vault", "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{
				"initContainers": v.Server.ExtraInitContainers, "volumes": v.Server.Volumes,
				"containers": []any{map[string]any{"name": "vault", "image": "hashicorp/vault:1.21.0",
					"volumeMounts": v.Server.VolumeMounts, "securityContext": v.Server.StatefulSet.SecurityContext.Container}},
			}},
		},
	}
}

// helm has the API server check program.yaml, and a StatefulSet with the values of values.yaml, in a dry run.
// Then it tests the script in values.yaml that installs the plugin (see install).
func (k *tier) helm() {
	examples, err := filepath.Abs(repository + "/examples/kubernetes")
	if err != nil {
		k.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(examples, "values.yaml"))
	if err != nil {
		k.t.Fatal(err)
	}
	var values chartValues
	if err := yaml.Unmarshal(raw, &values); err != nil {
		k.t.Fatal(err)
	}
	server, directory := values.Server, ""
	for _, mount := range server.VolumeMounts {
		if mount["name"] == "plugins" {
			directory = fmt.Sprintf("plugin_directory = %q", mount["mountPath"])
		}
	}
	if len(server.ExtraInitContainers) != 1 || directory == "" ||
		!strings.Contains(server.Standalone.Config, directory) {
		k.t.Fatalf("not one init container, or no %q in the config: %s", directory, raw)
	}
	text, err := json.Marshal(values.statefulSet())
	if err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, "vault.json"), text, 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.run("kubectl create --dry-run=server --validate=strict --filename=vault.json --filename=" + examples +
		"/program.yaml")
	k.install(server.ExtraInitContainers[0]["args"].([]any)[0].(string))
}

// install runs the script that installs the plugin, with a stub of wget. The script must install the plugin
// if SHA256 is the plugin's checksum, and must not if SHA256 is another.
func (k *tier) install(script string) {
	tmp, plugins, bin := k.t.TempDir(), k.t.TempDir(), k.t.TempDir()
	plugin := filepath.Join(pluginDir, pluginName)
	wget := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = -O ] && cp %q \"$2\"\n", plugin)
	if err := os.WriteFile(filepath.Join(bin, "wget"), []byte(wget), 0o700); err != nil { //nolint:gosec // is run
		k.t.Fatal(err)
	}
	script = strings.NewReplacer("/tmp/", tmp+"/", "/plugins/", plugins+"/").Replace(script)
	if err := os.WriteFile(filepath.Join(bin, "script"), []byte(script), 0o600); err != nil {
		k.t.Fatal(err)
	}
	env := []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "VERSION=1.2.3"}
	run := fmt.Sprintf("sh -euc \"$(cat %s/script)\"", bin)
	if out, err := k.kube.bash(k.dir, run, append(env, "SHA256="+strings.Repeat("0", 64))...); err == nil {
		k.t.Errorf("it installs a plugin with another sum: %s", out)
	}
	installed := filepath.Join(plugins, pluginName+"-1.2.3")
	if _, err := os.Stat(installed); err == nil {
		k.t.Error("it leaves a plugin with another sum")
	}
	if _, err := k.kube.bash(k.dir, run, append(env, "SHA256="+checksum(k.t, pluginName))...); err != nil {
		k.t.Error(err)
	}
	if out, err := k.kube.bash(k.dir, installed+" -version"); err != nil || out == "" {
		k.t.Errorf("it installs what does not run: %q, %v", out, err)
	}
}
