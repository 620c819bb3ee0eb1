package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"

	"github.com/rogpeppe/go-internal/testscript"
)

// settlesCmd does twice what Terraform does at apply and plan: it writes the values to a path, then reads the
// path. It fails unless both reads show each value as it was written: settles <path> <JSON>.
func settlesCmd(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	var given map[string]any
	ts.Check(json.Unmarshal([]byte(args[1]), &given))
	differences := 0
	for range 2 {
		status, answer, err := w.call(http.MethodPut, args[0], args[1])
		ts.Check(err)
		if status != http.StatusOK {
			ts.Fatalf("apply: HTTP %d %s", status, answer)
		}
		_, answer, err = w.call(http.MethodGet, args[0], "")
		ts.Check(err)
		var shown struct {
			Data map[string]any `json:"data"`
		}
		ts.Check(json.Unmarshal(answer, &shown))
		for name, value := range given {
			if !reflect.DeepEqual(shown.Data[name], value) {
				differences++
				_, _ = fmt.Fprintf(ts.Stdout(), "plan: %s is %#v, and was written as %#v\n", name, shown.Data[name], value)
			}
		}
	}
	if settled := differences == 0; settled == neg {
		ts.Fatalf("%s: %d differences in two plans", args[1], differences)
	}
}
