// Command vault-1.19 is Vault 1.19 for the tests. It is a module of its own, like tools/vault,
// which has a newer Vault.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
