// Command bench measures the engine in a real Vault. It compares the engine with parts of Vault
// itself, and with two minimal plugins in the same Vault. Compare only numbers of one run, by
// their ratio: machines differ, and are shared.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	binary := flags.String("vault", "", "path of the Vault binary")
	slice := flags.Duration("slice", 2*time.Second, "length of one measurement, twice that in the table neighbour")
	clients := flags.String("clients", "1,100,1000,10000", "numbers of clients for the table of growth")
	rounds := flags.Int("rounds", 5, "how often the goals are measured, in turn")
	only := flags.String("only", "", "the one table to measure: compare, delays, sizes, goals, neighbour or growth")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := newTestbed(*binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	p := &printer{out: out}
	p.line("Measured on %s with %d processors, %s, by scripts/bench.", time.Now().UTC().Format("2006-01-02"),
		runtime.NumCPU(), runtime.Version())
	measured := false
	for _, table := range []struct {
		name    string
		measure func() error
	}{
		{"compare", func() error { return s.compare(p, *slice) }},
		{"delays", func() error { return s.delays(p, *slice) }},
		{"sizes", func() error { return s.sizes(p, *slice) }},
		{"goals", func() error { return s.goals(p, *slice, *rounds) }},
		{"neighbour", func() error { return s.neighbour(p, *slice) }},
		{"growth", func() error { return s.growth(p, *slice, *clients) }},
	} {
		if *only != "" && *only != table.name {
			continue
		}
		measured = true
		if err := table.measure(); err != nil {
			return err
		}
	}
	if !measured {
		return fmt.Errorf("-only: there is no table %s", *only)
	}
	return p.err
}

// targets returns the targets by short names. The report shows the field name of a target
// instead.
func (s *testbed) targets() map[string]target {
	get := func(name, path, token string) target {
		return target{name: name, method: http.MethodGet, url: s.addr + "/v1/" + path, token: token}
	}
	return map[string]target{
		"fresh":    get("`token`, fresh", "redox/clients/2048/token", rootToken),
		"reused":   get("`token`, reused", "redox/clients/reused/token", rootToken),
		"3072":     get("`token`, fresh, 3072 bits", "redox/clients/3072/token", rootToken),
		"4096":     get("`token`, fresh, 4096 bits", "redox/clients/4096/token", rootToken),
		"jwks":     get("`jwks`, anonymous", "redox/clients/2048/jwks", ""),
		"signpost": get("plugin that signs and posts", "signpost/token?url="+url.QueryEscape(s.upstream.url), rootToken),
		"nothing":  get("plugin that does nothing", "nothing/value", rootToken),
		"constant": get("the same, with a token's fields", "nothing/token", rootToken),
		"raw":      get("the same, anonymous", "nothing/raw", ""),
		"kv":       get("KV v1 read", "kv/bench", rootToken),
		"health":   get("`sys/health`", "sys/health", ""),
		"transit": {
			name: "`transit/sign`, 2048 bits", method: http.MethodPost, url: s.addr + "/v1/transit/sign/bench/sha2-384",
			token: rootToken,
			body:  `{"input":"Zml2ZSBtaW51dGVz","signature_algorithm":"pkcs1v15"}`,
		},
	}
}
