package redox

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const metricsHelp = `
Serves metrics of this mount in Prometheus's text format: what this node's
process did since it started, and the keys of all clients. A reader of it learns
the clients' names. Scrape the active node where standbys forward, as those of
Vault's Community Edition do. Scrape each node where they answer, as on OpenBao.
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

func (e *engine) readMetrics(context.Context, *request) (*logical.Response, error) {
	families, err := prometheus.Gatherers{e.metrics.registry, e.gauges()}.Gather()
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

// gauges shows what is made at each scrape: the state of the clients' keys, and the
// requests in flight. Times are in seconds since 1970, 0 for never.
type gauges struct {
	*prometheus.Registry

	unread, ready, unreadable, inFlight, created, active, due, window, proof, refusals, published, kept,
	overdue *prometheus.GaugeVec
}

func newGauges() *gauges {
	registry := prometheus.NewRegistry()
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		registry.MustRegister(vec)
		return vec
	}
	g := &gauges{Registry: registry}
	g.unread = gauge("redox_clients_unread",
		"Clients that this node has not looked at yet since it began to rotate keys. Absent where another node does that.")
	g.ready = gauge("redox_rotating_node",
		"On the node that rotates keys: 1 when it has looked at all clients, 0 before. Gauges of keys come from it alone, "+
			"at 1. Absent on other nodes.")
	g.unreadable = gauge("redox_client_unreadable",
		"1 when a client's config or keys in storage are damaged, or were written by a newer plugin.", labelClient)
	g.inFlight = gauge("redox_requests_in_flight",
		fmt.Sprintf("Reads of token that wait for Redox; %d at most.", maxReads), labelClient)
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
		"1 for a replaced key past its time that the engine does not delete by itself (keys says why), 0 for all others.",
		labelClient, labelKeyID)
	g.overdue = gauge("redox_rotation_overdue",
		"1 when the rotation should have begun five minutes ago, or its last step on this node failed.", labelClient)
	return g
}

// gauges returns the gauges of all clients, from memory. Those of keys and rotations
// come from the node alone that rotates keys, when it has looked at all clients.
func (e *engine) gauges() *gauges {
	g := newGauges()
	clients := e.overviews.all()
	for client, o := range clients {
		if o.configured {
			g.inFlight.WithLabelValues(client)
		}
	}
	for client, n := range e.reads.all() {
		g.inFlight.WithLabelValues(client).Set(float64(n))
	}
	if !e.writeSafe() {
		return g
	}
	unread, complete := e.unread()
	g.unread.WithLabelValues().Set(float64(unread))
	g.ready.WithLabelValues().Set(one(complete))
	if !complete {
		return g
	}
	for client, o := range clients {
		if o.unreadable {
			g.unreadable.WithLabelValues(client).Set(1)
			continue
		}
		g.noteKeys(client, o.ring)
		if !o.configured {
			continue
		}
		g.unreadable.WithLabelValues(client).Set(0)
		kept := o.ring.Kept(o.policy, e.now())
		for _, k := range o.ring.Keys {
			g.kept.WithLabelValues(client, string(k.ID)).Set(one(slices.Contains(kept, k)))
		}
		failed := e.failures.of(client)
		overdue := overdueSince(o.ring, o.policy, e.now())
		g.overdue.WithLabelValues(client).Set(one(!overdue.IsZero() || failed.text != ""))
		g.window.WithLabelValues(client).Set(o.policy.Window.Seconds())
		if at := o.ring.Due(o.policy); !at.IsZero() {
			g.due.WithLabelValues(client).Set(unix(at))
		}
		if p := o.ring.Publication; p != nil {
			g.published.WithLabelValues(client).Set(one(p.Failure != ""))
		}
	}
	return g
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
