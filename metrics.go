package redox

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// metrics counts what one mount did since its process started. A client has labels
// from the first time its config was found until the client is deleted. So a request
// for a client that does not exist adds no label.
type metrics struct {
	registry *prometheus.Registry

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
		registry: prometheus.NewRegistry(),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "redox_token_reads_total", Help: "Reads of token by outcome. issued: a token was requested for the read; " +
				"reused: the token had been requested before; held: the token is near its end, and Redox gave no newer one; " +
				"with all other outcomes the read failed.",
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
	outcomeError       = "error"
)

// begin creates the counters of a client, at zero. Prometheus sees an increase only
// from a value that it has scraped before: without the zero it would miss the first
// event.
func (m *metrics) begin(client string) {
	for _, outcome := range []string{
		outcomeIssued, outcomeReused, outcomeHeld, outcomeRefused, outcomeLimited, outcomeOverloaded,
		outcomeTimeout, outcomeUnavailable, outcomeError,
	} {
		m.reads.WithLabelValues(client, outcome)
	}
	m.requests.WithLabelValues(client)
	m.retries.WithLabelValues(client)
	m.retiring.WithLabelValues(client)
}

// outcomeOf returns the outcome label of a read of token that failed with err.
func outcomeOf(err error) string {
	var (
		refused *redoxapi.Error
		up      *redoxapi.UpstreamError
	)
	switch {
	case errors.As(err, &refused):
		return outcomeRefused
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

// retried counts a token request that is repeated.
func (m *metrics) retried(client string) {
	if m != nil {
		m.retries.WithLabelValues(client).Inc()
	}
}

// answered records one attempt at the token endpoint.
func (m *metrics) answered(client string, took time.Duration, t *redoxapi.Token, err error) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(client).Observe(took.Seconds())
	var refused *redoxapi.Error
	switch {
	case err == nil:
		m.tokenAt.WithLabelValues(client).Set(float64(t.RequestedAt.Unix()))
		m.noteSkew(client, t.Skew)
	case errors.As(err, &refused):
		m.noteSkew(client, refused.Skew)
	}
}

func (m *metrics) noteSkew(client string, s redoxapi.Skew) {
	if s.Known {
		m.skew.WithLabelValues(client).Set(s.Ahead.Seconds())
	}
}

// forget deletes all metrics of a client.
func (m *metrics) forget(client string) {
	of := prometheus.Labels{labelClient: client}
	m.requests.DeletePartialMatch(of)
	for _, counter := range []*prometheus.CounterVec{m.reads, m.retries, m.retiring} {
		counter.DeletePartialMatch(of)
	}
	for _, gauge := range []*prometheus.GaugeVec{m.tokenAt, m.skew} {
		gauge.DeletePartialMatch(of)
	}
}
