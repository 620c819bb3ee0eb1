package redox

import (
	"testing"
	"time"
)

func TestSamples(t *testing.T) {
	s := &samples{}
	s.begin("none", "gauge", "Without a sample.")
	s.begin("some", "gauge", "Of all kinds.")
	s.add("some", 1)
	s.add("some", -0.5, "one", "a\\b", "two", "a\"b\nc")
	s.add("some", 1764177000, "one", "")
	const want = "# HELP some Of all kinds.\n# TYPE some gauge\nsome 1\n" +
		`some{one="a\\b",two="a\"b\nc"} -0.5` + "\nsome{one=\"\"} 1.764177e+09\n"
	if got := string(s.text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A request that takes exactly as long as the bound of a bucket counts in that bucket.
func TestDurations(t *testing.T) {
	s, d := &samples{}, durations{}
	d.show(s, "took", "acme")
	if len(s.text) > 0 {
		t.Errorf("without a request: %s", s.text)
	}
	for _, took := range []time.Duration{0, 50 * time.Millisecond, 51 * time.Millisecond, 30 * time.Second, time.Minute} {
		d.note(took)
	}
	d.show(s, "took", "acme")
	want := ""
	for _, row := range [][2]string{
		{"0.05", "2"}, {"0.1", "3"}, {"0.2", "3"}, {"0.3", "3"}, {"0.5", "3"}, {"1", "3"}, {"2", "3"}, {"3", "3"},
		{"5", "3"}, {"10", "3"}, {"30", "4"}, {"+Inf", "5"},
	} {
		want += `took_bucket{client="acme",le="` + row[0] + `"} ` + row[1] + "\n"
	}
	want += "took_sum{client=\"acme\"} 90.101\ntook_count{client=\"acme\"} 5\n"
	if got := string(s.text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
