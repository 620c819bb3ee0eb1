package main

import (
	"bytes"
	"strings"
	"testing"

	redox "github.com/seed-963e9c27/vault-plugin-secrets-redox"
)

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-version"}, &out); err != nil || out.String() != redox.Version+"\n" {
		t.Errorf("-version prints %q, %v", out.String(), err)
	}
	if !strings.HasPrefix(redox.Version, "v") {
		t.Errorf("Vault wants a version that begins with v, not %s", redox.Version)
	}
}

func TestUnknownFlag(t *testing.T) {
	if err := run([]string{"-nonsense"}, &bytes.Buffer{}); err == nil {
		t.Error("an unknown flag is taken")
	}
}
