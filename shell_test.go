package redox

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// A shell reads a path as one word.
func TestInShell(t *testing.T) {
	for _, path := range []string{"redox/", "my mount/keys", "o'brien $HOME/", "a;b|c&d/", "keys/k_-.:@=+"} {
		got, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+inShell(path)).Output()
		if err != nil || string(got) != path {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	if got := inShell("redox/keys"); got != "redox/keys" {
		t.Errorf("quoted without need: %s", got)
	}
}

// These commands in messages can be pasted into a shell, even if the path of the mount has
// blanks.
func TestCommandsQuoteTheMount(t *testing.T) {
	const paths = "my mount/"
	c := defaultConfig()
	active, old := &keyring.Key{ID: "new", State: keyring.Active}, &keyring.Key{ID: "old", State: keyring.Retiring}
	kept := status{paths: paths, config: &c, ring: &keyring.Ring{Keys: []*keyring.Key{active, old}}}
	unknown := &redoxapi.Error{Description: "Public key not found"}
	jwk := &logical.Request{MountPoint: paths, Path: "keys/import", Data: map[string]any{"kty": "RSA"}}
	body := checkInput(&framework.Path{Fields: schemas{fieldPrivateKey: {}}}, jwk)
	for want, text := range map[string]string{
		"vault write 'my mount/keys/import' private_key": body.Error(),
		"vault read -field=jwks 'my mount/keys')":        complete(paths, nil, &keyring.Ring{}).Error(),
		"(vault read -field=jwks 'my mount/keys') in":    pasteKeys(paths),
		"vault delete 'my mount/keys/old'":               kept.keeps(old),
		"(vault read -field=jwks 'my mount/keys') to":    (&tokenError{err: unknown, config: &c, paths: paths}).advice(),
		"vault write 'my mount/hosts' allowed=a.example": (&hostError{host: "a.example", mount: paths}).Error(),
		"(vault read 'my mount/hosts')":                  (&hostError{allowed: make([]string, 21), mount: paths}).Error(),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
