// Package repotest tests the repository itself: imports between packages, links and
// commands in the documents, the modules in the binary, and the workflows.
package repotest
