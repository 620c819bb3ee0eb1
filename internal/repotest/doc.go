// Package repotest tests the repository itself: imports between packages, links
// and commands in the documents, modules of the binary, workflows.
package repotest
