package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// All that may differ between two machines does between the two places, or that
// two releases are the same would mean little: a release that tells of them is found.
func TestPlacesDiffer(t *testing.T) {
	r := newRepository(t)
	script := filepath.Join(r.dir, "scripts/release")
	if err := os.Mkdir(filepath.Dir(script), 0o700); err != nil {
		t.Fatal(err)
	}
	tells := `#!/bin/sh
mkdir -p "$2" && umask >"$2/umask" && echo "$TZ" >"$2/zone" && echo "$GOCACHE" >"$2/cache" && echo "$0" >"$2/path" && echo "$3 $4" >"$2/same"
`
	if err := os.WriteFile(script, []byte(tells), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	r.commit()
	o := options{repository: r.dir, out: filepath.Join(t.TempDir(), "dist"), platforms: []platform{{"linux", "arm64"}}}
	err := reproduce(t.Context(), o, io.Discard)
	if err == nil || !strings.HasSuffix(err.Error(), "the two releases differ in cache, path, umask, zone") {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(o.out, "same")); err != nil || string(got) != "-platforms linux/arm64\n" {
		t.Errorf("it was asked for %q, %v", got, err)
	}
}
