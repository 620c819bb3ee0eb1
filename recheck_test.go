package redox

import (
	"testing"
	"time"
)

// For one client, ask returns true at most once in ten seconds. It also returns true if the clock was set back.
func TestRecheckAsks(t *testing.T) {
	r := newRechecks()
	for _, test := range []struct {
		after time.Duration
		news  bool
	}{{0, true}, {0, false}, {recheckAfter - 1, false}, {recheckAfter, true}, {recheckAfter - 1, true}} {
		if got := r.ask("acme", noon.Add(test.after)); got != test.news {
			t.Errorf("asked after %v it says %v", test.after, got)
		}
	}
}

// take returns every reason for a recheck of a client, and returns them only once. keep and forget delete the
// records of clients that are gone.
func TestRecheckEnds(t *testing.T) {
	r := newRechecks()
	note := func() {
		for _, client := range []string{"acme", "zeta"} {
			if !r.ask(client, noon) {
				t.Errorf("what was asked of %s is known still", client)
			}
			r.add(client, recheck{mended: true})
		}
	}
	note()
	if why := r.take("acme"); why != (recheck{unknownKey: true, mended: true}) {
		t.Errorf("acme has %v", why)
	}
	r.keep(map[string]bool{"acme": true})
	for _, client := range []string{"acme", "zeta"} {
		if why := r.take(client); why != (recheck{}) {
			t.Errorf("%s has %v", client, why)
		}
	}
	if r.ask("acme", noon) {
		t.Error("what was asked of a client that is kept is forgotten")
	}
	r.forget("acme")
	note()
	r.forget("acme")
	if why := r.take("acme"); why != (recheck{}) {
		t.Errorf("a client that is gone has %v", why)
	}
}
