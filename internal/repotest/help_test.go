package repotest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

// Every path, field and operation has a help text. The fields private_key in requests and
// access_token in responses are marked as sensitive, and no others. Vault forwards the
// operations that write, and no others.
func TestHelp(t *testing.T) {
	atRoot(t)
	e := newEngine(t)
	for _, path := range paths(t, e) {
		if !strings.HasSuffix(path.HelpSynopsis, ".") || len(path.HelpDescription) < 40 {
			t.Errorf("%s: synopsis %q, description %q", path.Pattern, path.HelpSynopsis, path.HelpDescription)
		}
		for name, field := range path.Fields {
			if !strings.HasSuffix(field.Description, ".") {
				t.Errorf("field %s of %s: description %q", name, path.Pattern, field.Description)
			}
			if secret := name == "private_key"; secret != (field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive) {
				t.Errorf("field %s of %s: wrongly marked, or not, as sensitive", name, path.Pattern)
			}
		}
		for op, handler := range path.Operations {
			properties := handler.Properties()
			if !strings.HasSuffix(properties.Summary, ".") || len(properties.Responses) != 1 {
				t.Errorf("%s %s: summary %q, %d responses", op, path.Pattern, properties.Summary, len(properties.Responses))
			}
			for _, responses := range properties.Responses {
				for name, field := range responses[0].Fields {
					if field.Description == "" {
						t.Errorf("%s %s: field %s of the response has no description", op, path.Pattern, name)
					}
					if secret := name == "access_token"; secret != (field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive) {
						t.Errorf("%s %s: field %s is wrongly marked, or not, as sensitive", op, path.Pattern, name)
					}
				}
			}
			writes := op != logical.ReadOperation && op != logical.ListOperation && op != logical.HeaderOperation
			if properties.ForwardPerformanceStandby != writes || properties.ForwardPerformanceSecondary != writes {
				t.Errorf("%s %s: forwarded %v, writes %v", op, path.Pattern, properties.ForwardPerformanceStandby, writes)
			}
		}
	}
	for path, want := range map[string]string{"": "vault write -f redox/keys/generate", "token": "Authorization",
		"keys/import": "private_key=@key.pem"} {
		resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path,
			MountPoint: "redox/"})
		if err != nil || !strings.Contains(fmt.Sprint(resp.Data["help"]), want) {
			t.Errorf("help of %q does not say %q: %v, %v", path, want, resp, err)
		}
	}
}

// The operation IDs stay the same: generated clients and documentation use them as names.
func TestOperationIDs(t *testing.T) {
	atRoot(t)
	var lines []string
	for path, item := range openAPI(t).Paths {
		for method, operation := range item.operations() {
			lines = append(lines, fmt.Sprintf("%-6s %-38s %s", method, path, operation.OperationID))
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[7:], b[7:]) })
	golden(t, "internal/repotest/testdata/operations.txt", strings.Join(lines, "\n")+"\n")
}

// golden reports an error if the file differs from got. With -update it first writes got to the
// file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("if that is meant, run with -update (-want +got):\n%s", diff)
	}
}
