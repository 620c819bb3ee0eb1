package main

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the Containerfile puts on its base is what the image of a release holds,
// where it is looked for; but the authorities, which the base has.
func TestContainerfile(t *testing.T) {
	texts, err := (&making{options: options{repository: "../.."}}).papers(someInventory())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, _, err := (layout{dir, someSource}).write(map[platform][]byte{{"linux", "amd64"}: []byte("binary")}, texts); err != nil {
		t.Fatal(err)
	}
	img := readLayout(t, dir)["amd64"]
	delete(img.files, "etc/ssl/certs/ca-certificates.crt")
	want := slices.DeleteFunc(slices.Sorted(maps.Keys(img.files)), func(name string) bool { return strings.HasSuffix(name, "/") })

	raw, err := os.ReadFile("../../Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	var got, entrypoint []string
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "USER" || words[0] == "CMD":
			t.Errorf("the image of a release has no %s", words[0])
		case words[0] == "ENTRYPOINT":
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "ENTRYPOINT ")), &entrypoint); err != nil {
				t.Error(err)
			}
		case words[0] == "COPY":
			from, to := words[1:len(words)-1], strings.TrimPrefix(words[len(words)-1], "/")
			executable := from[0] == "--chmod=755"
			if executable {
				from = from[1:]
			}
			for _, name := range from {
				target := to
				if strings.HasSuffix(to, "/") {
					target = path.Join(to, name)
				}
				if executable != (name == plugin) {
					t.Errorf("%s is executable: %v", target, executable)
				}
				got = append(got, target)
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("other files (-layout +Containerfile):\n%s", diff)
	}
	if diff := cmp.Diff(img.config.Config.Entrypoint, entrypoint); diff != "" {
		t.Errorf("another entrypoint (-layout +Containerfile):\n%s", diff)
	}
}
