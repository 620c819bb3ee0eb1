package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

// What is listed, with its licences, is what is compiled in: no more, no less,
// and with the very sums.
func TestAgree(t *testing.T) {
	built := func(path, version, sum string) *debug.Module {
		return &debug.Module{Path: path, Version: version, Sum: sum}
	}
	dep := func(path, version, sum string) dependency {
		return dependency{path: path, version: version, sum: sum}
	}
	replaced := built("example.com/b", "v1.0.0", "h1:b=")
	replaced.Replace = built("example.com/mine", "v1.0.0", "h1:b=")
	a, b := built("example.com/a", "v1.0.0", "h1:a="), built("example.com/b", "v1.0.0", "h1:b=")
	listedA, listedB, own := dep("example.com/a", "v1.0.0", "h1:a="), dep("example.com/b", "v1.0.0", "h1:b="), dep(library, "1.26.8", "")
	for _, c := range []struct {
		name   string
		built  []*debug.Module
		listed []dependency
		wants  string
	}{
		{"the same", []*debug.Module{a, b}, []dependency{listedA, listedB, own}, ""},
		{"in another order", []*debug.Module{b, a}, []dependency{own, listedA, listedB}, ""},
		{"one is not listed", []*debug.Module{a, b}, []dependency{listedA, own}, "example.com/b v1.0.0 h1:b=\nand Go lists\nexample.com/a v1.0.0 h1:a="},
		{"one is listed alone", []*debug.Module{a}, []dependency{listedA, listedB, own}, "the binary has the modules\nexample.com/a v1.0.0 h1:a=\nand"},
		{"another version", []*debug.Module{a}, []dependency{dep("example.com/a", "v1.0.1", "h1:a=")}, "and Go lists\nexample.com/a v1.0.1"},
		{"another sum", []*debug.Module{a}, []dependency{dep("example.com/a", "v1.0.0", "h1:b=")}, "and Go lists\nexample.com/a v1.0.0 h1:b="},
		{"a replaced one", []*debug.Module{a, replaced}, []dependency{listedA, listedB, own}, "example.com/b is replaced, which a release must not need"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := agree(c.built, c.listed)
			if c.wants == "" && err != nil || c.wants != "" && (err == nil || !strings.Contains(err.Error(), c.wants)) {
				t.Errorf("%v, not %q", err, c.wants)
			}
		})
	}
}
