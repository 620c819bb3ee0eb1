package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var dist = flag.String("dist", "", "a folder that scripts/release has filled")

func requireDist(t *testing.T) {
	t.Helper()
	if *dist == "" {
		t.Skip("needs a release: scripts/test all makes one")
	}
}

// sums are the lines of a list.
func sums(t *testing.T, list string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(*dist, list))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		found[name] = sum
	}
	if len(found) == 0 {
		t.Fatalf("%s is empty", list)
	}
	return found
}

// Each file that is downloaded has a line, and a right one; each binary too,
// in a list of its own, as Vault wants a binary's sum and no archive's.
func TestDistSums(t *testing.T) {
	requireDist(t)
	files, binaries := sums(t, fileSums), sums(t, binarySums)
	for name, sum := range files {
		if got, err := sumOf(filepath.Join(*dist, name)); err != nil || got != sum {
			t.Errorf("%s is %s, not %s, %v", name, got, sum, err)
		}
	}
	entries, err := os.ReadDir(*dist)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() && e.Name() != fileSums && files[e.Name()] == "" {
			t.Errorf("%s has no line", e.Name())
		}
	}
	for name, sum := range binaries {
		if got, err := sumOf(filepath.Join(*dist, name)); err != nil || got != sum {
			t.Errorf("%s is %s, not %s, %v", name, got, sum, err)
		}
	}
}

// An archive holds the binary whose sum is listed, and the texts that go with it.
func TestDistArchives(t *testing.T) {
	requireDist(t)
	for binary, sum := range sums(t, binarySums) {
		folder := filepath.Dir(binary)
		members := untar
		file := folder + ".tar.gz"
		if strings.Contains(folder, "_windows_") {
			members, file = unzip, folder+".zip"
		}
		var names []string
		for _, m := range members(t, filepath.Join(*dist, file)) {
			names = append(names, m.name)
			if got := sha256.Sum256(m.content); m.name == binary && (hex.EncodeToString(got[:]) != sum || !m.executable) {
				t.Errorf("the archive's %s is %x, not %s, executable: %v", binary, got, sum, m.executable)
			}
		}
		if diff := cmp.Diff([]string{binary, folder + "/THIRD_PARTY_LICENSES", folder + "/CHANGELOG.md", folder + "/LICENSE"}, names); diff != "" {
			t.Errorf("the archive %s: %s", file, diff)
		}
	}
}

func untar(t *testing.T, path string) (members []member) {
	t.Helper()
	packed, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			members = append(members, member{h.Name, content, h.Mode == 0o755})
		}
	}
}

func unzip(t *testing.T, path string) (members []member) {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = z.Close() }()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, member{f.Name, content, f.Mode() == 0o755})
	}
	return members
}

// The bill of materials says of a binary what go version -m says of it.
func TestDistSBOM(t *testing.T) {
	requireDist(t)
	for binary, sum := range sums(t, binarySums) {
		raw, err := os.ReadFile(filepath.Join(*dist, filepath.Dir(binary)+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		validate(t, raw)
		bom := decode(t, raw)
		out, err := exec.CommandContext(t.Context(), "go", "version", "-m", filepath.Join(*dist, binary)).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) == 4 && f[0] == "dep" {
				want[f[1]+" "+f[2]] = f[3]
			}
		}
		got := map[string]string{}
		for _, c := range *bom.Components {
			if c.Name != library {
				got[c.Name+" "+c.Version] = (*c.Properties)[0].Value
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got) < 50 {
			t.Errorf("%d modules of %s (-go version -m +SBOM):\n%s", len(got), binary, diff)
		}
		if hash := (*bom.Metadata.Component.Hashes)[0].Value; hash != sum {
			t.Errorf("it is of a binary with sum %s, not %s", hash, sum)
		}
	}
}

// The image holds the binary whose sum is listed, for each Linux that was made.
func TestDistImage(t *testing.T) {
	requireDist(t)
	dirs, err := filepath.Glob(filepath.Join(*dist, "*_oci"))
	if err != nil || len(dirs) > 1 {
		t.Fatal(dirs, err)
	}
	said, err := os.ReadFile(filepath.Join(*dist, "OCI_DIGESTS"))
	if err != nil && len(dirs) > 0 {
		t.Fatal(err)
	}
	images := map[string]read{}
	if len(dirs) > 0 {
		images = readLayout(t, dirs[0])
		if line := "index " + named(t, dirs[0]).Digest.String() + "\n"; !strings.HasSuffix(string(said), "\n"+line) {
			t.Errorf("OCI_DIGESTS does not end with %s", line)
		}
	}
	linux := 0
	for binary, sum := range sums(t, binarySums) {
		_, arch, is := strings.Cut(filepath.Dir(binary), "_linux_")
		if !is {
			continue
		}
		linux++
		img := images[arch]
		path := filepath.Join(t.TempDir(), "binary")
		if err := os.WriteFile(path, img.files[plugin], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := sumOf(path); err != nil || got != sum {
			t.Errorf("the image for %s holds a plugin with sum %s, not %s, %v", arch, got, sum, err)
		}
		if !strings.Contains(string(said), "linux/"+arch+" config "+img.id.String()+" ") {
			t.Errorf("OCI_DIGESTS does not say that the image for %s has the ID %s", arch, img.id)
		}
	}
	if linux != len(images) {
		t.Errorf("%d images of %d binaries", len(images), linux)
	}
}

// Nothing in a binary tells where it was built.
func TestDistTellsNothing(t *testing.T) {
	requireDist(t)
	out, err := exec.CommandContext(t.Context(), "go", "env", "-json", "GOMODCACHE", "GOROOT", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{}
	if err := json.Unmarshal(out, &places); err != nil {
		t.Fatal(err)
	}
	if places["here"], err = filepath.Abs("../.."); err != nil {
		t.Fatal(err)
	}
	for binary := range sums(t, binarySums) {
		raw, err := os.ReadFile(filepath.Join(*dist, binary))
		if err != nil {
			t.Fatal(err)
		}
		for name, place := range places {
			if bytes.Contains(raw, []byte(place)) {
				t.Errorf("%s holds %s, %s", binary, place, name)
			}
		}
		if info, err := buildinfo.ReadFile(filepath.Join(*dist, binary)); err != nil || info.Main.Path != module {
			t.Errorf("%s is of %v, %v", binary, info, err)
		}
	}
}
