package e2e

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	redox "github.com/seed-963e9c27/vault-plugin-secrets-redox"
)

var dist = flag.String("dist", "", "a folder that scripts/release has filled for this machine, to install from")

// downloadCmd copies the files of a release for this machine to the working directory, as if a user had
// downloaded them, and sets the variables VERSION and PLATFORM of docs/release.md.
func downloadCmd(ts *testscript.TestScript, _ bool, _ []string) {
	platform := runtime.GOOS + "_" + runtime.GOARCH
	binaries, err := filepath.Glob(filepath.Join(*dist, pluginName+"_*_"+platform))
	ts.Check(err)
	if len(binaries) != 1 {
		ts.Fatalf("%s holds %d binaries for %s", *dist, len(binaries), platform)
	}
	version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(binaries[0]), pluginName+"_"), "_"+platform)
	name := pluginName + "_" + version + "_" + platform
	for _, name := range []string{name, name + ".tar.gz", name + ".cdx.json", "SHA256SUMS", "THIRD_PARTY_LICENSES"} {
		raw, err := os.ReadFile(filepath.Join(*dist, name))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name), raw, 0o600))
	}
	ts.Setenv("VERSION", version)
	ts.Setenv("PLATFORM", platform)
}

// stepsCmd runs the code block of docs/release.md that begins with "# <name>" in a shell, as a user does:
// steps <name> [<VARIABLE>…]. It gives the script each VARIABLE that the block sets.
func stepsCmd(ts *testscript.TestScript, neg bool, args []string) {
	raw, err := os.ReadFile(filepath.Join(repository, "docs/release.md"))
	ts.Check(err)
	_, block, found := strings.Cut(string(raw), "\n# "+args[0]+"\n")
	if !found {
		ts.Fatalf("docs/release.md has no block that begins with # %s", args[0])
	}
	block, _, _ = strings.Cut(block, "\n```")
	if _, err := exec.LookPath("sha256sum"); err != nil { // docs/release.md says so for macOS
		block = strings.ReplaceAll(block, "sha256sum ", "shasum -a 256 ")
	}
	for _, name := range args[1:] {
		block = "unset " + name + "\n" + block + "\nprintf %s \"$" + name + "\" >." + name
	}
	err = ts.Exec("bash", "-euc", block)
	if neg == (err == nil) {
		ts.Fatalf("%s: %v", args[0], err)
	}
	for _, name := range args[1:] {
		ts.Setenv(name, ts.ReadFile("."+name))
	}
}

// No script names the version, so that scripts need no change when the version is
// raised after a release. $DEV_VERSION is the version of a build that was not given
// one.
func TestScriptsNameNoVersion(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		raw, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if version := strings.TrimPrefix(redox.Version, "v"); strings.Contains(string(raw), version) {
			t.Errorf("%s names %s: say $DEV_VERSION", script, version)
		}
	}
}

// userAgentCmd fails unless the User-Agent header of the last token request is
// <name>: useragent <name>.
func userAgentCmd(ts *testscript.TestScript, _ bool, args []string) {
	if got := worldOf(ts).sandbox.UserAgent(); got != args[0] {
		ts.Fatalf("the last request was from %s", got)
	}
}

// schemaCmd changes the schema version of a stored entry, as another version of the
// plugin would write it: schema <mount> <key> <version>.
func schemaCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	_, answer, err := w.call(http.MethodGet, "sys/mounts/"+strings.TrimSuffix(args[0], "/"), "")
	ts.Check(err)
	var mount struct{ Data struct{ UUID string } }
	ts.Check(json.Unmarshal(answer, &mount))
	path := "sys/raw/logical/" + mount.Data.UUID + "/" + args[1]
	_, answer, err = w.call(http.MethodGet, path, "")
	ts.Check(err)
	var stored struct{ Data struct{ Value string } }
	ts.Check(json.Unmarshal(answer, &stored))
	version := regexp.MustCompile(`^\{"version":\d+,`)
	if !version.MatchString(stored.Data.Value) {
		ts.Fatalf("%s does not begin with its version", args[1])
	}
	_, err = strconv.Atoi(args[2])
	ts.Check(err)
	changed := version.ReplaceAllString(stored.Data.Value, `{"version":`+args[2]+`,`)
	body, err := json.Marshal(map[string]string{"value": changed})
	ts.Check(err)
	status, _, err := w.call(http.MethodPut, path, string(body))
	ts.Check(err)
	if status != http.StatusNoContent {
		ts.Fatalf("writing %s: HTTP %d", args[1], status)
	}
}
