// Command vault-plugin-secrets-redox is the Redox secrets engine. Vault starts it. If
// a person starts it, it only prints its version.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	redox "github.com/seed-963e9c27/vault-plugin-secrets-redox"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		hclog.New(&hclog.LoggerOptions{JSONFormat: true}).Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("vault-plugin-secrets-redox", flag.ContinueOnError)
	version := flags.Bool("version", false, "print the version and stop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version {
		_, err := fmt.Fprintln(out, redox.Version)
		return err
	}
	// net/http logs unsolicited data from a server, which may be a token, and
	// Vault logs what a plugin writes to stderr.
	log.SetOutput(io.Discard)
	// Only about three megabytes are in use, and each read allocates some kilobytes.
	// With Go's default, garbage collection would run many times a second.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	return plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: redox.Factory})
}
