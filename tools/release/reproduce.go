package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// reproduce makes the release of HEAD twice: in two clones with other paths, two
// build caches, two time zones, two umasks, and compares every byte.
func reproduce(ctx context.Context, o options, out io.Writer) error {
	changes, err := git(ctx, o.repository, "status", "--porcelain")
	if err != nil {
		return err
	}
	if changes != "" {
		return fmt.Errorf("only what is committed can be cloned, and this is not:\n%s", changes)
	}
	head, err := git(ctx, o.repository, "rev-parse", "HEAD") // which may move meanwhile
	if err != nil {
		return err
	}
	if err := emptied(o.out); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "redox-release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	second := filepath.Join(work, "second")
	places := []place{
		{clone: filepath.Join(work, "a"), cache: filepath.Join(work, "cache-a"), out: o.out, zone: "UTC", umask: "022"},
		{clone: filepath.Join(work, "another/and/deeper"), cache: filepath.Join(work, "cache-b"), out: second, zone: "Asia/Tokyo", umask: "077"},
	}
	for _, p := range places {
		start := time.Now()
		if err := p.release(ctx, o, head, out); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "released from an empty build cache in %.0f s\n", time.Since(start).Seconds())
	}
	files, bytes, err := same(o.out, second)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "both releases are the same: %d files, %.1f MB\n", files, mega(bytes))
	return err
}

type place struct{ clone, cache, out, zone, umask string }

// release runs the clone's own script, as what is released includes it.
func (p place) release(ctx context.Context, o options, head string, out io.Writer) error {
	if _, err := git(ctx, o.repository, "clone", "-q", "--no-hardlinks", o.repository, p.clone); err != nil {
		return err
	}
	if _, err := git(ctx, p.clone, "checkout", "-q", "--detach", head); err != nil {
		return err
	}
	args := []string{"-c", `umask "$1" && shift && exec "$@"`, "sh", p.umask, filepath.Join(p.clone, "scripts/release"), "-out", p.out, "-platforms", names(o.platforms)}
	if o.snapshot {
		args = append(args, "-snapshot")
	}
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Env = append(os.Environ(), "GOCACHE="+p.cache, "TZ="+p.zone)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("releasing from %s: %w", p.clone, err)
	}
	return nil
}

func names(ps []platform) string {
	var list []string
	for _, p := range ps {
		list = append(list, p.String())
	}
	return strings.Join(list, ",")
}

// same counts files and bytes of two folders, and fails where they differ.
func same(one, two string) (files, bytes int, err error) {
	a, err := sumsBelow(one)
	if err != nil {
		return 0, 0, err
	}
	b, err := sumsBelow(two)
	if err != nil {
		return 0, 0, err
	}
	if len(a) == 0 {
		return 0, 0, errors.New("there is nothing to compare")
	}
	var differ []string
	for name, file := range a {
		if b[name].sum != file.sum {
			differ = append(differ, name)
		}
		files, bytes = files+1, bytes+file.size
	}
	for name := range b {
		if _, is := a[name]; !is {
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		return 0, 0, fmt.Errorf("the two releases differ in %s", strings.Join(differ, ", "))
	}
	return files, bytes, nil
}

type summed struct {
	sum  string
	size int
}

func sumsBelow(dir string) (map[string]summed, error) {
	found := map[string]summed{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		sum, err := sumOf(path)
		found[filepath.ToSlash(name)] = summed{sum, int(info.Size())}
		return err
	})
	return found, err
}
