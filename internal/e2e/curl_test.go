package e2e

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// exampleCmd runs a bash script of the examples with a trace of its commands, or any
// other program, and records the output: example <script or program> args…
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

// editCmd writes a copy of an example in which <old> is replaced by <new>
// everywhere: edit <file> <example> <old> <new>.
func editCmd(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples", args[1]))
	ts.Check(err)
	if !strings.Contains(string(raw), args[2]) {
		ts.Fatalf("%s has no %q", args[1], args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(string(raw), args[2], args[3])), 0o600))
}
