// Package e2e tests the engine inside a real Vault: with the server, the plugin's process and the CLI.
// testdata/*.txtar are transcripts of what users type and see. "scripts/test" runs the quick ones,
// "scripts/test all" also longer ones, and "scripts/test nightly" also those that take longest, but
// none that needs a release or packages of Node.
package e2e
