// Package e2e tests the engine inside a real Vault: with the server, the plugin's process and the CLI.
// testdata/*.txtar are transcripts of what users type and see. "scripts/test" runs the quick ones.
// "scripts/test all" also runs longer ones, and those that need a release or packages of Node.
// "scripts/test nightly" runs the longer ones and those that take longest.
package e2e
