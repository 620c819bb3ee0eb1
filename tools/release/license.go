package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are the licences, by SPDX's names, under which code may be in a
// binary that is under the MPL-2.0 and that anybody may pass on.
func allowed() []string {
	return []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}
}

var (
	isLicense = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-_.].*)?$`)
	isNotice  = regexp.MustCompile(`(?i)^(notice|patents|authors|copyright)([-_.](md|txt))?$`)
	// Of code that bears such a name, and of what a module's documentation is
	// under, which is not compiled in.
	isOther = regexp.MustCompile(`(?i)\.(go|s|c|h|py|sh|tmpl|docs)$`)
)

// enough is how much of a licence's file has to be a licence word for word.
// Below it stands something that somebody has to read.
const enough = 75

// readLicenses collects the texts that go with a module, from its root and each
// folder on the way to a package that is compiled in, and tells what they are.
func readLicenses(dep *dependency) error {
	if dep.path == library {
		dep.packages = nil // they are all under the one at its root
	}
	for _, folder := range folders(dep.dir, dep.packages) {
		entries, err := os.ReadDir(filepath.Join(dep.dir, folder))
		if err != nil {
			return err
		}
		for _, e := range entries {
			license := isLicense.MatchString(e.Name())
			if e.IsDir() || isOther.MatchString(e.Name()) || !license && !isNotice.MatchString(e.Name()) {
				continue
			}
			name := filepath.ToSlash(filepath.Join(folder, e.Name()))
			raw, err := os.ReadFile(filepath.Join(dep.dir, folder, e.Name()))
			if err != nil {
				return err
			}
			dep.texts = append(dep.texts, text{name, strings.ToValidUTF8(strings.ReplaceAll(string(raw), "\r\n", "\n"), "�")})
			if !license {
				continue
			}
			names, err := identify(raw)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", name, dep.path, err)
			}
			dep.licenses = append(dep.licenses, names...)
		}
	}
	slices.Sort(dep.licenses)
	dep.licenses = slices.Compact(dep.licenses)
	if len(dep.licenses) == 0 {
		return fmt.Errorf("%s has no licence", dep.path)
	}
	return nil
}

// folders are the root, "", and those between it and the packages.
func folders(root string, packages []string) []string {
	seen := []string{""}
	for _, dir := range packages {
		rel, err := filepath.Rel(root, dir)
		if err != nil || strings.HasPrefix(rel, "..") {
			continue
		}
		for ; rel != "."; rel = filepath.Dir(rel) {
			seen = append(seen, rel)
		}
	}
	slices.Sort(seen)
	return slices.Compact(seen)
}

// identify names the licences in a text, each of which must be allowed.
func identify(raw []byte) ([]string, error) {
	cover := licensecheck.Scan(raw)
	var names []string
	for _, match := range cover.Match {
		if !match.IsURL {
			names = append(names, match.ID)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("is no licence that is known")
	}
	for _, name := range names {
		if !slices.Contains(allowed(), name) {
			return nil, fmt.Errorf("is under %s, which is not among the allowed %s", name, strings.Join(allowed(), ", "))
		}
	}
	if cover.Percent < enough {
		return nil, fmt.Errorf("is a licence to %.0f %% only: read what the rest says", cover.Percent)
	}
	return names, nil
}

// thirdParty is the file that goes with each binary, as most licences ask.
func thirdParty(inv inventory) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is under the Mozilla Public License 2.0 (LICENSE). Compiled into it are:\n\n", plugin)
	for _, dep := range inv.deps {
		fmt.Fprintf(&b, "%s %s (%s)\n", dep.path, dep.version, strings.Join(dep.licenses, ", "))
	}
	for _, dep := range inv.deps {
		for _, t := range dep.texts {
			fmt.Fprintf(&b, "\n%s\n%s %s: %s\n%s\n\n%s\n", strings.Repeat("=", 80), dep.path, dep.version, t.name, strings.Repeat("=", 80), strings.TrimSpace(t.content))
		}
	}
	return b.String()
}
