package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// httpCmd sends a request to Vault's API as root. It fails unless the status is
// <status>. The answer becomes stdout. Usage: http <status> <method> <path> [<body>].
func httpCmd(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	body := ""
	if len(args) > 3 {
		body = args[3]
	}
	w := worldOf(ts)
	if args[1] == http.MethodDelete {
		ts.Check(w.keepKeys())
	}
	status, answer, err := w.call(args[1], args[2], body)
	ts.Check(err)
	w.record(strings.Join(args, " "), string(answer))
	_, err = fmt.Fprintln(ts.Stdout(), string(answer))
	ts.Check(err)
	if status != want {
		ts.Fatalf("%s %s: HTTP %d, want %d: %s", args[1], args[2], status, want, answer)
	}
}

// overloadCmd makes 64 reads of a token wait for a stalled Redox. Meanwhile it reads the token once more and
// prints the status and the answer, and a read of check must succeed. Usage: overload <path of the token>.
func overloadCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	before := len(w.sandbox.Assertions())
	w.sandbox.SetFault(redoxtest.FaultStall, 64)
	done := make(chan error)
	for range 64 {
		go func() {
			_, answer, err := w.call(http.MethodGet, args[0], "")
			w.record(args[0], string(answer))
			done <- err
		}()
	}
	deadline := time.Now().Add(20 * time.Second)
	for ; len(w.sandbox.Assertions()) < before+64; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%d requests wait for Redox, want 64", len(w.sandbox.Assertions())-before)
		}
	}
	status, answer, err := w.call(http.MethodGet, args[0], "")
	ts.Check(err)
	w.record(args[0], string(answer))
	checked, _, err := w.call(http.MethodGet, strings.Replace(args[0], "token", "check", 1), "")
	ts.Check(err)
	if checked != http.StatusOK {
		ts.Fatalf("check: HTTP %d, though it has a slot of its own", checked)
	}
	_, err = fmt.Fprintln(ts.Stdout(), status, string(answer))
	ts.Check(err)
	for range 64 {
		ts.Check(<-done)
	}
}

// damageCmd overwrites an entry in the storage of a mount: damage <mount> <key>
// <value>.
func damageCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	_, answer, err := w.call(http.MethodGet, "sys/mounts/"+strings.TrimSuffix(args[0], "/"), "")
	ts.Check(err)
	var mount struct{ Data struct{ UUID string } }
	ts.Check(json.Unmarshal(answer, &mount))
	body, err := json.Marshal(map[string]string{"value": args[2]})
	ts.Check(err)
	status, answer, err := w.call(http.MethodPut, "sys/raw/logical/"+mount.Data.UUID+"/"+args[1], string(body))
	ts.Check(err)
	if status != http.StatusNoContent {
		ts.Fatalf("writing %s: HTTP %d %s", args[1], status, answer)
	}
}
