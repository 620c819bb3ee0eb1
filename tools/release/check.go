package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// largest is the size, in bytes, above which a binary stops a release, until somebody has found
// out why it grew. docs/release.md has the sizes.
const largest = 30 << 20

// checkBinary checks a binary before its release: how it was built, its size, its version, and,
// on systems with ELF, that it is stripped. go build reports no error for some wrong flags: for
// example, -X does nothing if no variable has that name.
func checkBinary(ctx context.Context, system, arch, version, file string) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	want := map[string]string{
		"CGO_ENABLED": "0", "GOEXPERIMENT": "", "GOFIPS140": "", "-trimpath": "true", "GOOS": system, "GOARCH": arch,
	}
	for key, value := range want {
		if settings[key] != value {
			return fmt.Errorf("was built with %s=%s, not %s", key, settings[key], value)
		}
	}
	if strings.Contains(info.GoVersion, "X:") {
		return fmt.Errorf("was built with an experiment of Go: %s", info.GoVersion)
	}
	raw, err := os.ReadFile(file)
	switch {
	case err != nil:
		return err
	case len(raw) > largest:
		return fmt.Errorf("has %d bytes, more than %d MiB: is all of it needed?", len(raw), largest>>20)
	case !bytes.Contains(raw, []byte(version)):
		return fmt.Errorf("does not know that it is %s", version)
	}
	if f, err := elf.NewFile(bytes.NewReader(raw)); err == nil && f.Section(".symtab") != nil {
		return errors.New("is not stripped")
	}
	if system != runtime.GOOS || arch != runtime.GOARCH {
		return nil
	}
	out, err := exec.CommandContext(ctx, file, "-version").Output()
	if err != nil {
		return fmt.Errorf("does not run: %w", err)
	}
	if got := strings.TrimSpace(string(out)); got != version {
		return fmt.Errorf("says that it is %s, not %s", got, version)
	}
	return nil
}
