package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// produce makes a release, and says what it holds and how long it took.
func produce(ctx context.Context, o options, s source, out io.Writer) error {
	if err := emptied(o.out); err != nil {
		return err
	}
	r := &making{options: o, s: s, out: out, linux: map[platform][]byte{}}
	r.say("%s %s, commit %s of %s", plugin, s.version, s.commit[:12], s.date.Format("2006-01-02 15:04:05Z"))
	// First of all, so that a folder that was left half made is known as one.
	if err := os.WriteFile(filepath.Join(o.out, binarySums), nil, 0o644); err != nil {
		return err
	}
	for _, p := range o.platforms {
		if err := r.platform(ctx, p); err != nil {
			return err
		}
	}
	if len(r.linux) > 0 {
		if err := r.image(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(o.out, "NOTES.md"), []byte(s.notes+"\n"), 0o644); err != nil {
		return err
	}
	if err := writeSums(o.out, binarySums, r.binaries); err != nil {
		return err
	}
	if err := writeSums(o.out, fileSums, append(r.files, binarySums, "NOTES.md")); err != nil {
		return err
	}
	r.say("all of it is in %s", o.out)
	return nil
}

// making is a release on its way.
type making struct {
	options
	s        source
	out      io.Writer
	binaries []string // of out, as are
	files    []string
	linux    map[platform][]byte
	texts    []member // that go into an image
}

func (r *making) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format+"\n", args...) // what is said is no part of the release
}

// name begins the name of all that belongs to a platform.
func (r *making) name(what string) string {
	return plugin + "_" + strings.TrimPrefix(r.s.version, "v") + "_" + what
}

// platform builds the binary, and puts it into an archive with what goes with it.
func (r *making) platform(ctx context.Context, p platform) error {
	start := time.Now()
	name := r.name(p.os + "_" + p.arch)
	binary := filepath.Join(r.options.out, name, fileName(p))
	busy, err := build(ctx, r.s, p, binary)
	if err != nil {
		return err
	}
	built := time.Since(start)
	inv, err := takeStock(ctx, r.s, p, binary)
	if err != nil {
		return err
	}
	if err := readLicenses(&inv.main); err != nil {
		return err
	}
	for i := range inv.deps {
		if err := readLicenses(&inv.deps[i]); err != nil {
			return err
		}
	}
	digest, err := sumOf(binary)
	if err != nil {
		return err
	}
	if err := toFile(filepath.Join(r.options.out, name+".cdx.json"), func(w io.Writer) error { return writeSBOM(w, r.s, p, inv, digest) }); err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	if r.texts, err = r.papers(inv); err != nil {
		return err
	}
	members := []member{{name: fileName(p), content: content, executable: true}}
	packed, err := r.pack(name, p, append(members, r.texts...))
	if err != nil {
		return err
	}
	if p.os == "linux" {
		r.linux[p] = content
	}
	r.binaries = append(r.binaries, name+"/"+fileName(p))
	r.files = append(r.files, packed.name, name+".cdx.json")
	r.say("%-14s built in %.0f s (%.0f s of processor time), binary %.1f MB, archive %.1f MB, %d modules", p, built.Seconds(), busy.Seconds(), mega(len(content)), mega(packed.size), len(inv.deps)-1)
	return nil
}

func mega(bytes int) float64 { return float64(bytes) / 1e6 }

// papers are the texts that go with a binary.
func (r *making) papers(inv inventory) ([]member, error) {
	papers := []member{{name: "THIRD_PARTY_LICENSES", content: []byte(thirdParty(inv))}}
	for _, name := range []string{"CHANGELOG.md", "LICENSE"} {
		raw, err := os.ReadFile(filepath.Join(r.repository, name))
		if err != nil {
			return nil, err
		}
		papers = append(papers, member{name: name, content: raw})
	}
	return papers, nil
}

type packed struct {
	name string
	size int
}

// pack writes the members both into an archive, below one folder, and unpacked.
func (r *making) pack(name string, p platform, members []member) (packed, error) {
	for i, m := range members {
		path := filepath.Join(r.options.out, name, m.name)
		if err := os.WriteFile(path, m.content, os.FileMode(m.mode())); err != nil {
			return packed{}, err
		}
		members[i].name = name + "/" + m.name
	}
	file, write := name+".tar.gz", writeTarGz
	if p.os == "windows" {
		file, write = name+".zip", writeZip
	}
	path := filepath.Join(r.options.out, file)
	if err := toFile(path, func(w io.Writer) error { return write(w, r.s.date, members) }); err != nil {
		return packed{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return packed{}, err
	}
	return packed{file, int(info.Size())}, nil
}

// image makes the OCI layout of all Linux binaries, as a folder and as a file.
// It holds no manifest.json, which Docker's own store of images wants to load.
func (r *making) image() error {
	name := r.name("oci")
	l := layout{dir: filepath.Join(r.options.out, name), s: r.s}
	images, index, err := l.write(r.linux, r.texts)
	if err != nil {
		return err
	}
	var members []member
	err = filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		members = append(members, member{name: filepath.ToSlash(rel), content: content})
		return err
	})
	if err != nil {
		return err
	}
	if err := toFile(l.dir+".tar", func(w io.Writer) error { return writeTar(w, r.s.date, members) }); err != nil {
		return err
	}
	r.files = append(r.files, name+".tar", "OCI_DIGESTS")
	var b strings.Builder
	for _, img := range images {
		fmt.Fprintf(&b, "%s config %s manifest %s\n", img.platform, img.config, img.manifest.Digest)
		r.say("%-14s image %s, ID %s", img.platform, imageName(r.s), img.config)
	}
	fmt.Fprintf(&b, "index %s\n", index)
	return os.WriteFile(filepath.Join(r.options.out, "OCI_DIGESTS"), []byte(b.String()), 0o644)
}
