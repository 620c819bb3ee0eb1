// Package repotest tests the repository itself: for example imports between packages, links in
// the documents, the modules in the binary, and the workflows.
package repotest
