package main

import (
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// fails reports whether err contains the text wants, or, if wants is empty, whether
// err is nil.
func fails(err error, wants string) bool {
	return wants == "" && err == nil || wants != "" && err != nil && strings.Contains(err.Error(), wants)
}

// checkBinary returns an error for a binary that is not what a release promises.
func TestCheckBinary(t *testing.T) {
	for name, c := range map[string]struct {
		ldflags, flag, system string
		size                  int64
		wants                 string
	}{
		"right":              {"-s -w -X main.version=v1.2.3", "-trimpath", "linux", 0, ""},
		"another system":     {"-s -w -X main.version=v1.2.3", "-trimpath", "freebsd", 0, ""},
		"as large as may be": {"-s -w -X main.version=v1.2.3", "-trimpath", "freebsd", largest, ""},
		"too large":          {"-s -w -X main.version=v1.2.3", "-trimpath", "freebsd", largest + 1, "more than 30 MiB"},
		"another variable":   {"-s -w -X main.Version=v1.2.3", "-trimpath", "linux", 0, "does not know that it is v1.2.3"},
		"another version": {"-s -w -X main.version=v1.2.3-rc", "-trimpath", runtime.GOOS, 0,
			"it is v1.2.3-rc, not v1.2.3"},
		"paths of the machine": {"-s -w -X main.version=v1.2.3", "-v", "linux", 0, "was built with -trimpath=, not true"},
		"symbols":              {"-w -X main.version=v1.2.3", "-trimpath", "linux", 0, "is not stripped"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			code := "package main\n\nimport \"os\"\n\nvar version = \"none\"\n\n" +
				"func main() { _, _ = os.Stdout.WriteString(version) }\n"
			for file, content := range map[string]string{"main.go": code, "go.mod": "module hello\n\ngo 1.26\n"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "hello")
			cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", c.ldflags, c.flag, "-o", file, ".")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+runtime.GOARCH, "GOOS="+c.system)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if c.size > 0 && os.Truncate(file, c.size) != nil {
				t.Fatal("it cannot be made larger")
			}
			if err := checkBinary(t.Context(), c.system, runtime.GOARCH, "v1.2.3", file); !fails(err, c.wants) {
				t.Errorf("%v, not %q", err, c.wants)
			}
		})
	}
}

// identify returns an error for a licence that is not allowed, for a text that is no known
// licence, and for a licence with much other text.
func TestIdentify(t *testing.T) {
	mpl, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	gpl := `This program is free software: you can redistribute it and/or modify it under the terms of the GNU General
Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any
later version.`
	for text, wants := range map[string]string{
		string(mpl):         "",
		string(mpl) + gpl:   "is under GPL-3.0-or-later, which is not among the allowed",
		"Do what you want.": "is not a known licence",
		string(mpl) + strings.Repeat("foo ", 5000): "% of its words: read the rest",
	} {
		if _, err := identify([]byte(text)); !fails(err, wants) {
			t.Errorf("%v, not %q", err, wants)
		}
	}
}

// The toolchain line of tools/release/go.mod is the Go version that builds releases. The
// workflows name its minor version, or stable. The go directive of the main module must not be
// later.
func TestOneGo(t *testing.T) {
	file := func(path string) string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	of := regexp.MustCompile(`(?m)^toolchain go((\d+\.\d+)\.\d+)$`).FindStringSubmatch(file("go.mod"))
	workflows, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || of == nil {
		t.Fatal(of, err)
	}
	named := 0
	for _, workflow := range workflows {
		for _, found := range regexp.MustCompile(`go-version: "?([\w.]+)`).FindAllStringSubmatch(file(workflow), -1) {
			if named++; found[1] != of[2] && found[1] != "stable" {
				t.Errorf("%s names Go %s, and releases are built with %s", workflow, found[1], of[1])
			}
		}
	}
	floor := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(file("../../go.mod"))
	if named < 3 || floor == nil || version.Compare("go"+floor[1], "go"+of[1]) > 0 {
		t.Errorf("%d workflows name a Go; go.mod wants %v, and releases are built with %s", named, floor, of[1])
	}
}
