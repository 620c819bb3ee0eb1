package redox

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// metrics reads the metrics and returns their values by name and labels. The value of
// a histogram is its count.
func (m *mount) metrics() map[string]float64 {
	m.t.Helper()
	got := m.read("metrics")
	if kind := got[logical.HTTPContentType]; got[logical.HTTPStatusCode] != 200.0 ||
		!strings.HasPrefix(kind.(string), "text/plain; version=0.0.4") {
		m.t.Errorf("HTTP %v, %v", got[logical.HTTPStatusCode], kind)
	}
	raw := got[logical.HTTPRawBody].(string)
	m.mu.Lock()
	m.said = append(m.said, raw) // for the scan
	m.mu.Unlock()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(raw))
	if err != nil {
		m.t.Fatalf("%v in\n%s", err, raw)
	}
	values := map[string]float64{}
	for name, family := range families {
		if family.GetHelp() == "" {
			m.t.Errorf("%s has no help", name)
		}
		for _, metric := range family.GetMetric() {
			labels := []string{}
			for _, pair := range metric.GetLabel() {
				labels = append(labels, pair.GetName()+"="+pair.GetValue())
			}
			values[name+"{"+strings.Join(labels, ",")+"}"] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() +
				float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func (m *mount) expect(want map[string]float64) {
	m.t.Helper()
	got := m.metrics()
	for name, value := range want {
		if v, there := got[name]; !there || v != value {
			m.t.Errorf("%s is %v, %v; want %v; there are %q", name, v, there, value, slices.Sorted(maps.Keys(got)))
		}
	}
}

// A read of token is counted under the outcome that fits its result. Each request to
// Redox and each retry is counted too.
func TestMetricsOutcomes(t *testing.T) {
	t.Parallel()
	for fault, want := range map[redoxtest.Fault]struct {
		outcome  string
		requests float64
	}{
		"":                         {"issued", 1},
		redoxtest.FaultBlank:       {"refused", 1},
		redoxtest.FaultTooMany:     {"limited", 1},
		redoxtest.FaultUnavailable: {"unavailable", 2},
		redoxtest.FaultHTML:        {"unavailable", 2},
		redoxtest.FaultForbidden:   {"unavailable", 1},
		redoxtest.FaultReset:       {"unavailable", 2},
		redoxtest.FaultStall:       {"timeout", 1},
	} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			m.ready("clients/acme/", map[string]any{"max_retries": 1, "request_timeout": "1s"})
			m.sandbox.SetFault(fault, -1)
			_, _ = m.request(t.Context(), logical.ReadOperation, "clients/acme/token", nil) // the metrics are checked below
			m.expect(map[string]float64{
				"redox_token_reads_total{client=acme,outcome=" + want.outcome + "}": 1,
				"redox_request_duration_seconds{client=acme}":                       want.requests,
			})
			if n := m.metrics()["redox_retries_total{client=acme}"]; n != want.requests-1 {
				t.Errorf("%v retries, want %v", n, want.requests-1)
			}
		})
	}
}

func TestMetricsOfReuse(t *testing.T) {
	m := reusing(t)
	m.later(0)
	m.later(0)
	m.sandbox.SetFault(redoxtest.FaultUnavailable, -1)
	m.later(250 * time.Second)
	m.expect(map[string]float64{
		"redox_token_reads_total{client=default,outcome=issued}": 1,
		"redox_token_reads_total{client=default,outcome=reused}": 1,
		"redox_token_reads_total{client=default,outcome=held}":   1,
		"redox_request_duration_seconds{client=default}":         2,
	})
}

// If many readers share one request to Redox, only one of them is counted as issued.
func TestMetricsOfSharedRequest(t *testing.T) {
	m := reusing(t)
	m.sandbox.SetFault(redoxtest.FaultSlow, 1)
	done := make(chan error)
	for range 16 {
		go func() {
			_, err := m.request(t.Context(), logical.ReadOperation, "token", nil)
			done <- err
		}()
	}
	for range 16 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	m.expect(map[string]float64{
		"redox_token_reads_total{client=default,outcome=issued}": 1,
		"redox_token_reads_total{client=default,outcome=reused}": 15,
		"redox_request_duration_seconds{client=default}":         1,
	})
}

// All counters of a client are zero at the first scrape. Otherwise Prometheus would
// not see the first refusal as an increase.
func TestMetricsBeginAtZero(t *testing.T) {
	m := newMount(t)
	m.ready("clients/acme/", nil)
	want := map[string]float64{"redox_retries_total{client=acme}": 0,
		"redox_retiring_key_tokens_total{client=acme}": 0}
	for _, outcome := range []string{"issued", "reused", "held", "refused", "limited", "overloaded", "timeout",
		"unavailable", "abandoned", "error"} {
		want["redox_token_reads_total{client=acme,outcome="+outcome+"}"] = 0
	}
	m.expect(want)
	m.expect(want) // a second scrape resets nothing
	m.sandbox.SetFault(redoxtest.FaultBlank, 1)
	m.fails(400, logical.ReadOperation, "clients/acme/token", nil)
	want["redox_token_reads_total{client=acme,outcome=refused}"] = 1
	want["redox_request_duration_seconds{client=acme}"] = 1
	m.expect(want)
}

// These gauges of keys and rotations show what is stored, so another process shows the same when it has
// looked at the clients.
func TestMetricsOfKeys(t *testing.T) {
	m := newMount(t)
	old := m.ready("", map[string]any{"rotation_period": "24h"})
	began := m.now
	m.pass(time.Hour)
	next := m.write("keys/rotate", nil)["key_id"].(string)
	m.rotate() // Redox does not know the key
	tried := m.now
	unix := func(t time.Time) float64 { return float64(t.Unix()) }
	other := newMountOn(t, m.storage, systemView(0))
	other.pass(m.now.Sub(other.now))
	other.rotateAll(t.Context())
	tomorrow := unix(began.Add(24 * time.Hour))
	for _, m := range []*mount{m, other} {
		m.expect(map[string]float64{
			"redox_build_info{version=" + Version + "}":                                             1,
			"redox_key_created_timestamp_seconds{client=default,key_id=" + old + ",state=active}":   unix(began),
			"redox_key_created_timestamp_seconds{client=default,key_id=" + next + ",state=pending}": unix(tried),
			"redox_key_active_since_timestamp_seconds{client=default,key_id=" + old + "}":           unix(began),
			"redox_rotation_due_timestamp_seconds{client=default}":                                  tomorrow,
			"redox_last_proof_timestamp_seconds{client=default,key_id=" + next + "}":                unix(tried),
			"redox_proof_refusals{client=default,key_id=" + next + "}":                              1,
			"redox_requests_in_flight{client=default}":                                              0,
		})
	}
	m.expect(map[string]float64{"redox_request_duration_seconds{client=default}": 1})
}

func TestMetricsOfClocks(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.read("check")
	got := m.metrics()
	if at := got["redox_last_token_timestamp_seconds{client=default}"]; at != float64(m.now.Unix()) {
		t.Errorf("the last token was issued at %v", at)
	}
	m.sandbox.SetClockOffset(-time.Minute)
	m.fails(400, logical.ReadOperation, "token", nil)
	if skew := m.metrics()["redox_clock_skew_seconds{client=default}"]; skew < 58 || skew > 62 {
		t.Errorf("the skew is %v, want 60", skew)
	}
}

// The gauge redox_requests_in_flight shows how many token requests for reads are in flight.
func TestMetricsInFlight(t *testing.T) {
	m := newMount(t)
	m.ready("", map[string]any{"max_retries": 0})
	m.sandbox.SetFault(redoxtest.FaultStall, -1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for range 3 {
		go func() {
			_, err := m.request(ctx, logical.ReadOperation, "token", nil)
			done <- err
		}()
	}
	waitFor(t, "the requests", func() bool { return m.asked() == 3 })
	m.expect(map[string]float64{"redox_requests_in_flight{client=default}": 3})
	cancel()
	for range 3 {
		if err := <-done; err == nil {
			t.Error("a stalled request succeeded")
		}
	}
	m.expect(map[string]float64{"redox_requests_in_flight{client=default}": 0})
}

// Only existing clients have labels.
func TestMetricsLabels(t *testing.T) {
	m := newMount(t)
	m.ready("clients/gone/", nil)
	m.ready("clients/bare/", nil)
	m.read("clients/gone/token")
	m.read("clients/bare/check")
	m.metrics()
	m.must(logical.DeleteOperation, "clients/gone", map[string]any{"force": true})
	m.must(logical.DeleteOperation, "clients/bare/config", nil)
	m.fails(400, logical.ReadOperation, "clients/nobody/token", nil)
	m.fails(400, logical.ReadOperation, "clients/bare/token", nil)
	for name := range m.metrics() {
		if strings.Contains(name, "=gone") || strings.Contains(name, "=nobody") || strings.Contains(name, "=bare") &&
			!strings.Contains(name, "redox_key_") {
			t.Errorf("there is %s", name)
		}
	}
}

// An answer of Redox that comes after its client was deleted brings no metric of the client back. A new
// client of the same name begins at zero.
func TestMetricsOfLateAnswers(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	const acme = "clients/acme/"
	read := func(path string) func() {
		return func() { _, _ = m.request(t.Context(), logical.ReadOperation, acme+path, nil) }
	}
	for name, ask := range map[string]func(){
		"a token": read("token"), "a check": read("check"), "a proof": func() { m.rotateAll(t.Context()) },
	} {
		m.ready(acme, nil)
		m.read(acme + "token")
		m.write(acme+"keys/rotate", nil)
		m.sandbox.SetFault(redoxtest.FaultSlow, 1)
		done := make(chan struct{})
		go func() { defer close(done); ask() }()
		waitFor(t, "the request", func() bool { return m.sandbox.FaultsLeft() == 0 })
		m.must(logical.DeleteOperation, "clients/acme", map[string]any{"force": true})
		<-done
		for label := range m.metrics() {
			if strings.Contains(label, "=acme") {
				t.Errorf("after %s there is %s", name, label)
			}
		}
	}
	m.ready(acme, nil)
	m.expect(map[string]float64{"redox_token_reads_total{client=acme,outcome=issued}": 0})
	if n, there := m.metrics()["redox_request_duration_seconds{client=acme}"]; there {
		t.Errorf("%v requests", n)
	}
}

// If a config is deleted while it is being read, or by another node at least rereadAfter before a
// read, its client has no counts after the read.
func TestMetricsOfLateReads(t *testing.T) {
	storage := &spiedStorage{Storage: &logical.InmemStorage{}}
	m := newMountOn(t, storage, systemView(0))
	m.ready("", nil)
	m.backend.entries.views.forget(defaultClient)
	storage.got = func() {
		storage.got = nil
		m.must(logical.DeleteOperation, "config", nil)
	}
	m.read("token")
	if n := len(m.backend.metrics.of); n != 0 {
		t.Errorf("%d clients have labels", n)
	}
	m.ready("", nil)
	m.read("token")
	if err := storage.Delete(t.Context(), configKey(defaultClient)); err != nil {
		t.Fatal(err)
	}
	m.pass(rereadAfter)
	m.fails(400, logical.ReadOperation, "token", nil, "no client ID")
	if n, views := len(m.backend.metrics.of), len(m.backend.entries.views.places); n != 0 || views != 0 {
		t.Errorf("%d clients have labels, and %d a view", n, views)
	}
}

// A read that fails because of storage or a missing key is counted, with the outcome error.
func TestMetricsOfErrors(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	id := m.ready("", nil)
	errors := func(want float64) {
		t.Helper()
		m.expect(map[string]float64{"redox_token_reads_total{client=default,outcome=error}": want,
			"redox_request_duration_seconds{client=default}": 1})
	}
	m.read("token")
	errors(0)
	m.pass(rereadAfter)
	storage.countdown = 0
	m.fails(500, logical.ReadOperation, "token", nil, "the storage is gone")
	storage.countdown = -1
	errors(1)
	m.must(logical.DeleteOperation, "keys/"+id, map[string]any{"force": true})
	m.fails(400, logical.ReadOperation, "token", nil, "no signing key")
	errors(2)
}

// A client that cannot be read has a gauge that says so, and the other clients'
// metrics are there.
func TestMetricsOfUnreadable(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	m.ready("clients/acme/", nil)
	m.expect(map[string]float64{"redox_client_unreadable{client=default}": 0, "redox_client_unreadable{client=acme}": 0})
	for value, key := range map[string]string{
		`{"version":2,"data":{}}`:   configKey("acme"),
		`{"version":1,"data":null}`: keyringKey("acme"),
		`{"version":`:               keyringKey("acme"),
	} {
		was, err := m.storage.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		m.rotateAll(t.Context())
		m.expect(map[string]float64{"redox_client_unreadable{client=default}": 0,
			"redox_client_unreadable{client=acme}": 1, "redox_publish_window_seconds{client=default}": 900})
		if err := m.storage.Put(t.Context(), was); err != nil {
			t.Fatal(err)
		}
	}
}

// A scrape reads no storage.
func TestMetricsWithoutStorage(t *testing.T) {
	storage := &faultyStorage{Storage: &logical.InmemStorage{}, countdown: -1}
	m := newMountOn(t, storage, systemView(0))
	m.setUp()
	want := m.metrics()
	m.pass(time.Hour)
	storage.countdown = 0
	got, left := m.metrics(), storage.countdown
	storage.countdown = -1
	if diff := cmp.Diff(want, got); diff != "" || left != 0 {
		t.Errorf("storage was read, or (-want +got):\n%s", diff)
	}
}

// Gauges of keys come only from the node that rotates keys, once it has looked at all
// clients.
func TestMetricsOfANode(t *testing.T) {
	m := newMount(t)
	m.ready("", nil)
	has := func(m *mount, of string) bool {
		for name := range m.metrics() {
			if strings.HasPrefix(name, of) {
				return true
			}
		}
		return false
	}
	m.expect(map[string]float64{"redox_clients_unread{}": 0, "redox_rotating_node{}": 1})
	m.backend.unread = func() (int, bool) { return 7, false }
	m.expect(map[string]float64{"redox_clients_unread{}": 7, "redox_rotating_node{}": 0})
	if has(m, "redox_key_") {
		t.Error("there are gauges of keys before all clients were looked at")
	}
	standby := newMountOn(t, m.storage, systemView(consts.ReplicationPerformanceStandby))
	standby.rotateAll(t.Context())
	if has(standby, "redox_key_") || has(standby, "redox_rotating_node") || has(standby, "redox_clients_unread") {
		t.Error("a standby shows gauges of keys")
	}
}
