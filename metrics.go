package redox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// metrics counts what one mount did since Vault started it. Only a client with a config has
// counts; found begins and ends them. So a request for a client that does not exist adds
// none, and an answer that comes after the client was deleted is not counted.
type metrics struct {
	mu sync.Mutex // guards of; nothing waits under it
	of map[string]*counts
}

// counts are the counts of one client. They must be small, as a mount may have many clients.
type counts struct {
	reads    [len(outcomes)]uint64 // in the order of outcomes
	requests durations             // of token requests to Redox
	retries  uint64
	retiring uint64    // tokens that were requested with a retiring key
	tokenAt  time.Time // when the token was requested that Redox issued last
	skew     redoxapi.Skew
}

// durations is a histogram.
type durations struct {
	within [len(bounds) + 1]uint64 // how many took at most bounds[i], and more than bounds[i-1]
	sum    float64                 // in seconds
}

// bounds are the upper bounds of a durations histogram, in seconds.
var bounds = [...]float64{.05, .1, .2, .3, .5, 1, 2, 3, 5, 10, 30}

func (d *durations) note(took time.Duration) {
	at, _ := slices.BinarySearch(bounds[:], took.Seconds())
	d.within[at]++
	d.sum += took.Seconds()
}

func newMetrics() *metrics { return &metrics{of: map[string]*counts{}} }

// The outcomes of a read of token.
const (
	outcomeIssued      = "issued"
	outcomeReused      = "reused"
	outcomeHeld        = "held"
	outcomeRefused     = "refused"
	outcomeLimited     = "limited"
	outcomeOverloaded  = "overloaded"
	outcomeTimeout     = "timeout"
	outcomeUnavailable = "unavailable"
	outcomeAbandoned   = "abandoned"
	outcomeError       = "error"
)

var outcomes = [...]string{
	outcomeIssued, outcomeReused, outcomeHeld, outcomeRefused, outcomeLimited, outcomeOverloaded,
	outcomeTimeout, outcomeUnavailable, outcomeAbandoned, outcomeError,
}

// found begins the counts of a client that has a config, and deletes those of one that has
// none. A scrape should see them at zero first: Prometheus sees only how a value grows, so it
// would miss a refusal that is already in the first value.
func (m *metrics) found(client string, configured bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !configured {
		delete(m.of, client)
	} else if m.of[client] == nil {
		m.of[client] = &counts{}
	}
}

// clear ends the counts of all clients.
func (m *metrics) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.of)
}

// all returns copies of the counts of all clients.
func (m *metrics) all() map[string]counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]counts, len(m.of))
	for client, c := range m.of {
		all[client] = *c
	}
	return all
}

// count calls add with the client's counts, if there are any. It does nothing if m is nil.
func (m *metrics) count(client string, add func(c *counts)) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.of[client]; c != nil {
		add(c)
	}
}

// read notes how a read of token ended.
func (m *metrics) read(client, outcome string) {
	m.count(client, func(c *counts) { c.reads[slices.Index(outcomes[:], outcome)]++ })
}

// retried notes that a token request is repeated.
func (m *metrics) retried(client string) {
	m.count(client, func(c *counts) { c.retries++ })
}

// retiringSigned notes a token that was requested with a retiring key.
func (m *metrics) retiringSigned(client string) {
	m.count(client, func(c *counts) { c.retiring++ })
}

// outcomeOf returns the outcome of a read of token that failed with err. ctx is the
// request's own: if it has ended, nobody waits for the token.
func outcomeOf(ctx context.Context, err error) string {
	var (
		refused *redoxapi.Error
		up      *redoxapi.UpstreamError
	)
	switch {
	case errors.As(err, &refused):
		return outcomeRefused
	case ctx.Err() != nil:
		return outcomeAbandoned
	case !errors.As(err, &up):
		return outcomeError
	}
	switch up.Kind {
	case redoxapi.RateLimited:
		return outcomeLimited
	case redoxapi.Overloaded:
		return outcomeOverloaded
	case redoxapi.TimedOut:
		return outcomeTimeout
	}
	return outcomeUnavailable
}

// answered notes one token request: how long it took, and when it was made if Redox issued a
// token. If Redox issued one or refused, it notes how far the clocks differ, if that is known.
func (m *metrics) answered(client string, took time.Duration, t *redoxapi.Token, err error) {
	var refused *redoxapi.Error
	m.count(client, func(c *counts) {
		c.requests.note(took)
		switch {
		case err == nil:
			c.tokenAt = t.RequestedAt
			c.noteSkew(t.Skew)
		case errors.As(err, &refused):
			c.noteSkew(refused.Skew)
		}
	})
}

func (c *counts) noteSkew(s redoxapi.Skew) {
	if s.Known {
		c.skew = s
	}
}
