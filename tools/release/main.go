// Command release makes what users download: for each platform an archive and
// a bill of materials, an image for Vault's container runtime, and the sums of
// all. It is a module of its own so that what it needs never reaches the plugin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "scripts/release:", err)
		os.Exit(1)
	}
}

// options are what a caller may choose.
type options struct {
	repository string
	out        string
	platforms  []platform
	snapshot   bool
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("scripts/release", flag.ContinueOnError)
	var o options
	flags.StringVar(&o.repository, "repository", ".", "the repository; the script sets it")
	flags.StringVar(&o.out, "out", "dist", "where it all goes; a former release there is replaced")
	flags.BoolVar(&o.snapshot, "snapshot", false, "release whatever commit this is, as a version that ends in -dev… (default: it must bear a tag)")
	which := flags.String("platforms", "all", "all, host, or some of them, like linux/amd64,darwin/arm64")
	verify := flags.Bool("verify", false, "do it twice, in two clones with two build caches, and compare; -out is where the first goes")
	version := flags.Bool("print-version", false, "print the version that would be released, and stop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s is not understood; -h lists the flags", strings.Join(flags.Args(), " "))
	}
	var err error
	if o.platforms, err = parsePlatforms(*which); err != nil {
		return err
	}
	if o.repository, err = filepath.Abs(o.repository); err != nil {
		return err
	}
	if !filepath.IsAbs(o.out) {
		o.out = filepath.Join(o.repository, o.out)
	}
	if *verify {
		return reproduce(ctx, o, out)
	}
	s, err := readSource(ctx, o.repository, o.snapshot)
	if err != nil {
		return err
	}
	if *version {
		_, err := fmt.Fprintln(out, s.version)
		return err
	}
	return produce(ctx, o, s, out)
}
