package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Two lists, as sha256sum -c reads them: what is downloaded, and the binaries,
// whose sums Vault wants to know.
const (
	fileSums   = "SHA256SUMS"
	binarySums = "BINARY_SHA256SUMS"
)

func sumOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeSums lists files of dir, by name.
func writeSums(dir, list string, names []string) error {
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		sum, err := sumOf(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, name)
	}
	return os.WriteFile(filepath.Join(dir, list), []byte(b.String()), 0o644)
}
