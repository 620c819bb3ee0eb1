package redox

import "strings"

// inShell returns the path of a mount, or a path below it, as one word of a shell
// command: the path of a mount may have blanks.
func inShell(path string) string {
	if strings.ContainsAny(path, " \t\"'`\\$&|;<>()[]{}*?!#~") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
