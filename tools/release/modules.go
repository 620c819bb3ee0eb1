package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// dependency is a module of which something is compiled into the binary, or
// Go's own library.
type dependency struct {
	path, version string
	sum           string   // as in go.sum; of Go's own library none
	dir           string   // where its source is
	packages      []string // folders below dir that are compiled in
	needs         []string // paths of other dependencies
	licenses      []string // by SPDX's names
	texts         []text   // that go with it
}

type text struct{ name, content string }

const library = "stdlib" // as databases of vulnerabilities call it

// inventory is what is in a binary: itself first, and the rest by name.
type inventory struct {
	goVersion string
	main      dependency
	deps      []dependency
}

type listed struct {
	ImportPath, Dir string
	Standard        bool
	Imports         []string
	Module          *struct {
		Path, Version, Dir string
		Main               bool
	}
}

// takeStock asks Go which packages it compiles in, and the binary which modules
// it was made of. They have to agree.
func takeStock(ctx context.Context, s source, p platform, file string) (inventory, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return inventory{}, err
	}
	found, err := listPackages(ctx, s, p)
	if err != nil {
		return inventory{}, err
	}
	sums, err := readSums(filepath.Join(s.repository, "go.sum"))
	if err != nil {
		return inventory{}, err
	}
	inv := inventory{goVersion: info.GoVersion}
	for _, dep := range found {
		switch dep.path {
		case module:
			dep.version = s.version
			inv.main = *dep
			continue
		case library:
			dep.version = strings.TrimPrefix(info.GoVersion, "go")
		default:
			dep.sum = sums[dep.path+" "+dep.version]
		}
		slices.Sort(dep.needs)
		inv.deps = append(inv.deps, *dep)
	}
	slices.Sort(inv.main.needs)
	slices.SortFunc(inv.deps, func(a, b dependency) int { return strings.Compare(a.path, b.path) })
	return inv, agree(info.Deps, inv.deps)
}

// listPackages groups all packages of the plugin by their module.
func listPackages(ctx context.Context, s source, p platform) (map[string]*dependency, error) {
	env, err := goEnv(ctx, p)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=ImportPath,Dir,Standard,Imports,Module", main_)
	cmd.Dir, cmd.Env = s.repository, env
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w%s", err, said(err))
	}
	found, of := map[string]*dependency{}, map[string]string{}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg listed
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		dep := &dependency{path: library}
		switch {
		case pkg.Module != nil:
			dep.path, dep.version, dep.dir = pkg.Module.Path, pkg.Module.Version, pkg.Module.Dir
		case !pkg.Standard:
			return nil, fmt.Errorf("%s is of no module", pkg.ImportPath)
		}
		if found[dep.path] == nil {
			found[dep.path] = dep
		}
		of[pkg.ImportPath] = dep.path
		found[dep.path].packages = append(found[dep.path].packages, pkg.Dir)
		packages = append(packages, pkg)
	}
	for _, pkg := range packages {
		dep := found[of[pkg.ImportPath]]
		for _, name := range pkg.Imports {
			if needed := of[name]; needed != "" && needed != dep.path && !slices.Contains(dep.needs, needed) {
				dep.needs = append(dep.needs, needed)
			}
		}
	}
	where := exec.CommandContext(ctx, "go", "env", "GOROOT")
	where.Dir, where.Env = s.repository, env
	root, err := where.Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w%s", err, said(err))
	}
	found[library].dir = strings.TrimSpace(string(root))
	return found, nil
}

// agree fails where a binary was made of other modules than were listed.
func agree(built []*debug.Module, deps []dependency) error {
	var want, got []string
	for _, m := range built {
		if m.Replace != nil {
			return fmt.Errorf("%s is replaced, which a release must not need", m.Path)
		}
		want = append(want, m.Path+" "+m.Version+" "+m.Sum)
	}
	for _, dep := range deps {
		if dep.path != library {
			got = append(got, dep.path+" "+dep.version+" "+dep.sum)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return fmt.Errorf("the binary has the modules\n%s\nand Go lists\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	return nil
}

// readSums maps "path version" to the sum of a module's zip.
func readSums(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	sums := map[string]string{}
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if f := strings.Fields(scanner.Text()); len(f) == 3 && !strings.HasSuffix(f[1], "/go.mod") {
			sums[f[0]+" "+f[1]] = f[2]
		}
	}
	return sums, scanner.Err()
}
