package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var day = time.Date(2026, 11, 25, 10, 20, 30, 0, time.UTC)

func someMembers() []member {
	return []member{{name: "top/plugin", content: []byte("binary"), executable: true}, {name: "top/deep/LICENSE", content: []byte("free")}}
}

// An archive tells nothing of the machine that made it, and when.
func TestTar(t *testing.T) {
	var out bytes.Buffer
	if err := writeTarGz(&out, day, someMembers()); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	if z.Name != "" || !z.ModTime.IsZero() {
		t.Errorf("gzip keeps %q and %v", z.Name, z.ModTime)
	}
	type entry struct {
		Name, Content  string
		Mode           int64
		UID, GID       int
		User, Group    string
		Modified       int64
		KindIsOrdinary bool
	}
	var got []entry
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{h.Name, string(content), h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime.Unix(), h.Typeflag == tar.TypeReg})
	}
	want := []entry{
		{Name: "top/", Mode: 0o755, Modified: day.Unix()},
		{Name: "top/plugin", Content: "binary", Mode: 0o755, Modified: day.Unix(), KindIsOrdinary: true},
		{Name: "top/deep/", Mode: 0o755, Modified: day.Unix()},
		{Name: "top/deep/LICENSE", Content: "free", Mode: 0o644, Modified: day.Unix(), KindIsOrdinary: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestZip(t *testing.T) {
	var one, two bytes.Buffer
	if err := errors.Join(writeZip(&one, day, someMembers()), writeZip(&two, day, someMembers())); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives of the same differ")
	}
	z, err := zip.NewReader(bytes.NewReader(one.Bytes()), int64(one.Len()))
	if err != nil {
		t.Fatal(err)
	}
	f := z.File[0]
	if len(z.File) != 2 || f.Name != "top/plugin" || f.Mode() != 0o755 || !f.Modified.Equal(day) {
		t.Errorf("%d files, the first %s %v %v", len(z.File), f.Name, f.Mode(), f.Modified)
	}
}
