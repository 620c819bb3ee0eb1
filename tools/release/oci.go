package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// layout is an image on disk, as the OCI's image-spec lays it out: one manifest
// for each platform, and no base image below them. No container program is
// needed to make it.
type layout struct {
	dir string
	s   source
}

// imageName is what the image is called where nobody gives it another name.
func imageName(s source) string { return plugin + ":" + strings.TrimPrefix(s.version, "v") }

// image is one platform's.
type image struct {
	platform platform
	config   digest.Digest // what Docker calls the image's ID where it keeps images by itself
	manifest v1.Descriptor
}

// write makes the images of the binaries, and the index that names them, which
// is what Docker calls the image's ID where containerd keeps its images.
func (l layout) write(binaries map[platform][]byte, texts []member) ([]image, digest.Digest, error) {
	marker, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs/sha256"), 0o755); err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(l.dir, v1.ImageLayoutFile), marker, 0o644); err != nil {
		return nil, "", err
	}
	var images []image
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Annotations: l.labels()}
	for _, p := range all() {
		binary, is := binaries[p]
		if !is || p.os != "linux" {
			continue
		}
		img, err := l.image(p, binary, texts)
		if err != nil {
			return nil, "", err
		}
		images = append(images, img)
		index.Manifests = append(index.Manifests, img.manifest)
	}
	named, err := l.blob(v1.MediaTypeImageIndex, index)
	if err != nil {
		return nil, "", err
	}
	named.Annotations = map[string]string{v1.AnnotationRefName: strings.TrimPrefix(l.s.version, "v"), "io.containerd.image.name": "docker.io/library/" + imageName(l.s)}
	top, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{named}})
	if err != nil {
		return nil, "", err
	}
	return images, named.Digest, os.WriteFile(filepath.Join(l.dir, v1.ImageIndexFile), top, 0o644)
}

func (l layout) labels() map[string]string {
	return map[string]string{
		v1.AnnotationTitle:       plugin,
		v1.AnnotationDescription: "Vault secrets engine that returns access tokens for Redox",
		v1.AnnotationVersion:     strings.TrimPrefix(l.s.version, "v"),
		v1.AnnotationRevision:    l.s.commit,
		v1.AnnotationCreated:     l.s.date.Format("2006-01-02T15:04:05Z"),
		v1.AnnotationLicenses:    "MPL-2.0",
		v1.AnnotationSource:      "https://" + module,
	}
}

// image holds the binary, at the root, where OpenBao looks for it, the authorities that it trusts, which an empty image
// lacks, and the licences.
func (l layout) image(p platform, binary []byte, texts []member) (image, error) {
	members := []member{
		{name: plugin, content: binary, executable: true},
		{name: "etc/ssl/certs/ca-certificates.crt", content: authorities()},
	}
	for _, t := range texts {
		members = append(members, member{name: "usr/share/doc/" + plugin + "/" + t.name, content: t.content})
	}
	var plain, packed bytes.Buffer
	if err := writeTar(&plain, l.s.date, members); err != nil {
		return image{}, err
	}
	if err := writeTarGz(&packed, l.s.date, members); err != nil {
		return image{}, err
	}
	layer, err := l.raw(v1.MediaTypeImageLayerGzip, packed.Bytes())
	if err != nil {
		return image{}, err
	}
	config, err := l.blob(v1.MediaTypeImageConfig, v1.Image{
		Created:  &l.s.date,
		Platform: v1.Platform{OS: p.os, Architecture: p.arch},
		// No user: an image that names another than root needs a runtime of Vault's registered as -rootless.
		Config:  v1.ImageConfig{Entrypoint: []string{"/" + plugin}, WorkingDir: "/", Labels: l.labels()},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain.Bytes())}},
		History: []v1.History{{Created: &l.s.date, CreatedBy: "scripts/release"}},
	})
	if err != nil {
		return image{}, err
	}
	manifest, err := l.blob(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: []v1.Descriptor{layer}, Annotations: l.labels(),
	})
	manifest.Platform = &v1.Platform{OS: p.os, Architecture: p.arch}
	return image{p, config.Digest, manifest}, err
}

// authorities are those of Mozilla that have no condition attached, as a file
// cannot say one. The version of a module says which: no machine's own.
func authorities() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&all, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // memory does not refuse
		}
	}
	return all.Bytes()
}

func (l layout) blob(mediaType string, v any) (v1.Descriptor, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return l.raw(mediaType, content)
}

func (l layout) raw(mediaType string, content []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return d, os.WriteFile(filepath.Join(l.dir, "blobs/sha256", d.Digest.Encoded()), content, 0o644)
}
