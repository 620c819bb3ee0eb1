package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/semver"
)

// repository is a git repository with what a release reads of it.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) repository {
	r := repository{t, t.TempDir()}
	r.git("init", "-q")
	r.write("backend.go", "package redox\n\nvar Version = \"v0.3.0-dev\"\n")
	r.write("CHANGELOG.md", "# Changelog\n\n## Unreleased\n\nMore.\n\n## v0.3.0 - 2026-11-25\n\nNew.\n\n## v0.2.0\n\nOld.\n")
	r.commit()
	return r
}

func (r repository) git(args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", append([]string{"-C", r.dir, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-11-25T10:20:30Z", "GIT_AUTHOR_DATE=2020-01-01T00:00:00Z", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func (r repository) write(name, content string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r repository) commit() {
	r.t.Helper()
	r.git("add", ".")
	r.git("commit", "-q", "-m", "all")
}

func TestRelease(t *testing.T) {
	r := newRepository(t)
	r.git("tag", "-a", "-m", "it", "v0.3.0")
	s, err := readSource(t.Context(), r.dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if s.version != "v0.3.0" || s.notes != "New." || s.date.Format("15:04:05 MST") != "10:20:30 UTC" {
		t.Errorf("it is %+v", s)
	}
}

func TestCandidate(t *testing.T) {
	r := newRepository(t)
	r.write("CHANGELOG.md", "## v0.3.0-rc.1\n\nTry it.\n")
	r.commit()
	r.git("tag", "-a", "-m", "it", "v0.3.0-rc.1")
	if s, err := readSource(t.Context(), r.dir, false); err != nil || s.version != "v0.3.0-rc.1" || s.notes != "Try it." {
		t.Errorf("it is %+v, %v", s, err)
	}
}

func TestNoRelease(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(repository)
		wants string
	}{
		{"no tag", func(repository) {}, "HEAD bears 0 tags that begin with v"},
		{"two tags", func(r repository) {
			r.git("tag", "-a", "-m", "it", "v0.3.0")
			r.git("tag", "-a", "-m", "it", "v0.3.1")
		}, "HEAD bears 2 tags"},
		{"a lightweight tag", func(r repository) { r.git("tag", "v0.3.0") }, "the tag v0.3.0 is lightweight"},
		{"half a version", func(r repository) { r.git("tag", "-a", "-m", "it", "v0.3") }, "the tag v0.3 is no version"},
		{"metadata, which an image's tag cannot have", func(r repository) { r.git("tag", "-a", "-m", "it", "v0.3.0+x") }, "is no version"},
		{"another version", func(r repository) { r.git("tag", "-a", "-m", "it", "v0.4.0") }, "the tag is v0.4.0, but backend.go says that v0.3.0-dev"},
		{"nothing in the changelog", func(r repository) {
			r.write("CHANGELOG.md", "## v0.3.0\n\n## v0.2.0\n\nOld.\n")
			r.commit()
			r.git("tag", "-a", "-m", "it", "v0.3.0")
		}, "CHANGELOG.md has no entry that begins with ## v0.3.0"},
		{"a change", func(r repository) {
			r.git("tag", "-a", "-m", "it", "v0.3.0")
			r.write("new.go", "package redox\n")
		}, "the tree is not clean"},
		{"a released version in the code", func(r repository) {
			r.write("backend.go", "package redox\n\nvar Version = \"v0.3.0\"\n")
			r.commit()
			r.git("tag", "-a", "-m", "it", "v0.3.0")
		}, "backend.go says v0.3.0, and a build that is no release ends in -dev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRepository(t)
			c.do(r)
			if s, err := readSource(t.Context(), r.dir, false); err == nil || !strings.Contains(err.Error(), c.wants) {
				t.Errorf("%+v, %v, but it should say %q", s, err, c.wants)
			}
		})
	}
}

// A snapshot comes between two releases, as Vault and people sort versions.
func TestSnapshot(t *testing.T) {
	r := newRepository(t)
	s, err := readSource(t.Context(), r.dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if want := "v0.3.0-dev.20261125102030.g" + s.commit[:12]; s.version != want || s.notes != "More." {
		t.Errorf("it is %+v, not %s", s, want)
	}
	if semver.Canonical(s.version) != s.version || semver.Compare("v0.3.0-dev", s.version) >= 0 || semver.Compare(s.version, "v0.3.0-rc.1") >= 0 {
		t.Errorf("%s is in the wrong place", s.version)
	}
	r.write("new.go", "package redox\n")
	if changed, err := readSource(t.Context(), r.dir, true); err != nil || changed.version != s.version+".changed" {
		t.Errorf("with a change it is %s, %v", changed.version, err)
	}
}

func TestPlatforms(t *testing.T) {
	if ps, err := parsePlatforms("linux/arm64,darwin/arm64,linux/arm64"); err != nil || names(ps) != "darwin/arm64,linux/arm64" {
		t.Errorf("%v, %v", ps, err)
	}
	if ps, err := parsePlatforms("all"); err != nil || len(ps) != 8 {
		t.Errorf("%v, %v", ps, err)
	}
	if _, err := parsePlatforms("plan9/amd64"); err == nil || !strings.Contains(err.Error(), `no release for "plan9/amd64"`) {
		t.Error(err)
	}
}

// What this repository says of itself can be released.
func TestComingVersion(t *testing.T) {
	if version, err := comingVersion("../.."); err != nil || semver.Canonical(version) != version {
		t.Errorf("%s, %v", version, err)
	}
}
