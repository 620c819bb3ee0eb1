// Command vault-1.19 is the same as tools/vault, of an earlier minor version.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
