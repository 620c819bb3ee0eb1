package redox

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// An unknown field of a read changes nothing, and the reader gets a warning. It is no
// error, because Vault itself sends such a field, ?list=false.
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

// force is accepted as the CLI sends it, a string, and as JSON has it, a boolean.
func TestForceAsTheCLISendsIt(t *testing.T) {
	m := newMount(t)
	id := m.ready("", nil)
	for _, no := range []any{false, "false", nil} {
		m.fails(400, logical.DeleteOperation, "keys/"+id, map[string]any{"force": no}, "repeat with force=true")
	}
	m.must(logical.DeleteOperation, "keys/"+id, map[string]any{"force": "true"})
}
