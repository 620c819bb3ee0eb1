package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed lists licences by their SPDX names. Code under these licences may be part
// of a binary that is distributed under the MPL-2.0.
var allowed = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}

// enough is how many percent of the words in a licence file must be those of known licences. If
// there are fewer, the file may have other terms, and a person must read it.
const enough = 75

var (
	isLicense = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-_.].*)?$`)
	isNotice  = regexp.MustCompile(`(?i)^(notice|patents|authors|copyright)([-_.](md|txt))?$`)
	// isOther matches code, such as license.go, and the licence of a module's documentation, which
	// is not compiled in.
	isOther = regexp.MustCompile(`(?i)\.(go|s|c|h|py|sh|tmpl|docs)$`)
)

// dependency is a module with code in the binary, or Go's standard library.
type dependency struct {
	name, dir string
	folders   map[string]bool // in dir: from the root to each package in the binary
}

// writeLicenses writes the licences and notices of all dependencies into one file, which is
// shipped with each binary. Most licences require that.
func writeLicenses(ctx context.Context, repository, file string) error {
	found := map[string]*dependency{}
	for _, system := range []string{"darwin", "freebsd", "linux", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			if err := listPackages(ctx, repository, system, arch, found); err != nil {
				return err
			}
		}
	}
	var names, texts strings.Builder
	for _, path := range slices.Sorted(maps.Keys(found)) {
		licenses, text, err := found[path].read()
		if err != nil {
			return fmt.Errorf("%s: %w", found[path].name, err)
		}
		fmt.Fprintf(&names, "%s (%s)\n", found[path].name, strings.Join(licenses, ", "))
		texts.WriteString(text)
	}
	head := "vault-plugin-secrets-redox is under the Mozilla Public License 2.0 (LICENSE). " +
		"Compiled into its binaries are:\n\n"
	return os.WriteFile(file, []byte(head+names.String()+texts.String()), 0o644)
}

// listPackages adds the dependencies of the binary for a platform to found.
func listPackages(ctx context.Context, repository, system, arch string, found map[string]*dependency) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=ImportPath,Dir,Standard,Module",
		"./cmd/vault-plugin-secrets-redox")
	cmd.Dir, cmd.Stderr = repository, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("listing packages: %w", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath, Dir string
			Standard        bool
			Module          *struct {
				Path, Version, Dir string
				Main               bool
			}
		}
		if err := d.Decode(&pkg); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		dep := dependency{folders: map[string]bool{"": true}}
		path := "Go" // one licence at the root covers all of Go's library
		switch m := pkg.Module; {
		case m == nil && pkg.Standard:
			dep.name, dep.dir = "Go's library", strings.TrimSuffix(pkg.Dir, filepath.Join("/src", pkg.ImportPath))
		case m == nil:
			return fmt.Errorf("%s is of no module", pkg.ImportPath)
		case m.Main:
			continue
		default:
			path, dep.name, dep.dir = m.Path, m.Path+" "+m.Version, m.Dir
		}
		if found[path] == nil {
			found[path] = &dep
		}
		if pkg.Module != nil {
			for dir := pkg.Dir; dir != dep.dir && len(dir) > len(dep.dir); dir = filepath.Dir(dir) {
				found[path].folders[strings.TrimPrefix(dir, dep.dir)] = true
			}
		}
	}
}

// read returns the names of a dependency's licences, and the texts of its licences and notices.
// It returns an error if there is no licence, or if identify returns one.
func (dep *dependency) read() (licenses []string, texts string, err error) {
	line := strings.Repeat("=", 80)
	for _, folder := range slices.Sorted(maps.Keys(dep.folders)) {
		entries, err := os.ReadDir(dep.dir + folder)
		if err != nil {
			return nil, "", err
		}
		for _, e := range entries {
			license := isLicense.MatchString(e.Name())
			if e.IsDir() || isOther.MatchString(e.Name()) || !license && !isNotice.MatchString(e.Name()) {
				continue
			}
			name := strings.TrimPrefix(filepath.ToSlash(folder)+"/"+e.Name(), "/")
			raw, err := os.ReadFile(filepath.Join(dep.dir+folder, e.Name()))
			if err != nil {
				return nil, "", err
			}
			text := strings.ToValidUTF8(strings.ReplaceAll(string(raw), "\r\n", "\n"), "�")
			texts += fmt.Sprintf("\n%s\n%s: %s\n%s\n\n%s\n", line, dep.name, name, line, strings.TrimSpace(text))
			if license {
				names, err := identify(raw)
				if err != nil {
					return nil, "", fmt.Errorf("%s %w", name, err)
				}
				licenses = append(licenses, names...)
			}
		}
	}
	if len(licenses) == 0 {
		return nil, "", errors.New("has no licence")
	}
	slices.Sort(licenses)
	return slices.Compact(licenses), texts, nil
}

// identify returns the SPDX names of the licences in a text. It returns an error if there is
// none, if one is not allowed, or if less than enough of the text is a known licence.
func identify(raw []byte) (names []string, err error) {
	cover := licensecheck.Scan(raw)
	for _, match := range cover.Match {
		if match.IsURL {
			continue
		}
		if !slices.Contains(allowed, match.ID) {
			return nil, fmt.Errorf("is under %s, which is not among the allowed %s", match.ID, strings.Join(allowed, ", "))
		}
		names = append(names, match.ID)
	}
	switch {
	case len(names) == 0:
		return nil, errors.New("is not a known licence")
	case cover.Percent < enough:
		return nil, fmt.Errorf("is a known licence in only %.0f %% of its words: read the rest", cover.Percent)
	}
	return names, nil
}
