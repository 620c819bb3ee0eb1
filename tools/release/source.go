package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// source is the commit that is released.
type source struct {
	repository string
	version    string // v and a semantic version
	commit     string
	date       time.Time // of the commit: the only time that a release knows
	notes      string    // what CHANGELOG.md says of it
}

// readSource finds out which version the commit is. A release is of a clean
// tree that bears an annotated tag and has an entry in the changelog.
func readSource(ctx context.Context, repository string, snapshot bool) (source, error) {
	s := source{repository: repository}
	var err error
	if s.commit, err = git(ctx, repository, "rev-parse", "HEAD"); err != nil {
		return s, err
	}
	stamp, err := git(ctx, repository, "log", "-1", "--format=%ct")
	if err != nil {
		return s, err
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return s, fmt.Errorf("the commit's date: %w", err)
	}
	s.date = time.Unix(seconds, 0).UTC()
	changes, err := git(ctx, repository, "status", "--porcelain")
	if err != nil {
		return s, err
	}
	coming, err := comingVersion(repository)
	if err != nil {
		return s, err
	}
	log, err := os.ReadFile(filepath.Join(repository, "CHANGELOG.md"))
	if err != nil {
		return s, err
	}
	if snapshot {
		s.version = snapshotVersion(coming, s, changes != "")
		s.notes = entry(string(log), "Unreleased")
		return s, nil
	}
	if changes != "" {
		return s, fmt.Errorf("the tree is not clean, so nobody could build this again (--snapshot does not mind):\n%s", changes)
	}
	if s.version, err = taggedVersion(ctx, repository); err != nil {
		return s, err
	}
	if core(s.version) != core(coming) {
		return s, fmt.Errorf("the tag is %s, but backend.go says that %s is being worked on: correct one of them", s.version, coming)
	}
	if s.notes = entry(string(log), s.version); s.notes == "" {
		return s, fmt.Errorf("CHANGELOG.md has no entry that begins with ## %s", s.version)
	}
	return s, nil
}

// comingVersion is what a build without flags says of itself.
func comingVersion(repository string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(repository, "backend.go"))
	if err != nil {
		return "", err
	}
	found := regexp.MustCompile(`(?m)^var Version = "([^"]*)"$`).FindSubmatch(raw)
	if found == nil {
		return "", errors.New("backend.go does not say its version")
	}
	version := string(found[1])
	if !semver.IsValid(version) || semver.Prerelease(version) != "-dev" {
		return "", fmt.Errorf("backend.go says %s, and a build that is no release ends in -dev", version)
	}
	return version, nil
}

// snapshotVersion comes after the version that it grew from and before the
// next release, later commits after earlier ones. It holds no plus sign, which
// no image's tag may have.
func snapshotVersion(coming string, s source, changed bool) string {
	version := coming + "." + s.date.Format("20060102150405") + ".g" + s.commit[:12]
	if changed {
		version += ".changed"
	}
	return version
}

func core(version string) string {
	return strings.TrimSuffix(version, semver.Prerelease(version))
}

// taggedVersion is the version that HEAD's tag gives it.
func taggedVersion(ctx context.Context, repository string) (string, error) {
	tags, err := git(ctx, repository, "tag", "--points-at", "HEAD", "--list", "v*")
	if err != nil {
		return "", err
	}
	names := strings.Fields(tags)
	if len(names) != 1 {
		return "", fmt.Errorf("HEAD bears %d tags that begin with v, and a release has one (or say --snapshot)", len(names))
	}
	name := names[0]
	if semver.Canonical(name) != name {
		return "", fmt.Errorf("the tag %s is no version like v1.2.3 or v1.2.3-rc.1", name)
	}
	kind, err := git(ctx, repository, "cat-file", "-t", "refs/tags/"+name)
	if err != nil {
		return "", err
	}
	if kind != "tag" {
		return "", fmt.Errorf("the tag %s is lightweight, so it says neither who made it nor when: git tag -a", name)
	}
	return name, nil
}

// entry returns what a changelog says below a heading.
func entry(log, heading string) string {
	var text []string
	inside := false
	for line := range strings.Lines(log) {
		if title, is := strings.CutPrefix(line, "## "); is {
			name, _, _ := strings.Cut(strings.TrimSpace(title), " ")
			inside = name == heading
			continue
		}
		if inside {
			text = append(text, line)
		}
	}
	return strings.TrimSpace(strings.Join(text, ""))
}

func git(ctx context.Context, repository string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", repository}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w%s", strings.Join(args, " "), err, said(err))
	}
	return strings.TrimSpace(string(out)), nil
}

// said is what a program that failed wrote to stderr.
func said(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return "\n" + strings.TrimSpace(string(exit.Stderr))
	}
	return ""
}
