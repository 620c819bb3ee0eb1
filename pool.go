package redox

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"
)

// Each request to Redox holds locks of Vault's while it waits, so a slow Redox
// must not collect them: so many may be in flight for one client, and for all
// together. Proofs and checks have places of their own, as they are what one
// needs when the others are taken.
const (
	maxInFlight       = 64
	maxInFlightAll    = 256
	maxProofsInFlight = 2
)

// admission is how long a request waits for its turn when all are taken.
const admission = time.Second

// pool holds each client's connections to Redox. What it holds is derived
// from the client's config and compared on use, so a stale entry cannot be
// used; forget only frees it early.
type pool struct {
	all chan struct{} // places that the clients share

	mu      sync.Mutex // guards clients; nothing waits or connects under it
	clients map[string]*lane
}

func newPool() *pool {
	return &pool{all: make(chan struct{}, maxInFlightAll), clients: map[string]*lane{}}
}

// lane is one client's way to Redox.
type lane struct {
	caPEM  string
	http   *http.Client
	reads  []chan struct{} // the places that a read of token takes
	proofs []chan struct{} // and a proof or check

	mu           sync.Mutex // guards the five below
	signerDER    []byte     // what signer was parsed from
	signer       *rsa.PrivateKey
	unknown      string    // the active key that Redox did not know
	unknownUntil time.Time // when to believe again that it does
	doubtedAt    time.Time // when its list of keys was last doubted
}

// unknownFor is how long a key that Redox did not know is tried second.
const unknownFor = time.Minute

func (l *lane) noteUnknown(keyID string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown, l.unknownUntil = keyID, now.Add(unknownFor)
}

func (l *lane) isUnknown(keyID string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unknown == keyID && now.Before(l.unknownUntil)
}

// private returns the key that der holds, from what was parsed last if that was
// the same: parsing costs an eighth of a signature.
func (l *lane) private(der []byte, parse func() (*rsa.PrivateKey, error)) (*rsa.PrivateKey, error) {
	l.mu.Lock()
	signer, same := l.signer, bytes.Equal(l.signerDER, der)
	l.mu.Unlock()
	if same && signer != nil {
		return signer, nil
	}
	signer, err := parse()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signerDER, l.signer = der, signer
	return signer, nil
}

// doubtAgain is how long after a doubt no other causes a look at the rings.
const doubtAgain = 10 * time.Second

// mayDoubt is true once in a while: many reads fail for one reason.
func (l *lane) mayDoubt(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := now.Sub(l.doubtedAt); since >= 0 && since < doubtAgain {
		return false
	}
	l.doubtedAt = now
	return true
}

// lane returns the client's lane, made anew when ca_pem has changed.
func (p *pool) lane(client, caPEM string) (*lane, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.clients[client]; l != nil && l.caPEM == caPEM {
		return l, nil
	}
	transport, err := newTransport(caPEM)
	if err != nil {
		return nil, err
	}
	p.forgetLocked(client)
	l := &lane{
		caPEM: caPEM,
		http: &http.Client{
			Transport: transport,
			// A redirect would send the assertion to a host nobody chose.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		reads:  []chan struct{}{make(chan struct{}, maxInFlight), p.all},
		proofs: []chan struct{}{make(chan struct{}, maxProofsInFlight)},
	}
	p.clients[client] = l
	return l, nil
}

// inFlight is how many reads of the client wait for Redox.
func (p *pool) inFlight(client string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.clients[client]; l != nil {
		return len(l.reads[0])
	}
	return 0
}

// enter takes one of each kind of places; leave gives them back.
func enter(ctx context.Context, places []chan struct{}) (leave func(), err error) {
	turn := time.NewTimer(admission)
	defer turn.Stop()
	for i, place := range places {
		select {
		case place <- struct{}{}:
			continue
		default:
		}
		select {
		case place <- struct{}{}:
			continue
		case <-turn.C:
			err = &upstreamError{Kind: overloaded, What: "too many token requests at once"}
		case <-ctx.Done():
			err = &upstreamError{Kind: timedOut, What: "the request was given up while it waited for its turn"}
		}
		giveBack(places[:i])
		return nil, err
	}
	return func() { giveBack(places) }, nil
}

func giveBack(places []chan struct{}) {
	for _, place := range places {
		<-place
	}
}

func (p *pool) forget(client string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(client)
}

func (p *pool) forgetLocked(client string) {
	if l := p.clients[client]; l != nil {
		l.http.CloseIdleConnections()
		delete(p.clients, client)
	}
}

// keep forgets all but these clients.
func (p *pool) keep(clients map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		if !clients[client] {
			p.forgetLocked(client)
		}
	}
}

// close ends all idle connections; those in use end with their request.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		p.forgetLocked(client)
	}
}

// rootsOnly returns a TLS configuration that trusts the certificates in caPEM
// alone, or the system's when it is empty.
func rootsOnly(caPEM string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caPEM == "" {
		return config, nil
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM([]byte(caPEM)) {
		return nil, errors.New("no CERTIFICATE block that can be read")
	}
	return config, nil
}
