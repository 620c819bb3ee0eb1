package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	plugin = "vault-plugin-secrets-redox"
	module = "github.com/seed-963e9c27/vault-plugin-secrets-redox"
	main_  = module + "/cmd/" + plugin

	// largest is a fifth more than any binary had when it was set: what makes one
	// larger is to be looked at. A node has one for each version in use.
	largest = 30 << 20
)

// fileName is what the plugin is called in an archive.
func fileName(p platform) string {
	if p.os == "windows" {
		return plugin + ".exe"
	}
	return plugin
}

// fetching are Go's settings of where modules and Go itself come from, and where
// they are kept. go.sum says which bytes they are, wherever they come from.
var fetching = []string{"GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE", "GOAUTH", "GOVCS",
	"GOMODCACHE", "GOCACHE", "GOTOOLCHAIN"}

// goEnv is the environment of everything that asks Go: nothing that the caller
// has set, here or with go env -w, may change a byte, so only what is needed to
// fetch comes from the file of the latter.
func goEnv(ctx context.Context, p platform) ([]string, error) {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"GOEXPERIMENT", "GODEBUG", "GOWORK", "GOOS", "GOARCH"}, name) || strings.HasPrefix(name, "CGO_")
	})
	ask := exec.CommandContext(ctx, "go", append([]string{"env", "-json"}, fetching...)...)
	ask.Env = append(slices.Clone(env), "GOWORK=off")
	out, err := ask.Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w%s", err, said(err))
	}
	set := map[string]string{}
	if err := json.Unmarshal(out, &set); err != nil {
		return nil, err
	}
	for _, name := range fetching {
		env = append(env, name+"="+set[name])
	}
	return append(env, "GOENV=off", "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0",
		"GOFLAGS=-mod=readonly", "GOFIPS140=off", "GOWORK=off"), nil
}

// build compiles the plugin, and looks whether it is what was asked for. It
// returns the processor time that it took, which depends less on what else a
// machine does than the time on the clock.
func build(ctx context.Context, s source, p platform, file string) (time.Duration, error) {
	env, err := goEnv(ctx, p)
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+module+".Version="+s.version, "-o", file, main_)
	cmd.Dir, cmd.Env = s.repository, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building for %s: %w\n%s", p, err, out)
	}
	if err := checkBinary(ctx, s.version, p, file); err != nil {
		return 0, fmt.Errorf("the binary for %s %w", p, err)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// checkBinary fails where a flag had no effect: -X sets nothing, and says
// nothing, when a variable has another name.
func checkBinary(ctx context.Context, version string, p platform, file string) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	if err := checkSettings(info, p); err != nil {
		return err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if len(raw) > largest {
		return fmt.Errorf("has %d bytes, more than %d MiB: is all of it needed?", len(raw), largest>>20)
	}
	if !bytes.Contains(raw, []byte(version)) {
		return fmt.Errorf("does not know that it is %s", version)
	}
	if p.os == "linux" {
		if err := checkELF(raw); err != nil {
			return err
		}
	}
	if p != (platform{runtime.GOOS, runtime.GOARCH}) {
		return nil
	}
	out, err := exec.CommandContext(ctx, file, "-version").Output()
	if err != nil {
		return fmt.Errorf("does not run: %w%s", err, said(err))
	}
	if got := strings.TrimSpace(string(out)); got != version {
		return fmt.Errorf("says that it is %s, not %s", got, version)
	}
	return nil
}

// checkSettings fails where Go says that it has built with other settings, or
// is itself one with experiments, which has them at the end of its version.
func checkSettings(info *buildinfo.BuildInfo, p platform) error {
	if strings.Contains(info.GoVersion, "X:") {
		return fmt.Errorf("was built with an experiment of Go: %s", info.GoVersion)
	}
	for key, want := range map[string]string{"CGO_ENABLED": "0", "GOEXPERIMENT": "", "-trimpath": "true", "GOOS": p.os, "GOARCH": p.arch} {
		got := ""
		for _, setting := range info.Settings {
			if setting.Key == key {
				got = setting.Value
			}
		}
		if got != want {
			return fmt.Errorf("was built with %s=%s, not %s", key, got, want)
		}
	}
	return nil
}

// checkELF tells whether a binary runs where nothing else is, as in an empty
// container, and holds no symbols.
func checkELF(raw []byte) error {
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	for _, program := range f.Progs {
		if program.Type == elf.PT_INTERP || program.Type == elf.PT_DYNAMIC {
			return errors.New("is not static")
		}
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		return errors.New("is not stripped")
	}
	return nil
}

// emptied makes dir anew, if it is a former release or not there.
func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, binarySums)); err != nil {
			return fmt.Errorf("%s holds something that is no release: remove it yourself", dir)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}
