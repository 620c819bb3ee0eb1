package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// platform is a system that Vault servers run on.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// all are released. Their order is that of everything listed.
func all() []platform {
	var ps []platform
	for _, os := range []string{"darwin", "freebsd", "linux", "windows"} {
		ps = append(ps, platform{os, "amd64"}, platform{os, "arm64"})
	}
	return ps
}

func parsePlatforms(list string) ([]platform, error) {
	switch list {
	case "all":
		return all(), nil
	case "host":
		list = runtime.GOOS + "/" + runtime.GOARCH
	}
	var ps []platform
	for _, name := range strings.Split(list, ",") {
		os, arch, _ := strings.Cut(name, "/")
		p := platform{os, arch}
		if !slices.Contains(all(), p) {
			return nil, fmt.Errorf("there is no release for %q: it is one of %v", name, all())
		}
		if !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b platform) int { return strings.Compare(a.String(), b.String()) })
	return ps, nil
}
