package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// dashboard is the part of a Grafana dashboard that the tests read.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct {
			Name, Label, Type string
			Datasource        source
			Query             any // text, or an object that has it
			AllValue          string
		}
	}
	Panels []panel
}

type source struct{ UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct {
		Expr       string
		Datasource source
	}
}

func readDashboard() (d dashboard, err error) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples/grafana/redox.json"))
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(raw, &d)
}

// queries returns the query of each variable whose field Query is an object, by the variable's name, and the
// queries of each panel, by its title. In them each variable has the value that "all" stands for.
func (d *dashboard) queries() (ofVariables, ofPanels map[string][]string) {
	ofVariables, ofPanels = map[string][]string{}, map[string][]string{}
	with := []string{"$__rate_interval", "1m"}
	for _, v := range d.Templating.List {
		with = append(with, "$"+v.Name, v.AllValue)
	}
	fill := strings.NewReplacer(with...)
	for _, v := range d.Templating.List {
		if query, is := v.Query.(map[string]any); is {
			ofVariables[v.Name] = []string{fill.Replace(query["query"].(string))}
		}
	}
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			ofPanels[p.Title] = append(ofPanels[p.Title], fill.Replace(t.Expr))
		}
	}
	return ofVariables, ofPanels
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// dashboard sends every query of the dashboard, and fails unless each has a result other than NaN.
func (p *prometheus) dashboard(ts *testscript.TestScript) {
	d, err := readDashboard()
	ts.Check(err)
	variables, panels := d.queries()
	for name, queries := range variables {
		query := labelValues.FindStringSubmatch(queries[0])
		if query == nil {
			ts.Fatalf("variable %s: %s is not understood", name, queries[0])
		}
		var values []string
		ts.Check(p.ask("label/"+query[2]+"/values", url.Values{"match[]": {query[1]}}, &values))
		if len(values) == 0 {
			ts.Fatalf("variable %s has no values", name)
		}
	}
	for title, queries := range panels {
		for _, query := range queries {
			ts.Check(until(20*time.Second, func() error {
				samples, err := p.query(query)
				if err == nil && !slices.ContainsFunc(samples, func(s string) bool { return !strings.HasSuffix(s, " NaN") }) {
					err = fmt.Errorf("panel %q shows nothing: %s: %q", title, query, samples)
				}
				return err
			}))
		}
	}
}

// Each panel has a title of its own. If it is not a row, it also has a short description,
// a unit, and queries, which use the chosen data source, job and instance. Each variable
// in a query is known.
func TestDashboard(t *testing.T) {
	d, err := readDashboard()
	if err != nil {
		t.Fatal(err)
	}
	const chosen = "${datasource}"
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Label == "" || v.Type != "datasource" && (v.Type != "query" || v.Datasource.UID != chosen || v.AllValue == "") {
			t.Errorf("variable %s: %+v", v.Name, v)
		}
	}
	for _, name := range []string{"datasource", "job", "instance", "client"} {
		if !variables[name] {
			t.Errorf("there is no variable %s", name)
		}
	}
	ids, titles := map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || ids[p.ID] || titles[p.Title] {
			t.Errorf("panel %d %q has no title, or that of another, or its ID", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		if p.Type == "row" {
			continue
		}
		if len(p.Description) < 30 || len(p.Description) > 260 || p.FieldConfig.Defaults.Unit == "" ||
			p.Datasource.UID != chosen || len(p.Targets) == 0 {
			t.Errorf("panel %q lacks a description of a line or two, a unit, the chosen data source or a query", p.Title)
		}
		for _, query := range p.Targets {
			if query.Datasource.UID != chosen || !strings.Contains(query.Expr, `job=~"$job",instance=~"$instance"`) {
				t.Errorf("panel %q asks another data source, or about all mounts: %s", p.Title, query.Expr)
			}
		}
	}
	if len(titles) < 16 {
		t.Errorf("%d panels", len(titles))
	}
	ofVariables, ofPanels := d.queries()
	for _, queries := range slices.Concat(slices.Collect(maps.Values(ofVariables)),
		slices.Collect(maps.Values(ofPanels))) {
		if strings.Contains(strings.Join(queries, " "), "$") {
			t.Errorf("an unknown variable in %q", queries)
		}
	}
}

// documentedMetrics returns the names of the metrics in the table of examples/prometheus/README.md.
func documentedMetrics() ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(repository, "examples/prometheus/README.md"))
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(redox_[a-z_]+)` ").FindAllStringSubmatch(string(raw), -1) {
		names = append(names, row[1])
	}
	slices.Sort(names)
	return names, err
}

// Every documented metric is on the dashboard or in alerts.yml.
func TestMetricsAreSeen(t *testing.T) {
	names, err := documentedMetrics()
	if err != nil || len(names) < 13 {
		t.Fatal(names, err)
	}
	raw, err := os.ReadFile(filepath.Join(repository, "examples/prometheus/alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := readDashboard()
	if err != nil {
		t.Fatal(err)
	}
	seen := string(raw)
	_, panels := d.queries()
	for _, queries := range panels {
		seen += strings.Join(queries, "\n")
	}
	for _, name := range names {
		if !regexp.MustCompile(`\b` + name + `(_bucket|_count)?\b`).MatchString(seen) {
			t.Errorf("%s is neither on the dashboard nor in an alert", name)
		}
	}
}

// documentedCmd fails unless a file has exactly the documented metrics: documented
// <file>.
func documentedCmd(ts *testscript.TestScript, _ bool, args []string) {
	want, err := documentedMetrics()
	ts.Check(err)
	var got []string
	for _, line := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(ts.ReadFile(args[0]), -1) {
		got = append(got, line[1])
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		ts.Fatalf("documented are %q, there are %q", want, got)
	}
}
