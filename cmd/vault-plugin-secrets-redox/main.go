// Command vault-plugin-secrets-redox is the Redox secrets engine. Vault starts it. With
// -version it prints its version and ends.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"

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
	// Only about three megabytes are in use, and each read allocates some kilobytes: the
	// collector, which starts when the heap has doubled, would run many times a second.
	// Memory that is never written takes no memory of the machine, and the collector
	// counts it. GOGC=400 would do the same here, and take five times what is in use in a
	// mount with many clients.
	unwritten := make([]byte, 8<<20)
	err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: redox.Factory})
	runtime.KeepAlive(unwritten)
	return err
}
