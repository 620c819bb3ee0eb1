package redox

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// A read with an unknown field succeeds, with a warning that names the field. It must not fail, because
// Vault passes on the field list of a read with ?list=false.
func TestUnknownFieldOfARead(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	resp, err := m.request(context.Background(), logical.ReadOperation, "token", map[string]any{"min_ttl": "60"})
	if err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	if !strings.Contains(fmt.Sprint(resp.Warnings), "min_ttl") {
		t.Errorf("warnings %v", resp.Warnings)
	}
}

// force may be a string, as the CLI sends it, or a JSON boolean. null counts as false.
func TestForceAsTheCLISendsIt(t *testing.T) {
	m := newMount(t)
	id := m.ready("", nil)
	for _, no := range []any{false, "false", nil} {
		m.fails(400, logical.DeleteOperation, "keys/"+id, map[string]any{"force": no}, "repeat with force=true")
	}
	m.must(logical.DeleteOperation, "keys/"+id, map[string]any{"force": "true"})
}
