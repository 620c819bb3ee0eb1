package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeSBOM says in CycloneDX what a binary was made of. Of one binary it says
// the same at any time and on any machine.
func writeSBOM(w io.Writer, s source, p platform, inv inventory, digest string) error {
	main := component(inv.main)
	main.Type = cdx.ComponentTypeApplication
	main.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: digest}}
	main.Properties = &[]cdx.Property{
		{Name: "go:GOOS", Value: p.os}, {Name: "go:GOARCH", Value: p.arch},
		{Name: "go:version", Value: inv.goVersion}, {Name: "git:commit", Value: s.commit},
	}
	components := []cdx.Component{}
	needs := []cdx.Dependency{edges(inv.main, inv)}
	for _, dep := range inv.deps {
		components = append(components, component(dep))
		needs = append(needs, edges(dep, inv))
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = serial(digest)
	bom.Metadata = &cdx.Metadata{
		Timestamp: s.date.Format("2006-01-02T15:04:05Z"),
		Component: &main,
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: module + "/tools/release", Version: s.version}}},
	}
	bom.Components, bom.Dependencies = &components, &needs
	encoder := cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON)
	return encoder.SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
}

func component(dep dependency) cdx.Component {
	c := cdx.Component{Type: cdx.ComponentTypeLibrary, Name: dep.path, Version: dep.version, PackageURL: purl(dep), BOMRef: purl(dep)}
	if dep.sum != "" { // it is of a module's files, not of one file, so it is none of CycloneDX's hashes
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: dep.sum}}
	}
	choice := cdx.LicenseChoice{License: &cdx.License{ID: dep.licenses[0]}}
	if len(dep.licenses) > 1 { // of those between which one may choose both are named
		choice = cdx.LicenseChoice{Expression: strings.Join(dep.licenses, " AND ")}
	}
	c.Licenses = &cdx.Licenses{choice}
	return c
}

func edges(dep dependency, inv inventory) cdx.Dependency {
	refs := []string{}
	for _, other := range inv.deps {
		for _, path := range dep.needs {
			if path == other.path {
				refs = append(refs, purl(other))
			}
		}
	}
	return cdx.Dependency{Ref: purl(dep), Dependencies: &refs}
}

// purl names a module as scanners look it up.
func purl(dep dependency) string {
	return "pkg:golang/" + dep.path + "@" + strings.ReplaceAll(dep.version, "+", "%2B")
}

// serial is a UUID (version 8, of RFC 9562) that follows from the binary.
func serial(digest string) string {
	u := sha256.Sum256([]byte("bill of materials of " + digest))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
