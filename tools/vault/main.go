// Command vault is the Vault server for the tests and the demo, built from the Go module that
// HashiCorp publishes. It is a module of its own, so that its dependencies are not those of the
// plugin. Vault is under the Business Source License: build and run it for development, never
// ship it.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
