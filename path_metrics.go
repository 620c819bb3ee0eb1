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
process did since it started, and the keys of all clients. A reader of it learns
the clients' names. A standby forwards: scrape the active node.
`

func (e *engine) pathMetrics() []*framework.Path {
	output := ok("Metrics in Prometheus's text format", nil)
	output[http.StatusOK][0].MediaType = string(metricsFormat)
	return []*framework.Path{{
		Pattern:      "metrics",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "redox", OperationSuffix: "metrics"},
		Operations: ops{
			logical.ReadOperation: e.read(e.readMetrics, "Read the metrics.", output),
		},
		HelpSynopsis:    "Serves metrics in Prometheus's text format.",
		HelpDescription: strings.TrimSpace(metricsHelp),
	}}
}

var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

func (e *engine) readMetrics(ctx context.Context, r *request) (*logical.Response, error) {
	now, err := e.lookUp(ctx, r)
	if err != nil {
		return nil, err
	}
	families, err := prometheus.Gatherers{e.metrics.registry, now}.Gather()
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

// gauges are the metrics that are computed at each scrape: the state of the clients'
// keys, and the requests in flight. Times are in seconds since 1970, 0 for never.
type gauges struct {
	*prometheus.Registry
	unreadable, inFlight, created, active, due, window, proof, refusals, published, kept, overdue *prometheus.GaugeVec
}

func newGauges() *gauges {
	registry := prometheus.NewRegistry()
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		registry.MustRegister(vec)
		return vec
	}
	g := &gauges{Registry: registry}
	g.unreadable = gauge("redox_client_unreadable",
		"1 when a client's config or keys in storage are damaged, or were written by a newer plugin.", labelClient)
	g.inFlight = gauge("redox_requests_in_flight",
		fmt.Sprintf("Reads of token that wait for Redox; %d at most.", maxInFlight), labelClient)
	g.created = gauge("redox_key_created_timestamp_seconds",
		"When each key was generated or imported.", labelClient, labelKeyID, labelState)
	g.active = gauge("redox_key_active_since_timestamp_seconds",
		"Since when the active key signs.", labelClient, labelKeyID)
	g.due = gauge("redox_rotation_due_timestamp_seconds",
		"When the next rotation begins automatically, or should have begun.", labelClient)
	g.window = gauge("redox_publish_window_seconds",
		"publish_window: how long a new key is published before it is proved.", labelClient)
	g.proof = gauge("redox_last_proof_timestamp_seconds",
		"When a pending key was last tried at Redox.", labelClient, labelKeyID)
	g.refusals = gauge("redox_proof_refusals",
		"How often Redox has refused the pending key so far.", labelClient, labelKeyID)
	g.published = gauge("redox_publication_failed",
		"With platform_client: 1 when the public keys at Redox are not up to date.", labelClient)
	g.kept = gauge("redox_key_kept",
		"1 for a replaced key past its time that the engine does not delete by itself: keys says why.",
		labelClient, labelKeyID)
	g.overdue = gauge("redox_rotation_overdue",
		"1 when the rotation should have begun five minutes ago, or its last step on this node failed.", labelClient)
	return g
}

// lookUp returns the gauges of all clients. For a client that cannot be read it sets
// the gauge that says so, and goes on with the others.
func (e *engine) lookUp(ctx context.Context, r *request) (*gauges, error) {
	g := newGauges()
	clients, err := loadClients(ctx, r.Storage)
	if err != nil {
		return nil, err
	}
	for _, client := range clients {
		v, err := e.entries.view(ctx, r.Storage, client)
		var unreadable store.UnreadableError
		switch {
		case errors.As(err, &unreadable):
			g.unreadable.WithLabelValues(client).Set(1)
			continue
		case err != nil:
			return nil, err
		}
		g.noteKeys(client, v.ring)
		if v.config == nil {
			continue
		}
		g.unreadable.WithLabelValues(client).Set(0)
		g.window.WithLabelValues(client).Set(float64(v.config.PublishWindow))
		g.inFlight.WithLabelValues(client).Set(float64(e.connections.inFlight(client)))
		if at := v.ring.Due(v.config.policy()); !at.IsZero() {
			g.due.WithLabelValues(client).Set(unix(at))
		}
		for _, k := range v.ring.Kept(v.config.policy(), e.now()) {
			g.kept.WithLabelValues(client, string(k.ID)).Set(1)
		}
		s := status{config: v.config, ring: v.ring, now: e.now(), failed: e.failures.of(client)}
		g.overdue.WithLabelValues(client).Set(one(s.overdue() != "" || s.failed.text != ""))
		if p := v.ring.Publication; p != nil {
			g.published.WithLabelValues(client).Set(one(p.Failure != ""))
		}
	}
	return g, nil
}

func (g *gauges) noteKeys(client string, ring *keyring.Ring) {
	for _, k := range ring.Keys {
		g.created.WithLabelValues(client, string(k.ID), string(k.State)).Set(unix(k.CreatedAt))
		switch k.State {
		case keyring.Active:
			g.active.WithLabelValues(client, string(k.ID)).Set(unix(k.ActivatedAt))
		case keyring.Pending:
			g.proof.WithLabelValues(client, string(k.ID)).Set(unix(k.Proofs.LastAt))
			g.refusals.WithLabelValues(client, string(k.ID)).Set(float64(k.Proofs.Refusals))
		}
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
