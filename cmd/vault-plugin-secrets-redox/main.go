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
	// net/http logs data that a server sends unasked. The data may hold a token, and Vault
	// logs what a plugin writes to stderr.
	log.SetOutput(io.Discard)
	// The garbage collector runs when the heap has doubled. The heap in use is only about
	// three megabytes, and each read allocates some kilobytes, so under load the collector
	// would run many times a second. It also counts these eight megabytes, but the machine
	// gives no memory for them, because nothing writes them. GOGC=400 would have a similar
	// effect here, but in a mount with many clients the heap would grow to five times what
	// is in use.
	unwritten := make([]byte, 8<<20)
	err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: redox.Factory})
	runtime.KeepAlive(unwritten)
	return err
}
