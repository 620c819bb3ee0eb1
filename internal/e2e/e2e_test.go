package e2e

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	redox "github.com/seed-963e9c27/vault-plugin-secrets-redox"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const module = "github.com/seed-963e9c27/vault-plugin-secrets-redox"

var (
	long     = flag.Bool("long", false, "also run what takes a minute or two")
	nightly  = flag.Bool("nightly", false, "also run what takes longest")
	promtool = flag.Bool("promtool", false, "also check what is for Prometheus with promtool and with a Prometheus, "+
		"both on PATH")
)

// These are set once, for all tests.
var (
	vaultBin  string // the server and the CLI
	pluginDir string // holds the plugin, and the same plugin as version v9.9.9
)

const pluginName = "vault-plugin-secrets-redox"

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if vaultBin = os.Getenv("VAULT_BIN"); vaultBin == "" {
		return 0, fmt.Errorf("VAULT_BIN is not set: run scripts/test, or VAULT_BIN=$(scripts/vault | tail -n 1) go test " +
			"./internal/e2e")
	}
	dir, err := os.MkdirTemp("", "redox-e2e")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if pluginDir, err = filepath.EvalSymlinks(dir); err != nil { // Vault refuses a symbolic link
		return 0, err
	}
	info, _ := debug.ReadBuildInfo()
	race := slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
	for name, flags := range map[string]string{pluginName: "", pluginName + "-9.9.9": "-X " + module + ".Version=v9.9.9"} {
		build := exec.CommandContext(context.Background(), "go", "build", fmt.Sprintf("-race=%v", race), "-ldflags", flags,
			"-o", filepath.Join(pluginDir, name), module+"/cmd/"+pluginName)
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building the plugin: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

func checksum(t interface{ Fatal(...any) }, name string) string {
	raw, err := os.ReadFile(filepath.Join(pluginDir, name))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// Each script has a Vault, a sandbox and an audit log of its own. When it has ended, the
// recorded answers, the logs, and storage outside the key rings are scanned for secrets.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			examples, err := filepath.Abs(repository + "/examples")
			if err != nil {
				return err
			}
			key, err := os.ReadFile(repository + "/internal/keyring/testdata/pkcs8.pem")
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "key.pem"), key, 0o600); err != nil {
				return err
			}
			w, err := newWorld(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(w.close)
			env.Defer(func() { w.scan(t) })
			env.Values[worldKey{}] = w
			env.Vars = append(env.Vars,
				"VAULT_ADDR="+w.vault.addr, "VAULT_TOKEN=root", "VAULT_MAX_RETRIES=0", "HOME="+env.WorkDir, "NO_PROXY=127.0.0.1",
				"PATH="+filepath.Dir(w.cli)+string(os.PathListSeparator)+os.Getenv("PATH"),
				"REDOX="+w.sandbox.URL(), "REDOX_HOST="+hostOf(w.sandbox.URL()), "EXAMPLES="+examples,
				"REDOX_TLS="+w.stranger.URL, "REDOX_TLS_HOST="+hostOf(w.stranger.URL), "SHA256="+checksum(t, pluginName),
				"SHA256_NEXT="+checksum(t, pluginName+"-9.9.9"),
				"PLUGINS="+pluginDir, "OPERATIONS=operations-"+pluginName, "DEV_VERSION="+strings.TrimPrefix(redox.Version, "v"),
			)
			return nil
		},
		Condition: condition,
		Cmds:      commands,
	})
}

// condition reports whether the condition that a script names in brackets holds, such as [long].
func condition(name string) (bool, error) {
	switch name {
	case "jose", "node":
		return *joseVerifier != "", nil
	case "python", "java", "jq": // optional, but scripts/test all needs them
		_, err := exec.LookPath(map[string]string{"python": "python3", "java": "javac", "jq": "jq"}[name])
		return *long || err == nil, nil
	case "long":
		return *long, nil
	case "nightly":
		return *nightly, nil
	case "promtool":
		return *promtool, nil
	case "dist":
		return *dist != "", nil
	case "minimal": // Vault's build tag, without many of its plugins
		info, err := buildinfo.ReadFile(vaultBin)
		return err == nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-tags", Value: "minimal"}), nil
	case "openbao":
		said, err := exec.CommandContext(context.Background(), vaultBin, "version").Output()
		return strings.HasPrefix(string(said), "OpenBao "), err
	}
	return false, fmt.Errorf("there is no condition %s", name)
}

// commands are the commands that scripts have besides those of testscript.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"vault":    vaultCmd,
	"engine":   engineCmd,
	"publish":  publishCmd,
	"sandbox":  sandboxCmd,
	"logged":   loggedCmd,
	"capture":  captureCmd,
	"http":     httpCmd,
	"overload": overloadCmd,
	"damage":   damageCmd,
	"listener": listenerCmd,

	"until":      untilCmd,
	"anonymous":  anonymousCmd,
	"rotations":  rotationsCmd,
	"readers":    readersCmd,
	"paste":      pasteCmd,
	"leak":       leakCmd,
	"killplugin": killPluginCmd,
	"crashes":    crashesCmd,
	"jose":       joseCmd,
	"cluster":    clusterCmd,
	"stepdown":   stepDownCmd,
	"killleader": killLeaderCmd,
	"revive":     reviveCmd,
	"everynode":  everyNodeCmd,
	"standbys":   standbysCmd,

	"latency":   latencyCmd,
	"within":    withinCmd,
	"elsewhere": elsewhereCmd,
	"rush":      rushCmd,
	"stall":     stallCmd,
	"recover":   recoverCmd,

	"clusterreaders": clusterReadersCmd,
	"unseal":         unsealCmd,
	"lose":           loseCmd,
	"readme":         readmeCmd,
	"proxy":          proxyCmd,
	"attacker":       attackerCmd,
	"crowd":          crowdCmd,
	"settles":        settlesCmd,

	"agent":  agentCmd,
	"agents": agentsCmd,
	"outage": outageCmd,

	"download": downloadCmd, "steps": stepsCmd, "useragent": userAgentCmd, "schema": schemaCmd, "crontab": crontabCmd,

	"kubernetes":     kubernetesCmd,
	"pod":            podCmd,
	"edit":           editCmd,
	"rights":         rightsCmd,
	"neighbour":      neighbourCmd,
	"consultemplate": consulTemplateCmd,

	"example":  exampleCmd,
	"programs": programsCmd, "stub": stubCmd,

	"issuers":    issuersCmd,
	"idtoken":    idTokenCmd,
	"githubjob":  githubJobCmd,
	"gitlabjob":  gitlabJobCmd,
	"prometheus": prometheusCmd,
	"documented": documentedCmd,
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// vaultCmd runs the Vault CLI: vault args…
func vaultCmd(ts *testscript.TestScript, neg bool, args []string) {
	if args[0] == "delete" || args[0] == "secrets" || args[0] == "operator" {
		ts.Check(worldOf(ts).keepKeys())
	}
	err := ts.Exec("vault", args...)
	worldOf(ts).record(strings.Join(args, " "), ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	if neg == (err == nil) {
		ts.Fatalf("vault %s: %v", strings.Join(args, " "), err)
	}
}

// engineCmd registers the plugin, mounts it at redox/, and allows the sandbox's host.
func engineCmd(ts *testscript.TestScript, _ bool, _ []string) {
	vaultCmd(ts, false, []string{"plugin", "register", "-sha256=" + ts.Getenv("SHA256"), "secret", pluginName})
	vaultCmd(ts, false, []string{"secrets", "enable", "-path=redox", pluginName})
	vaultCmd(ts, false, []string{"write", "redox/hosts", "allowed=" + ts.Getenv("REDOX_HOST")})
}

// hostOf returns the host and port of a URL that has no path.
func hostOf(url string) string { return url[strings.Index(url, "://")+len("://"):] }

// publishCmd registers the keys of a client at Redox: publish <client ID> <path of
// keys>.
func publishCmd(ts *testscript.TestScript, _ bool, args []string) {
	vaultCmd(ts, false, []string{"read", "-field=jwks", args[1]})
	ts.Check(worldOf(ts).sandbox.Register(args[0], []byte(ts.ReadFile("stdout"))))
}

// captureCmd stores the stdout of the last command in a variable: capture <NAME>.
func captureCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// readmeCmd copies the code block that begins with the line "# <name>", without that line, to the file
// <name>. The block is in the README, or in another page of the repository: readme <name> [<page>].
func readmeCmd(ts *testscript.TestScript, _ bool, args []string) {
	path := "README.md"
	if len(args) > 1 {
		path = args[1]
	}
	raw, err := os.ReadFile(filepath.Join(repository, path))
	ts.Check(err)
	_, block, found := strings.Cut(string(raw), "\n# "+args[0]+"\n")
	if !found {
		ts.Fatalf("%s has no block that begins with # %s", path, args[0])
	}
	block, _, _ = strings.Cut(block, "\n```")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(block+"\n"), 0o600))
}

// sandboxCmd controls the sandbox:
//
//	sandbox fault <name> [<times>]           the next <times> token requests get the fault, or all; '' ends it
//	sandbox clock <duration>                 sets its clock ahead by the duration
//	sandbox ttl <duration>                   sets the life of the tokens that it issues from now on
//	sandbox forget <client ID>               removes the pasted keys
//	sandbox url <client ID> <path of jwks> [at a standby]
//	                                         sets the JWKS URL; the path none removes it
//	sandbox user <client ID> <path of keys>  pastes the keys, and makes the API key a user-level one
//	sandbox lists <client ID> <text>         fails unless the client's JWK Set contains the text
//	sandbox revoke                           revokes all tokens
//	sandbox live <token>                     fails unless the sandbox accepts the token
func sandboxCmd(ts *testscript.TestScript, neg bool, args []string) {
	s := worldOf(ts).sandbox
	switch args[0] {
	case "fault":
		f, err := redoxtest.ParseFault(args[1])
		ts.Check(err)
		times := -1
		if len(args) > 2 {
			_, err = fmt.Sscan(args[2], &times)
			ts.Check(err)
		}
		s.SetFault(f, times)
	case "clock":
		d, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.SetClockOffset(d)
	case "ttl":
		d, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.SetTokenTTL(d)
	case "forget":
		ts.Check(s.Register(args[1], []byte(`{"keys":[]}`)))
	case "url":
		node, url := worldOf(ts).vault, ""
		if len(args) > 3 {
			var err error
			node, err = worldOf(ts).standby()
			ts.Check(err)
		}
		if args[2] != "none" {
			url = node.addr + "/v1/" + args[2]
		}
		s.RegisterURL(args[1], url)
	case "user":
		publishCmd(ts, false, args[1:])
		s.RegisterUser(args[1], true)
	case "lists":
		if set := s.JWKS(args[1]); strings.Contains(set, args[2]) == neg {
			ts.Fatalf("Redox lists %s: %v, in %s", args[2], neg, set)
		}
	case "revoke":
		s.RevokeTokens()
	case "live":
		if s.Live(args[1]) == neg {
			ts.Fatalf("Redox accepts the token: %v", neg)
		}
	default:
		ts.Fatalf("sandbox has no command %s", args[0])
	}
}
