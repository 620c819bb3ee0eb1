// Command vault is the Vault server that the tests and the demo run against,
// built from the Go module that HashiCorp publishes. It is a module of its own
// so that none of its dependencies reaches the plugin. Vault is under the
// Business Source License: build and run it for development, never ship it.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
