package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"
)

// secret is a Secret that an example keeps filled, and the samples of its token.
type secret struct {
	example, name string
	all           sync.WaitGroup

	mu      sync.Mutex // guards samples
	samples []holding
}

// holding is one sample: the token that a Secret had at a moment.
type holding struct {
	at    time.Time
	token string        // empty when there was none, or it could not be read
	left  time.Duration // 0 when Redox refuses the token, or token is empty
}

// sampling is the time from one sample to the next.
const sampling = 200 * time.Millisecond

// data reads the Secret.
func (s *secret) data(k *tier) (map[string][]byte, error) {
	var object struct{ Data map[string][]byte }
	err := k.kube.get("/api/v1/namespaces/ehr/secrets/"+s.name, &object)
	return object.Data, err
}

// read reads the token in the Secret.
func (s *secret) read(k *tier) (string, error) {
	data, err := s.data(k)
	if err == nil && len(data["access_token"]) == 0 {
		err = fmt.Errorf("the Secret %s has no access_token", s.name)
	}
	return string(data["access_token"]), err
}

// watch starts a goroutine that takes samples until the context ends.
func (s *secret) watch(ctx context.Context, k *tier) {
	s.all.Go(func() {
		for tick := time.NewTicker(sampling); ctx.Err() == nil; <-tick.C {
			token, err := s.read(k)
			if err != nil {
				k.t.Logf("%s: %v", s.example, err) // counts as refused
			}
			one := holding{time.Now(), token, 0}
			if k.w.sandbox.Live(token) {
				one.left = k.w.sandbox.Left(token)
			}
			s.mu.Lock()
			s.samples = append(s.samples, one)
			s.mu.Unlock()
		}
	})
}

// between returns the samples that were taken between from and to.
func (s *secret) between(from, to time.Time) (some []holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.samples {
		if one.at.After(from) && one.at.Before(to) {
			some = append(some, one)
		}
	}
	return some
}

// changes returns when, between from and to, a sample had another token than the one before. It skips samples
// without a token.
func (s *secret) changes(from, to time.Time) (at []time.Time) {
	last := ""
	for _, one := range s.between(from, to) {
		if one.token == "" {
			continue // no Secret, or it could not be read
		}
		if last != "" && one.token != last {
			at = append(at, one.at)
		}
		last = one.token
	}
	return at
}

// sum returns how many samples were taken between from and to, how many of them had no token that Redox
// accepts, and the least life that a token had left: 0 if a sample had none.
func (s *secret) sum(from, to time.Time) (taken, refused int, least time.Duration) {
	least = time.Hour
	for _, one := range s.between(from, to) {
		taken++
		least = min(least, one.left)
		if one.left == 0 {
			refused++
		}
	}
	return taken, refused, least
}

// ended returns for how long, since from, the Secret had no token that Redox accepts, and how long after over
// a sample showed that for the last time.
func (s *secret) ended(from, over time.Time) (in, after time.Duration) {
	last := from
	for _, one := range s.between(from, time.Now()) {
		if one.left == 0 {
			in += one.at.Sub(last)
			after = max(0, one.at.Sub(over))
		}
		last = one.at
	}
	return in, after
}

func serverTLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // of a listener
	return port
}
