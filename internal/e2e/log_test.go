package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var requestID = regexp.MustCompile(`request_id=([0-9a-f-]{36})`)

// loggedCmd waits until the server's log has a match: logged <regexp>. Its stdout is all lines that the mount
// redox/ has logged. If such a line has the ID of a request, the audit log must have that ID, too.
func loggedCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var log string
	for deadline := time.Now().Add(20 * time.Second); !want.MatchString(log); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the log never says %s:\n%s", args[0], log)
		}
		raw, err := os.ReadFile(w.vault.log)
		ts.Check(err)
		log = string(raw)
	}
	audit, err := os.ReadFile(filepath.Join(w.dir, ".audit.log"))
	ts.Check(err)
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "mount=redox/") {
			continue
		}
		if id := requestID.FindStringSubmatch(line); id != nil && !strings.Contains(string(audit), id[1]) {
			ts.Fatalf("the audit log has no request %s: %s", id[1], line)
		}
		_, err := ts.Stdout().Write([]byte(line))
		ts.Check(err)
	}
}
