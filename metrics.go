package redox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// metrics counts what one mount did since its process started. A client has
// labels from when its config is found until it is deleted: so their number is that
// of the clients, and not of the names that somebody asks for. An answer that comes
// after that counts nowhere.
type metrics struct {
	registry *prometheus.Registry

	mu    sync.RWMutex    // held while something is counted, as labels must not come back
	known map[string]bool // clients that have labels

	reads    *prometheus.CounterVec   // by client and outcome
	requests *prometheus.HistogramVec // by client
	retries  *prometheus.CounterVec   // by client
	retiring *prometheus.CounterVec   // by client
	tokenAt  *prometheus.GaugeVec     // by client
	skew     *prometheus.GaugeVec     // by client
}

const (
	labelClient  = "client"
	labelOutcome = "outcome"
	labelKeyID   = "key_id"
	labelState   = "state"
)

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(), known: map[string]bool{},
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "redox_token_reads_total", Help: "Reads of token by outcome. issued: a token was requested for the read; " +
				"reused: the token had been requested before; held: the token is near its end, and Redox gave no newer one; " +
				"abandoned: the reader hung up, or Vault ended the request, before there was one; with all other outcomes " +
				"the read failed.",
		}, []string{labelClient, labelOutcome}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "redox_request_duration_seconds", Help: "Token requests to Redox, each attempt, however it ended.",
			Buckets: []float64{.05, .1, .2, .3, .5, 1, 2, 3, 5, 10, 30},
		}, []string{labelClient}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "redox_retries_total", Help: "Token requests that were repeated after a temporary failure.",
		}, []string{labelClient}),
		retiring: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "redox_retiring_key_tokens_total", Help: "Tokens that were requested with a retiring key, because " +
				"not all of Redox knew the active key yet.",
		}, []string{labelClient}),
		tokenAt: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "redox_last_token_timestamp_seconds", Help: "When Redox last issued a token, also for check or a proof.",
		}, []string{labelClient}),
		skew: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "redox_clock_skew_seconds", Help: "How far the clock here was ahead of Redox's at its last answer; " +
				"negative: behind. Less than two seconds means nothing.",
		}, []string{labelClient}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redox_build_info", Help: "Version of the plugin; always 1.",
	}, []string{"version"})
	build.WithLabelValues(Version).Set(1)
	m.registry.MustRegister(m.reads, m.requests, m.retries, m.retiring, m.tokenAt, m.skew, build)
	return m
}

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

var outcomes = []string{
	outcomeIssued, outcomeReused, outcomeHeld, outcomeRefused, outcomeLimited, outcomeOverloaded,
	outcomeTimeout, outcomeUnavailable, outcomeAbandoned, outcomeError,
}

// found begins the labels of a client that has a config, and ends those of one that
// has none. Counters begin at zero: Prometheus sees one grow only from a value that
// it has seen, so it would miss the first refusal of all if the label came with it.
func (m *metrics) found(client string, configured bool) {
	m.mu.RLock()
	same := m.known[client] == configured
	m.mu.RUnlock()
	if same {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !configured {
		m.forgetLocked(client)
		return
	}
	m.known[client] = true
	for _, outcome := range outcomes {
		m.reads.WithLabelValues(client, outcome)
	}
	m.requests.WithLabelValues(client)
	m.retries.WithLabelValues(client)
	m.retiring.WithLabelValues(client)
}

// forgetLocked ends all that a client has labels for. It names each, as a search
// would look at those of all clients while everybody waits.
func (m *metrics) forgetLocked(client string) {
	delete(m.known, client)
	for _, outcome := range outcomes {
		m.reads.DeleteLabelValues(client, outcome)
	}
	m.requests.DeleteLabelValues(client)
	m.retries.DeleteLabelValues(client)
	m.retiring.DeleteLabelValues(client)
	m.tokenAt.DeleteLabelValues(client)
	m.skew.DeleteLabelValues(client)
}

// clear ends the labels of all clients.
func (m *metrics) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for client := range m.known {
		m.forgetLocked(client)
	}
}

// count calls add unless the client has no labels. It does nothing where m is nil.
func (m *metrics) count(client string, add func()) {
	if m == nil {
		return
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.known[client] {
		add()
	}
}

// read notes how a read of token ended.
func (m *metrics) read(client, outcome string) {
	m.count(client, func() { m.reads.WithLabelValues(client, outcome).Inc() })
}

// retried notes that a token request is made again.
func (m *metrics) retried(client string) {
	m.count(client, func() { m.retries.WithLabelValues(client).Inc() })
}

// retiringSigned notes a token that a retiring key signed for.
func (m *metrics) retiringSigned(client string) {
	m.count(client, func() { m.retiring.WithLabelValues(client).Inc() })
}

// outcomeOf names how a read of token failed. ctx is the request's own: when it has
// ended, nobody waits for the token.
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

// answered notes one attempt at the token endpoint.
func (m *metrics) answered(client string, took time.Duration, t *redoxapi.Token, err error) {
	var refused *redoxapi.Error
	m.count(client, func() {
		m.requests.WithLabelValues(client).Observe(took.Seconds())
		switch {
		case err == nil:
			m.tokenAt.WithLabelValues(client).Set(float64(t.RequestedAt.Unix()))
			m.noteSkew(client, t.Skew)
		case errors.As(err, &refused):
			m.noteSkew(client, refused.Skew)
		}
	})
}

func (m *metrics) noteSkew(client string, s redoxapi.Skew) {
	if s.Known {
		m.skew.WithLabelValues(client).Set(s.Ahead.Seconds())
	}
}
