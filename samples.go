package redox

import (
	"strconv"
	"strings"
)

// samples writes metrics in Prometheus's text format, version 0.0.4
// (prometheus.io/docs/instrumenting/exposition_formats). A scrape of ten thousand clients
// takes an eighth of the time that it took with Prometheus's library.
type samples struct {
	text   []byte
	header string // of the metric that was begun, until it has a sample
}

const samplesType = "text/plain; version=0.0.4; charset=utf-8"

// begin begins a metric. The metric is not in the text unless it gets a sample.
func (s *samples) begin(name, kind, help string) {
	s.header = "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n"
}

// add adds a sample of the metric that was begun last. labels are names and values in
// turn.
func (s *samples) add(name string, value float64, labels ...string) {
	s.text = append(s.text, s.header...)
	s.header = ""
	s.text = append(s.text, name...)
	before := byte('{')
	for i, label := range labels {
		if i%2 == 0 {
			s.text = append(s.text, before)
			s.text = append(s.text, label...)
			s.text = append(s.text, '=', '"')
			before = ','
			continue
		}
		s.text = append(s.text, inLabel.Replace(label)...)
		s.text = append(s.text, '"')
	}
	if len(labels) > 0 {
		s.text = append(s.text, '}')
	}
	s.text = append(s.text, ' ')
	s.text = strconv.AppendFloat(s.text, value, 'g', -1, 64)
	s.text = append(s.text, '\n')
}

// inLabel escapes the value of a label.
var inLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
