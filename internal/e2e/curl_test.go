package e2e

import (
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// exampleCmd runs a program that a user copies, and bash with a trace of all
// that it does: example <program> args…
func exampleCmd(ts *testscript.TestScript, neg bool, args []string) {
	program := args
	if strings.HasSuffix(args[0], ".sh") {
		path, err := filepath.Abs(filepath.Join(repository, "examples", args[0]))
		ts.Check(err)
		program = append([]string{"bash", "-x", path}, args[1:]...)
	}
	err := ts.Exec(program[0], program[1:]...)
	worldOf(ts).record("example "+args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	if neg == (err == nil) {
		ts.Fatalf("%s: %v", strings.Join(program, " "), err)
	}
}
