package main

import (
	"fmt"
	"io"
	"time"
)

// printer writes lines until an error, which it keeps.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

const columns = "| reads/s | p50 | p95 | p99 | CPU of Vault | of plugins | failed " +
	"|\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"

// row prints a result. It shows processor time per read.
func (p *printer) row(name string, r *result) {
	per := func(d time.Duration) string {
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)/float64(max(r.reads, 1)))
	}
	ms := func(q float64) string {
		return fmt.Sprintf("%.1f ms", float64(r.quantile(q))/float64(time.Millisecond))
	}
	p.line("| %s | %d | %.0f | %s | %s | %s | %s | %s | %d |", name, r.readers, r.perSecond(), ms(0.5), ms(0.95), ms(0.99),
		per(r.vaultCPU), per(r.pluginCPU), r.failed)
}

// compare measures several targets, each with 1, 16 and 64 readers.
func (s *testbed) compare(p *printer, slice time.Duration) error {
	p.line("\n## Side by side\n\n| | readers " + columns)
	targets := s.targets()
	for _, name := range []string{"fresh", "signpost", "transit", "reused", "nothing", "constant", "jwks",
		"raw", "kv", "health"} {
		for _, readers := range []int{1, 16, 64} {
			opened := s.upstream.conns.Load()
			r, err := s.measure(targets[name], readers, slice)
			if err != nil {
				return err
			}
			p.row(targets[name].name, r)
			if name == "fresh" && readers == 64 {
				defer p.line("\nThe %d fresh reads by 64 readers, and those to warm up, opened %d connections to Redox.", r.reads,
					s.upstream.conns.Load()-opened)
			}
		}
	}
	memory, err := s.resident()
	p.line("\nThe engine's process holds %d MiB.", memory>>20)
	return err
}

// delays measures reads of fresh tokens while the stub of Redox takes 0, 50 or 300 ms to
// answer.
func (s *testbed) delays(p *printer, slice time.Duration) error {
	p.line("\n## Fresh reads, by how long Redox takes\n\n| delay | readers " + columns)
	defer s.upstream.delay.Store(0)
	for _, delay := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond} {
		s.upstream.delay.Store(int64(delay))
		for _, readers := range []int{1, 16, 64} {
			r, err := s.measure(s.targets()["fresh"], readers, slice)
			if err != nil {
				return err
			}
			p.row(delay.String(), r)
		}
	}
	return nil
}

// sizes measures reads of fresh tokens with keys of 2048, 3072 and 4096 bits.
func (s *testbed) sizes(p *printer, slice time.Duration) error {
	p.line("\n## Fresh reads, by the size of the key\n\n| | readers " + columns)
	for _, name := range []string{"fresh", "3072", "4096"} {
		r, err := s.measure(s.targets()[name], 16, slice)
		if err != nil {
			return err
		}
		p.row(s.targets()[name].name, r)
	}
	return nil
}

// goal compares the reads per second of two targets. The ratio of/to must be at least the field
// least. If least is zero, the ratio is only reported.
type goal struct {
	of, to string
	least  float64
}

var goals = []goal{
	{"fresh", "signpost", 0.85},
	{"reused", "nothing", 0.9},
	{"reused", "constant", 0},
	{"jwks", "raw", 0.9},
	{"fresh", "transit", 0},
	{"reused", "kv", 0},
	{"jwks", "health", 0},
	{"nothing", "kv", 0},
}

// goals measures all targets that the goals compare, one after the other in short slices, and
// repeats that, so that other load on the machine affects all of them alike. Then it prints the
// ratios.
func (s *testbed) goals(p *printer, slice time.Duration, rounds int) error {
	targets, sums := s.targets(), map[string]*result{}
	for range rounds {
		for _, name := range []string{"fresh", "signpost", "transit", "reused", "nothing", "constant", "jwks",
			"raw", "health", "kv"} {
			r, err := s.measure(targets[name], 16, slice)
			if err != nil {
				return err
			}
			if sums[name] == nil {
				sums[name] = r
				continue
			}
			sums[name].add(r)
		}
	}
	p.line("\n## Goals\n\nReads per second with 16 readers. The targets were measured in turn, each %d times for %s.\n",
		rounds, slice)
	p.line("| | to | ratio | goal | |\n|---|---|--:|--:|---|")
	for _, g := range goals {
		ratio := sums[g.of].perSecond() / sums[g.to].perSecond()
		verdict, least := "", ""
		if g.least > 0 {
			least = fmt.Sprintf("%.2f", g.least)
			verdict = "not met"
			if ratio >= g.least {
				verdict = "met"
			}
		}
		p.line("| %s, %.0f/s | %s, %.0f/s | %.2f | %s | %s |", targets[g.of].name, sums[g.of].perSecond(), targets[g.to].name,
			sums[g.to].perSecond(), ratio, least, verdict)
	}
	return nil
}
