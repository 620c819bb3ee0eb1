package redox

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

const metricsHelp = `
Serves metrics of this mount in Prometheus's text format: what this node's
process did since it started, and, on the node that rotates keys, the keys of
all clients. A reader of it learns the clients' names. Scrape the active node
where standbys forward, as those of Vault's Community Edition do. Scrape each
node where they answer, as on OpenBao.
`

func (e *engine) pathMetrics() []*framework.Path {
	output := ok("Metrics in Prometheus's text format", nil)
	output[http.StatusOK][0].MediaType = samplesType
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

func (e *engine) readMetrics(context.Context, *request) (*logical.Response, error) {
	s := &samples{}
	s.begin("redox_build_info", "gauge", "Version of the plugin; always 1.")
	s.add("redox_build_info", 1, "version", Version)
	overviews := e.overviews.all()
	e.showCounts(s, overviews)
	e.showClients(s, overviews)
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: samplesType,
		logical.HTTPRawBody:     string(s.text), // bytes would reach Vault as base64
	}}, nil
}

// showCounts writes the counts of each client, and how many token requests are in flight for
// its reads.
func (e *engine) showCounts(s *samples, overviews map[string]overview) {
	all := e.metrics.all()
	names := slices.Sorted(maps.Keys(all))
	each := func(name, kind, help string, show func(client string, c counts)) {
		s.begin(name, kind, help)
		for _, client := range names {
			show(client, all[client])
		}
	}
	const reads = "redox_token_reads_total"
	each(reads, "counter", "Reads of token by outcome. issued: a token was requested for the read; reused: the token was "+
		"requested for another read; held: the same, but it is near its end, and the request for a newer one failed; "+
		"abandoned: the reader hung up, or Vault ended the request, before there was a token. With all other outcomes the "+
		"read failed.",
		func(client string, c counts) {
			for i, outcome := range outcomes {
				s.add(reads, float64(c.reads[i]), "client", client, "outcome", outcome)
			}
		})
	const requests = "redox_request_duration_seconds"
	each(requests, "histogram", "How long token requests to Redox took, whether they succeeded or failed. Absent for a "+
		"client until its first request.",
		func(client string, c counts) { c.requests.show(s, requests, client) })
	const retries = "redox_retries_total"
	each(retries, "counter", "Repetitions of token requests after a temporary failure.",
		func(client string, c counts) { s.add(retries, float64(c.retries), "client", client) })
	const retiring = "redox_retiring_key_tokens_total"
	each(retiring, "counter", "Tokens that were requested with a retiring key, because Redox, or a part of it, did not "+
		"know the active key.",
		func(client string, c counts) { s.add(retiring, float64(c.retiring), "client", client) })
	const issuedAt = "redox_last_token_timestamp_seconds"
	each(issuedAt, "gauge", "When the token that Redox issued last was requested, also for check or a proof, but not the "+
		"one that settles whether Redox knows a ring's first key.", func(client string, c counts) {
		if !c.tokenAt.IsZero() {
			s.add(issuedAt, unix(c.tokenAt), "client", client)
		}
	})
	const skew = "redox_clock_skew_seconds"
	each(skew, "gauge", "How far the clock here was ahead of Redox's at its last token or refusal; negative: "+
		"behind. Two seconds or less mean nothing.",
		func(client string, c counts) {
			if c.skew.Known {
				s.add(skew, c.skew.Ahead.Seconds(), "client", client)
			}
		})
	const inFlight = "redox_requests_in_flight"
	waiting := e.reads.all()
	for client, o := range overviews {
		if _, some := waiting[client]; o.configured && !some {
			waiting[client] = 0
		}
	}
	s.begin(inFlight, "gauge", fmt.Sprintf("Token requests in flight for reads, at most %d per client.", maxReads))
	for _, client := range slices.Sorted(maps.Keys(waiting)) {
		s.add(inFlight, float64(waiting[client]), "client", client)
	}
}

// show writes a histogram, unless nothing was noted.
func (d *durations) show(s *samples, name, client string) {
	var all uint64
	for _, n := range d.within {
		all += n
	}
	if all == 0 {
		return
	}
	var sofar uint64
	for i, bound := range bounds {
		sofar += d.within[i]
		s.add(name+"_bucket", float64(sofar), "client", client, "le", strconv.FormatFloat(bound, 'g', -1, 64))
	}
	s.add(name+"_bucket", float64(all), "client", client, "le", "+Inf")
	s.add(name+"_sum", d.sum, "client", client)
	s.add(name+"_count", float64(all), "client", client)
}

// gauged is what the gauges show of a client.
type gauged struct {
	overview

	name    string
	kept    []*keyring.Key
	overdue bool
}

// showClients writes the gauges of keys and rotations, from memory. Only the node that rotates keys
// has them, and only after it has looked at all clients. Times are in seconds since 1970. The last
// proof is 0 before the first one, and without an automatic rotation the time at which it is due is
// absent.
func (e *engine) showClients(s *samples, overviews map[string]overview) {
	if !e.writeSafe() {
		return
	}
	unread, complete := e.unread()
	const left, ready = "redox_clients_unread", "redox_rotating_node"
	s.begin(left, "gauge", "Clients that this node has not looked at yet since it began to rotate keys. Absent where "+
		"another node does that.")
	s.add(left, float64(unread))
	s.begin(ready, "gauge", "On the node that rotates keys: 1 when it has looked at all clients, 0 before. Only a node "+
		"where this is 1 has gauges of keys. Absent on other nodes.")
	s.add(ready, one(complete))
	if !complete {
		return
	}
	var clients []*gauged
	for _, name := range slices.Sorted(maps.Keys(overviews)) {
		c := &gauged{overview: overviews[name], name: name}
		if c.configured {
			c.kept = c.ring.Kept(c.policy, e.now())
			c.overdue = !overdueSince(c.ring, c.policy, e.now()).IsZero() || e.failures.of(name).text != ""
		}
		clients = append(clients, c)
	}
	for _, g := range gauges {
		s.begin(g.name, "gauge", g.help)
		for _, c := range clients {
			g.show(c, func(value float64, labels ...string) {
				s.add(g.name, value, append([]string{"client", c.name}, labels...)...)
			})
		}
	}
}

// addSample adds a sample of one gauge and one client.
type addSample func(value float64, labels ...string)

// gauges has one row for each gauge of a client's keys, rotation and publication.
var gauges = []struct {
	name, help string
	show       func(c *gauged, add addSample)
}{
	{
		"redox_client_unreadable",
		"1 when a client's config or keys in storage are damaged, or were written by a newer plugin.",
		func(c *gauged, add addSample) {
			if c.unreadable || c.configured {
				add(one(c.unreadable))
			}
		},
	},
	{
		"redox_key_created_timestamp_seconds", "When each key was generated or imported.",
		ofKeys(func(_ *gauged, k *keyring.Key, add addSample) {
			add(unix(k.CreatedAt), "key_id", string(k.ID), "state", string(k.State))
		}),
	},
	{
		"redox_key_active_since_timestamp_seconds", "Since when the active key signs.",
		ofKeys(func(_ *gauged, k *keyring.Key, add addSample) {
			if k.State == keyring.Active {
				add(unix(k.ActivatedAt), "key_id", string(k.ID))
			}
		}),
	},
	{
		"redox_rotation_due_timestamp_seconds", "When the next rotation begins automatically, or should have begun.",
		ofConfigured(func(c *gauged, add addSample) {
			if at := c.ring.Due(c.policy); !at.IsZero() {
				add(unix(at))
			}
		}),
	},
	{
		"redox_publish_window_seconds", "publish_window: how long a new key is published before it is proved.",
		ofConfigured(func(c *gauged, add addSample) { add(c.policy.Window.Seconds()) }),
	},
	{
		"redox_last_proof_timestamp_seconds", "When a rotation last tried the pending key at Redox.",
		ofKeys(func(_ *gauged, k *keyring.Key, add addSample) {
			if k.State == keyring.Pending {
				add(unix(k.Proofs.LastAt), "key_id", string(k.ID))
			}
		}),
	},
	{
		"redox_proof_refusals", "How often Redox has refused the pending key in its rotation so far.",
		ofKeys(func(_ *gauged, k *keyring.Key, add addSample) {
			if k.State == keyring.Pending {
				add(float64(k.Proofs.Refusals), "key_id", string(k.ID))
			}
		}),
	},
	{
		"redox_publication_failed", "With platform_client: 1 when the last attempt to update the public keys at Redox " +
			"failed.",
		ofConfigured(func(c *gauged, add addSample) {
			if p := c.ring.PublicationBy(c.policy); p != nil {
				add(one(p.Failure != ""))
			}
		}),
	},
	{
		"redox_key_kept",
		"1 for a replaced key past retire_after that the engine does not delete by itself (keys says why), else 0.",
		ofKeys(func(c *gauged, k *keyring.Key, add addSample) {
			if c.configured {
				add(one(slices.Contains(c.kept, k)), "key_id", string(k.ID))
			}
		}),
	},
	{
		"redox_rotation_overdue",
		"1 when the rotation should have begun five minutes ago or earlier, or the last step on this node failed for " +
			"another reason than Redox.",
		ofConfigured(func(c *gauged, add addSample) { add(one(c.overdue)) }),
	},
}

// ofConfigured returns a function that calls show only for a client that has a config and
// can be read.
func ofConfigured(show func(*gauged, addSample)) func(*gauged, addSample) {
	return func(c *gauged, add addSample) {
		if c.configured {
			show(c, add)
		}
	}
}

// ofKeys returns a function that calls show for each key of a client that can be read.
func ofKeys(show func(*gauged, *keyring.Key, addSample)) func(*gauged, addSample) {
	return func(c *gauged, add addSample) {
		if c.unreadable {
			return
		}
		for _, k := range c.ring.Keys {
			show(c, k, add)
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
