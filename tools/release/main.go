// Command release does two steps of a release: it collects the licences of all dependencies of
// the plugin, and checks that a binary is what a release promises. It is a module of its own, so
// that its dependencies are not those of the plugin.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

func main() {
	err := errors.New("usage: release licenses <repository> <file> | check <os> <arch> <version> <binary>")
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "licenses":
		err = writeLicenses(context.Background(), args[1], args[2])
	case len(args) == 5 && args[0] == "check":
		if err = checkBinary(context.Background(), args[1], args[2], args[3], args[4]); err != nil {
			err = fmt.Errorf("the binary for %s/%s %w", args[1], args[2], err)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/release:", err)
		os.Exit(1)
	}
}
