package repotest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// literals calls see with each string literal in a Go file: first with an empty to, then again
// for each field of a composite literal that contains it, and for each call that has it in its
// arguments, with the name of the field or function as to. Calls of methods and of functions of
// other packages do not count.
func literals(t *testing.T, path string, see func(to, text string)) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	walk := func(to string, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			expression, is := n.(ast.Expr)
			if !is {
				return true
			}
			text, is := literal(t, expression)
			if is {
				see(to, text)
			}
			return !is
		})
	}
	walk("", parsed)
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if name, is := n.Key.(*ast.Ident); is {
				walk(name.Name, n.Value)
			}
		case *ast.CallExpr:
			if name, is := n.Fun.(*ast.Ident); is {
				for _, arg := range n.Args {
					walk(name.Name, arg)
				}
			}
		}
		return true
	})
}

// literal returns the text of a string literal, or of several that are joined with +. For any
// other expression, is is false.
func literal(t *testing.T, n ast.Expr) (text string, is bool) {
	t.Helper()
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(n.Value)
		if err != nil {
			t.Fatal(err)
		}
		return text, true
	case *ast.BinaryExpr:
		left, isLeft := literal(t, n.X)
		right, isRight := literal(t, n.Y)
		return left + right, n.Op == token.ADD && isLeft && isRight
	}
	return "", false
}

// said returns the strings in the Go code, and what the scripts of internal/e2e expect on
// stdout and stderr. The code of tests, examples and tools does not count.
func said(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	sources(t, func(path string) {
		if !strings.HasSuffix(path, "_test.go") && !strings.HasPrefix(path, "examples/") {
			literals(t, path, func(_, text string) { all.WriteString(text + "\n") })
		}
	})
	scripts, err := filepath.Glob("internal/e2e/testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		raw, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			if strings.HasPrefix(line, "stdout ") || strings.HasPrefix(line, "stderr ") {
				all.WriteString(strings.NewReplacer(`\`, "", ".*", "…", "Redox.s", "Redox's").Replace(line))
			}
		}
	}
	return all.String()
}

func operations(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Each message that the operator's guide quotes is in the code, or in what a script expects.
// The guide quotes messages in the first column of tables in some sections, and as answers to
// commands. In a message, … stands for a variable part.
func TestOperationsMessages(t *testing.T) {
	atRoot(t)
	all := said(t)
	quoted, quotes := 0, regexp.MustCompile("`([^`]+)`")
	check := func(message string) {
		found := 0
		for part := range strings.SplitSeq(message, "…") {
			if part = strings.TrimSpace(part); len(part) < 4 {
				continue
			}
			if found++; !strings.Contains(all, part) {
				t.Errorf("nobody says %q, of %q", part, message)
			}
		}
		if found == 0 {
			t.Errorf("%q says nothing", message)
		}
		quoted++
	}
	section, console := "", false
	for line := range strings.Lines(operations(t)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#") && !console:
			section = line
		case strings.HasPrefix(line, "```"):
			console = line == "```console"
		case console && line != "" && !strings.HasPrefix(line, "$ "):
			check(line)
		case strings.HasPrefix(line, "| ") && (strings.HasPrefix(section, "###") || strings.HasPrefix(section, "## 1")):
			cell, _, _ := strings.Cut(line[2:], " | ")
			for _, quote := range quotes.FindAllStringSubmatch(cell, -1) {
				check(quote[1])
			}
		}
	}
	if quoted < 80 {
		t.Errorf("%d messages were found", quoted)
	}
}

// The operator's guide quotes each reason why a request to Redox may fail, each error about
// something that does not exist, and each refusal that Redox documents. Texts that come from a
// variable or another function are not checked.
func TestOperationsAreComplete(t *testing.T) {
	atRoot(t)
	guide := operations(t)
	explained := 0
	sources(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		literals(t, path, func(to, text string) {
			if to != "What" && to != "notFound" && to != "unreachable" && to != "documented" {
				return
			}
			text, _, _ = strings.Cut(text, "%")
			if text = strings.TrimSpace(text); len(text) < 10 || strings.HasPrefix(text, "keys/") {
				return // this part only joins two others
			}
			explained++
			if !strings.Contains(guide, text) {
				t.Errorf("docs/operations.md does not explain %q (%s)", text, path)
			}
		})
	})
	if explained < 40 {
		t.Errorf("%d messages were found", explained)
	}
}
