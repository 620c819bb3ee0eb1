package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/xeipuuv/gojsonschema"
)

func someInventory() inventory {
	return inventory{
		goVersion: "go1.26.8",
		main:      dependency{path: module, version: "v0.3.0-rc.1", needs: []string{"example.com/a", library}, licenses: []string{"MPL-2.0"}},
		deps: []dependency{
			{path: "example.com/a", version: "v1.0.0+incompatible", sum: "h1:abc=", needs: []string{"example.com/b"}, licenses: []string{"Apache-2.0", "MIT"}},
			{path: "example.com/b", version: "v0.0.1", sum: "h1:def=", licenses: []string{"MIT"}},
			{path: library, version: "1.26.8", licenses: []string{"BSD-3-Clause"}},
		},
	}
}

func TestSBOM(t *testing.T) {
	var one, two bytes.Buffer
	digest := strings.Repeat("0a", 32)
	for _, w := range []*bytes.Buffer{&one, &two} {
		if err := writeSBOM(w, someSource, platform{"linux", "arm64"}, someInventory(), digest); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("it is another one each time")
	}
	validate(t, one.Bytes())
	bom := decode(t, one.Bytes())
	if bom.Metadata.Timestamp != "2026-11-25T10:20:30Z" || (*bom.Metadata.Component.Hashes)[0].Value != digest {
		t.Errorf("it is of %s, %+v", bom.Metadata.Timestamp, bom.Metadata.Component)
	}
	var purls []string
	for _, c := range *bom.Components {
		purls = append(purls, c.PackageURL)
	}
	a, b, std := "pkg:golang/example.com/a@v1.0.0%2Bincompatible", "pkg:golang/example.com/b@v0.0.1", "pkg:golang/stdlib@1.26.8"
	if !slices.Equal(purls, []string{a, b, std}) {
		t.Errorf("it lists %v", purls)
	}
	needs := map[string][]string{}
	for _, d := range *bom.Dependencies {
		if d.Dependencies != nil {
			needs[d.Ref] = *d.Dependencies
		}
	}
	if !slices.Equal(needs["pkg:golang/"+module+"@v0.3.0-rc.1"], []string{a, std}) || !slices.Equal(needs[a], []string{b}) || len(needs[b]) != 0 {
		t.Errorf("who needs whom: %v", needs)
	}
	if got := (*(*bom.Components)[0].Licenses)[0].Expression; got != "Apache-2.0 AND MIT" {
		t.Errorf("the licence of two is %q", got)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(bom.SerialNumber) {
		t.Errorf("%s is no UUID of version 8", bom.SerialNumber)
	}
	if serial(digest) == serial(strings.Repeat("0b", 32)) {
		t.Error("two binaries have one serial number")
	}
}

// The schema refuses what is no bill of materials, so that it takes one means something.
func TestSchemaRefuses(t *testing.T) {
	for _, text := range []string{
		`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library"}]}`,
		`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","name":"a","licenses":[{"license":{"id":"Mine-1.0"}}]}]}`,
	} {
		if faults(t, []byte(text)) == nil {
			t.Errorf("it takes %s", text)
		}
	}
}

func decode(t *testing.T, raw []byte) *cdx.BOM {
	t.Helper()
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(raw), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	return bom
}

func validate(t *testing.T, raw []byte) {
	t.Helper()
	for _, fault := range faults(t, raw) {
		t.Errorf("not as CycloneDX's schema wants it: %s", fault)
	}
}

// faults are what CycloneDX's own schema finds, which comes with its library.
func faults(t *testing.T, raw []byte) []gojsonschema.ResultError {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) gojsonschema.JSONLoader {
		return gojsonschema.NewReferenceLoader("file://" + filepath.ToSlash(filepath.Join(strings.TrimSpace(string(out)), "schema", name)))
	}
	loader := gojsonschema.NewSchemaLoader()
	for url, name := range map[string]string{"http://cyclonedx.org/schema/spdx.schema.json": "spdx.schema.json", "http://cyclonedx.org/schema/jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		if err := loader.AddSchema(url, file(name)); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := loader.Compile(file("bom-1.6.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	result, err := schema.Validate(gojsonschema.NewBytesLoader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return result.Errors()
}
