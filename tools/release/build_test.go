package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// A binary that is not what it should be is no release.
func TestCheckBinary(t *testing.T) {
	host := platform{runtime.GOOS, runtime.GOARCH}
	for _, c := range []struct {
		name, ldflags, version string
		more                   []string
		platform               platform
		wants                  string
	}{
		{"right", "-s -w -X main.version=v1.2.3", "v1.2.3", []string{"-trimpath"}, host, ""},
		{"another variable", "-s -w -X main.Version=v1.2.3", "v1.2.3", []string{"-trimpath"}, host, "does not know that it is v1.2.3"},
		{"another version", "-s -w -X main.version=v1.2.3-rc.1", "v1.2.3", []string{"-trimpath"}, host, "says that it is v1.2.3-rc.1, not v1.2.3"},
		{"paths of this machine", "-s -w -X main.version=v1.2.3", "v1.2.3", nil, host, "was built with -trimpath=, not true"},
		{"symbols", "-w -X main.version=v1.2.3", "v1.2.3", []string{"-trimpath"}, platform{"linux", "amd64"}, "is not stripped"},
		{"what debuggers want", "-s -w=0 -X main.version=v1.2.3", "v1.2.3", []string{"-trimpath"}, platform{"linux", "amd64"}, "is not stripped"},
		{"position", "-s -w -X main.version=v1.2.3", "v1.2.3", []string{"-trimpath", "-buildmode=pie"}, platform{"linux", "amd64"}, "is not static"},
		{"another system", "-s -w -X main.version=v1.2.3", "v1.2.3", []string{"-trimpath"}, platform{"freebsd", "arm64"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkBinary(t.Context(), c.version, c.platform, hello(t, c.platform, c.ldflags, c.more...))
			if c.wants == "" && err != nil || c.wants != "" && (err == nil || !strings.Contains(err.Error(), c.wants)) {
				t.Errorf("%v, not %q", err, c.wants)
			}
		})
	}
}

// hello builds a program that says main.version.
func hello(t *testing.T, p platform, ldflags string, more ...string) string {
	t.Helper()
	code := "package main\n\nimport \"os\"\n\nvar version = \"none\"\n\nfunc main() { _, _ = os.Stdout.WriteString(version + \"\\n\") }\n"
	dir := written(t, map[string]string{"main.go": code, "go.mod": "module hello\n\ngo 1.25\n"})
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-buildvcs=false", "-ldflags", ldflags, "-o", "hello"}, more...)...)
	var err error
	if cmd.Env, err = goEnv(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "hello")
}

// A binary that has grown by a fifth is no release, until somebody has looked at it.
func TestLargest(t *testing.T) {
	p := platform{"freebsd", "arm64"}
	file := hello(t, p, "-s -w -X main.version=v1.2.3", "-trimpath")
	for size, wants := range map[int64]string{30 << 20: "", 30<<20 + 1: "has 31457281 bytes, more than 30 MiB: is all of it needed?"} {
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
		if err := checkBinary(t.Context(), "v1.2.3", p, file); wants == "" && err != nil || wants != "" && (err == nil || err.Error() != wants) {
			t.Errorf("%d bytes: %v, not %q", size, err, wants)
		}
	}
	page, err := os.ReadFile("../../docs/release.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("more than %d MiB stops a release", largest>>20); !strings.Contains(string(page), want) {
		t.Errorf("docs/release.md does not say: %s", want)
	}
}

// What Go says of a binary tells an experiment, be it asked for or the
// toolchain's own.
func TestCheckSettings(t *testing.T) {
	p := platform{"linux", "amd64"}
	for _, c := range []struct{ version, key, value, wants string }{
		{"go1.26.8", "vcs", "git", ""},
		{"go1.26.8-X:nogreenteagc", "vcs", "git", "an experiment of Go: go1.26.8-X:nogreenteagc"},
		{"go1.26.8 X:nogreenteagc", "vcs", "git", "an experiment of Go: go1.26.8 X:nogreenteagc"},
		{"go1.26.8", "GOEXPERIMENT", "nogreenteagc", "was built with GOEXPERIMENT=nogreenteagc, not "},
		{"go1.26.8", "CGO_ENABLED", "1", "was built with CGO_ENABLED=1, not 0"},
	} {
		settings := []debug.BuildSetting{{Key: "-trimpath", Value: "true"}, {Key: "CGO_ENABLED", Value: "0"}, {Key: "GOARCH", Value: "amd64"}, {Key: "GOOS", Value: "linux"}}
		err := checkSettings(&debug.BuildInfo{GoVersion: c.version, Settings: append(settings, debug.BuildSetting{Key: c.key, Value: c.value})}, p)
		if c.wants == "" && err != nil || c.wants != "" && (err == nil || !strings.Contains(err.Error(), c.wants)) {
			t.Errorf("%s, %s=%s: %v, not %q", c.version, c.key, c.value, err, c.wants)
		}
	}
}

// What a caller has in his environment, or has set with go env -w, changes no
// byte of a build. Where modules come from is his choice.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"GOFLAGS", "GOEXPERIMENT", "CGO_CFLAGS", "GOOS", "GOAMD64", "GODEBUG", "GOWORK"} {
		t.Setenv(name, "of-the-caller")
	}
	env := effective(t)
	for name, value := range env {
		if value == "of-the-caller" {
			t.Errorf("%s is let through", name)
		}
	}
	if env["GOOS"] != "linux" || env["CGO_ENABLED"] != "0" {
		t.Error(env)
	}
}

func TestEnvironmentFile(t *testing.T) {
	for _, name := range append([]string{"GOEXPERIMENT", "GOFLAGS", "GOAMD64", "CGO_CFLAGS"}, fetching...) {
		t.Setenv(name, "") // as if it were not set
	}
	file := filepath.Join(t.TempDir(), "env")
	t.Setenv("GOENV", file)
	if err := os.WriteFile(file, []byte("GOEXPERIMENT=nogreenteagc\nGOFLAGS=-race\nGOAMD64=v3\nGOFIPS140=latest\nCGO_CFLAGS=-O0\nGOPROXY=https://proxy.example.com\nGOSUMDB=off\nGOTOOLCHAIN=local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if env := effective(t); env["GOPROXY"] != "https://proxy.example.com" || env["GOSUMDB"] != "off" || env["GOTOOLCHAIN"] != "local" {
		t.Errorf("where modules come from is forgotten: %v", env)
	}
	env, err := goEnv(t.Context(), platform{"linux", "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "env", "GOEXPERIMENT", "GOFLAGS", "GOAMD64", "GOFIPS140", "CGO_CFLAGS")
	cmd.Env = env
	if out, err := cmd.Output(); err != nil || string(out) != "\n-mod=readonly\nv1\noff\n-O2 -g\n" {
		t.Errorf("Go goes by %q, %v", out, err)
	}
}

// effective is the environment as Go sees it, where the last one counts.
func effective(t *testing.T) map[string]string {
	t.Helper()
	env, err := goEnv(t.Context(), platform{"linux", "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	effective := map[string]string{}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		effective[name] = value
	}
	return effective
}

func TestEmptied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dist")
	if err := emptied(dir); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := emptied(dir); err == nil || !strings.Contains(err.Error(), "holds something that is no release") {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, binarySums), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := emptied(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mine); err == nil {
		t.Error("a former release is still there")
	}
}

func TestSame(t *testing.T) {
	fill := func(files map[string]string) string {
		dir := t.TempDir()
		for name, content := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	one := fill(map[string]string{"a": "1", "b/c": "23"})
	if files, bytes, err := same(one, fill(map[string]string{"a": "1", "b/c": "23"})); files != 2 || bytes != 3 || err != nil {
		t.Errorf("%d files, %d bytes, %v", files, bytes, err)
	}
	for name, other := range map[string]string{
		"b/c": fill(map[string]string{"a": "1", "b/c": "24"}),
		"a":   fill(map[string]string{"b/c": "23"}),
		"d":   fill(map[string]string{"a": "1", "b/c": "23", "d": ""}),
	} {
		if _, _, err := same(one, other); err == nil || !strings.HasSuffix(err.Error(), "differ in "+name) {
			t.Errorf("%v, but they differ in %s", err, name)
		}
	}
	if _, _, err := same(t.TempDir(), t.TempDir()); err == nil {
		t.Error("nothing is the same as nothing")
	}
}
