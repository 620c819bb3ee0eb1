package redox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

const metricsHelp = `
Serves metrics of this mount in Prometheus's text format: what this node's
process did since it started, and the keys of all clients. Who may read it
learns the clients' names. A standby forwards: scrape the active node.
`

func (b *backend) pathMetrics() []*framework.Path {
	output := map[int][]framework.Response{http.StatusOK: {{Description: "Metrics in Prometheus's text format", MediaType: string(metricsFormat)}}}
	return []*framework.Path{{
		Pattern:      "metrics",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "redox", OperationSuffix: "metrics"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.read(b.readMetrics, "Read the metrics.", output),
		},
		HelpSynopsis:    "Serves metrics in Prometheus's text format.",
		HelpDescription: strings.TrimSpace(metricsHelp),
	}}
}

var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

func (b *backend) readMetrics(ctx context.Context, r *request) (*logical.Response, error) {
	now, err := b.lookUp(ctx, r)
	if err != nil {
		return nil, err
	}
	families, err := prometheus.Gatherers{b.metrics.registry, now}.Gather()
	if err != nil {
		return nil, fmt.Errorf("gathering metrics: %w", err)
	}
	var body bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&body, family); err != nil {
			return nil, fmt.Errorf("encoding metrics: %w", err)
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPRawBody:     body.Bytes(),
	}}, nil
}

// standing is what is not counted but looked up: the state of the clients' keys,
// and what is under way. Times are in seconds since 1970, 0 for never.
type standing struct {
	*prometheus.Registry
	unreadable, inFlight, created, active, due, window, proof, refusals, published *prometheus.GaugeVec
}

func newStanding() *standing {
	registry := prometheus.NewRegistry()
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		registry.MustRegister(vec)
		return vec
	}
	return &standing{
		Registry:   registry,
		unreadable: gauge("redox_client_unreadable", "1 when a client's config or keys in storage are damaged, or were written by a newer plugin.", labelClient),
		inFlight:   gauge("redox_requests_in_flight", fmt.Sprintf("Reads of token that wait for Redox; %d at most.", maxInFlight), labelClient),
		created:    gauge("redox_key_created_timestamp_seconds", "When each key was generated or imported.", labelClient, labelKeyID, labelState),
		active:     gauge("redox_key_active_since_timestamp_seconds", "Since when the active key signs.", labelClient, labelKeyID),
		due:        gauge("redox_rotation_due_timestamp_seconds", "When the next rotation begins by itself, or should have.", labelClient),
		window:     gauge("redox_publish_window_seconds", "publish_window: how long a new key is published before it is tried.", labelClient),
		proof:      gauge("redox_last_proof_timestamp_seconds", "When a pending key was tried at Redox last.", labelClient, labelKeyID),
		refusals:   gauge("redox_proof_refusals", "How often Redox has refused the pending key so far.", labelClient, labelKeyID),
		published:  gauge("redox_publication_failed", "With platform_client: 1 when the public keys at Redox are not up to date.", labelClient),
	}
}

// lookUp is the standing of all clients. One that cannot be read is told as
// that: it must not hide the others.
func (b *backend) lookUp(ctx context.Context, r *request) (*standing, error) {
	now := newStanding()
	names, err := store.List(ctx, r.Storage, clientsPrefix)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		client := strings.TrimSuffix(name, "/")
		c, ring, err := b.counted(ctx, &request{Request: r.Request, client: client})
		var unreadable store.UnreadableError
		switch {
		case errors.As(err, &unreadable):
			now.unreadable.WithLabelValues(client).Set(1)
			continue
		case err != nil:
			return nil, err
		}
		now.noteKeys(client, ring)
		if c == nil {
			continue
		}
		now.unreadable.WithLabelValues(client).Set(0)
		now.window.WithLabelValues(client).Set(float64(c.PublishWindow))
		now.inFlight.WithLabelValues(client).Set(float64(b.pool.inFlight(client)))
		if at := ring.Due(c.policy()); !at.IsZero() {
			now.due.WithLabelValues(client).Set(unix(at))
		}
		if p := ring.Publication; p != nil {
			now.published.WithLabelValues(client).Set(map[bool]float64{true: 1}[p.Failure != ""])
		}
	}
	return now, nil
}

func (s *standing) noteKeys(client string, ring *keyring.Ring) {
	for _, k := range ring.Keys {
		s.created.WithLabelValues(client, string(k.ID), string(k.State)).Set(unix(k.CreatedAt))
		switch k.State {
		case keyring.Active:
			s.active.WithLabelValues(client, string(k.ID)).Set(unix(k.ActivatedAt))
		case keyring.Pending:
			s.proof.WithLabelValues(client, string(k.ID)).Set(unix(k.Proofs.LastAt))
			s.refusals.WithLabelValues(client, string(k.ID)).Set(float64(k.Proofs.Refusals))
		}
	}
}

// counted reads a client's config and ring, and begins to count what it does if
// it has a config. The lock keeps whoever deletes that from coming in between.
func (b *backend) counted(ctx context.Context, r *request) (*config, *keyring.Ring, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ring, err := stored(ctx, r)
	if err == nil && c != nil {
		b.metrics.begin(r.client)
	}
	return c, ring, err
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
