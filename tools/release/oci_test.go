package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

var someSource = source{version: "v0.3.0-rc.1", commit: "0123456789abcdef0123456789abcdef01234567", date: day}

func TestLayout(t *testing.T) {
	dir := t.TempDir()
	binaries := map[platform][]byte{{"linux", "amd64"}: []byte("for amd64"), {"linux", "arm64"}: []byte("for arm64"), {"darwin", "arm64"}: []byte("for none")}
	images, index, err := layout{dir, someSource}.write(binaries, []member{{name: "LICENSE", content: []byte("free")}})
	if err != nil {
		t.Fatal(err)
	}
	seen := readLayout(t, dir)
	if len(seen) != 2 || len(images) != 2 {
		t.Fatalf("%d images, %d said", len(seen), len(images))
	}
	if want := named(t, dir).Digest; index != want {
		t.Errorf("the index is said to be %s, and is %s", index, want)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		img := seen[arch]
		if string(img.files[plugin]) != "for "+arch || string(img.files["usr/share/doc/"+plugin+"/LICENSE"]) != "free" {
			t.Errorf("the image for %s holds %q", arch, img.files)
		}
		c := img.config
		if len(c.Config.Entrypoint) != 1 || c.Config.Entrypoint[0] != "/"+plugin || c.Config.User != "" || c.Config.Cmd != nil || c.OS != "linux" || c.Architecture != arch {
			t.Errorf("its configuration is %+v", c)
		}
		if c.Config.Labels[v1.AnnotationVersion] != "0.3.0-rc.1" || c.Config.Labels[v1.AnnotationRevision] != someSource.commit || !c.Created.Equal(day) {
			t.Errorf("its labels are %v", c.Config.Labels)
		}
		if images[i].config != img.id {
			t.Errorf("%s is said to have the ID %s, and has %s", arch, images[i].config, img.id)
		}
		// An empty image has no certificates, and Redox could not be trusted.
		trusted := img.files["etc/ssl/certs/ca-certificates.crt"]
		if got := bytes.Count(trusted, []byte("BEGIN CERTIFICATE")); !x509.NewCertPool().AppendCertsFromPEM(trusted) || got != unconditional(t) {
			t.Errorf("it trusts %d authorities, and %d have no condition attached", got, unconditional(t))
		}
	}
	other := t.TempDir()
	if _, _, err := (layout{other, someSource}).write(binaries, []member{{name: "LICENSE", content: []byte("free")}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := same(dir, other); err != nil {
		t.Error(err)
	}
}

// unconditional counts the authorities that may vouch for any certificate.
func unconditional(t *testing.T) int {
	t.Helper()
	count := 0
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			count++
		}
	}
	if count < 50 {
		t.Fatalf("%d authorities are not those that Mozilla trusts", count)
	}
	return count
}

// read is an image as a container program sees it.
type read struct {
	id     digest.Digest
	config v1.Image
	files  map[string][]byte
}

// readLayout follows a layout from its index to each file, checks each sum on
// the way, and that nothing else lies there.
func readLayout(t *testing.T, dir string) map[string]read {
	t.Helper()
	used := map[string]bool{}
	blob := func(d v1.Descriptor, into any) []byte {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		if digest.FromBytes(raw) != d.Digest || int64(len(raw)) != d.Size {
			t.Errorf("a blob is not %s of %d bytes", d.Digest, d.Size)
		}
		used[d.Digest.Encoded()] = true
		if into != nil {
			if err := json.Unmarshal(raw, into); err != nil {
				t.Fatal(err)
			}
		}
		return raw
	}
	var index v1.Index
	top := named(t, dir)
	blob(top, &index)
	// The first is what skopeo knows an image by, the second what containerd does.
	version := index.Annotations[v1.AnnotationVersion]
	if name := top.Annotations["io.containerd.image.name"]; version == "" || top.Annotations[v1.AnnotationRefName] != version || name != "docker.io/library/"+plugin+":"+version {
		t.Errorf("version %q is called %v", version, top.Annotations)
	}
	images := map[string]read{}
	for _, d := range index.Manifests {
		var m v1.Manifest
		blob(d, &m)
		img := read{id: m.Config.Digest}
		blob(m.Config, &img.config)
		if d.MediaType != v1.MediaTypeImageManifest || len(m.Layers) != 1 || img.config.Architecture != d.Platform.Architecture {
			t.Fatalf("the manifest is %+v", m)
		}
		img.files = readLayer(t, blob(m.Layers[0], nil), img.config.RootFS.DiffIDs)
		images[d.Platform.Architecture] = img
	}
	entries, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	if err != nil || len(entries) != len(used) {
		t.Errorf("%d blobs lie there, %d are used, %v", len(entries), len(used), err)
	}
	return images
}

// named is the one thing that a layout names: the index of its images.
func named(t *testing.T, dir string) v1.Descriptor {
	t.Helper()
	var marker v1.ImageLayout
	var top v1.Index
	for name, into := range map[string]any{v1.ImageLayoutFile: &marker, v1.ImageIndexFile: &top} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
	if marker.Version != "1.0.0" || len(top.Manifests) != 1 || top.Manifests[0].MediaType != v1.MediaTypeImageIndex {
		t.Fatalf("the layout is %+v, %+v", marker, top)
	}
	return top.Manifests[0]
}

func readLayer(t *testing.T, packed []byte, ids []digest.Digest) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 1 || digest.FromBytes(plain) != ids[0] {
		t.Errorf("the layer is %s, the configuration says %v", digest.FromBytes(plain), ids)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if h.Name == plugin && h.Mode != 0o755 {
			t.Errorf("the plugin has mode %o", h.Mode)
		}
	}
}
