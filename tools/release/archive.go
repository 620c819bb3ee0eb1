package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"
)

// member is a file of an archive. Nothing else of it is kept: whose it was, and
// when it was written, differs from one machine to the next.
type member struct {
	name       string // with slashes
	content    []byte
	executable bool
}

func (m member) mode() int64 {
	if m.executable {
		return 0o755
	}
	return 0o644
}

// writeTar writes members in the order given, and the folders that they lie in.
func writeTar(w io.Writer, date time.Time, members []member) error {
	t := tar.NewWriter(w)
	made := map[string]bool{".": true}
	for _, m := range members {
		if err := writeFolder(t, date, path.Dir(m.name), made); err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Size: int64(len(m.content)), Mode: m.mode(), ModTime: date, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(m.content); err != nil {
			return err
		}
	}
	return t.Close()
}

func writeFolder(t *tar.Writer, date time.Time, name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	if err := writeFolder(t, date, path.Dir(name), made); err != nil {
		return err
	}
	made[name] = true
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: date, Format: tar.FormatUSTAR})
}

func writeTarGz(w io.Writer, date time.Time, members []member) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	return errors.Join(writeTar(z, date, members), z.Close())
}

func writeZip(w io.Writer, date time.Time, members []member) error {
	z := zip.NewWriter(w)
	for _, m := range members {
		header := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: date}
		header.SetMode(os.FileMode(m.mode()))
		f, err := z.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := f.Write(m.content); err != nil {
			return err
		}
	}
	return z.Close()
}

// toFile lets write fill a file.
func toFile(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}
