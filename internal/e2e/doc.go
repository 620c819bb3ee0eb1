// Package e2e holds the tests of the engine inside a real Vault: the server,
// the plugin's process and the CLI. testdata/*.txtar are transcripts of what
// users type and see. scripts/test runs the quick ones, scripts/test all more, and
// scripts/test nightly those that take longest, too.
package e2e
