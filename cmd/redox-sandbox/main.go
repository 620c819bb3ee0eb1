// Command redox-sandbox is a server that stands in for Redox in tests. Its token endpoint
// verifies client assertions, and its API endpoints accept only unexpired tokens of that
// token endpoint. It writes no files.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const usage = `redox-sandbox [flags]

Prints its URL on the first line, then lines about requests. Stop it with an
interrupt. Its endpoints:

  POST /v2/auth/token                    the token endpoint
  POST /fhir/R4/redox-fhir-sandbox/Development/Patient/_search
  POST /endpoint                         the Data Model API
  PUT  /dashboard/apikeys/<client ID>    replace an API key's JWK Set,
                                         or with ?jwks_url=… have it fetched
  PUT  /dashboard/users/<client ID>      make it a user-level API key, for the
                                         Platform API at /platform/v1/
  PUT  /dashboard/fault?name=…&times=…   make the token endpoint misbehave

Vault's engine has to be told that it may talk to the sandbox, which is no host
of Redox's own: vault write redox/hosts allowed=127.0.0.1:8080

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "redox-sandbox:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("redox-sandbox", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() {
		_, _ = fmt.Fprint(errOut, usage) // there is nowhere to report this
		flags.PrintDefaults()
	}
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on; port 0 picks a free one")
	url := flags.String("url", "", "base URL that clients use, such as http://redox:8080; if empty, http:// and the "+
		"address of -listen. The audience of an assertion must be this URL followed by /v2/auth/token")
	ttl := flags.Duration("token-ttl", 5*time.Minute, "life of a token, in whole seconds")
	faultName := flags.String("fault", "", "fault of every token request: "+faultNames())
	offset := flags.Duration("clock-offset", 0, "how far the sandbox's clock is ahead")
	clientID := flags.String("client-id", "", "client ID of an API key that exists from the start; needs -jwks")
	jwksFile := flags.String("jwks", "", "file with the JWK Set of -client-id")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	fault, err := redoxtest.ParseFault(*faultName)
	if err != nil {
		return err
	}
	if *ttl < time.Second {
		return errors.New("-token-ttl must be at least 1s")
	}
	if (*clientID == "") != (*jwksFile == "") {
		return errors.New("-client-id and -jwks must be used together")
	}
	sandbox, err := redoxtest.Start(redoxtest.Options{Listen: *listen, URL: strings.TrimSuffix(*url, "/"),
		TokenTTL: *ttl, Log: out})
	if err != nil {
		return err
	}
	defer sandbox.Close()
	sandbox.SetFault(fault, -1)
	sandbox.SetClockOffset(*offset)
	if *jwksFile != "" {
		jwks, err := os.ReadFile(*jwksFile)
		if err != nil {
			return err
		}
		if err := sandbox.Register(*clientID, jwks); err != nil {
			return fmt.Errorf("%s: %w", *jwksFile, err)
		}
	}
	if _, err := fmt.Fprintf(out, "sandbox listening on %s\n", sandbox.URL()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func faultNames() string {
	var names []string
	for _, f := range redoxtest.Faults() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}
