package redox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"
)

// maxInFlight bounds one client's requests to Redox: each holds locks of
// Vault's while it waits, so a slow Redox must not collect them.
const maxInFlight = 64

// admission is how long a request waits for its turn when all are taken.
const admission = time.Second

// pool holds each client's connections to Redox. What it holds is derived
// from the client's config and compared on use, so a stale entry cannot be
// used; forget only frees it early.
type pool struct {
	mu      sync.Mutex // guards clients; nothing waits or connects under it
	clients map[string]*lane
}

// lane is one client's way to Redox.
type lane struct {
	caPEM string
	http  *http.Client
	slots chan struct{}
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
		slots: make(chan struct{}, maxInFlight),
	}
	if p.clients == nil {
		p.clients = map[string]*lane{}
	}
	p.clients[client] = l
	return l, nil
}

// enter takes one of the lane's places; leave gives it back.
func (l *lane) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-l.slots }
	select {
	case l.slots <- struct{}{}:
		return leave, nil
	default:
	}
	turn := time.NewTimer(admission)
	defer turn.Stop()
	select {
	case l.slots <- struct{}{}:
		return leave, nil
	case <-turn.C:
		return nil, &upstreamError{Kind: overloaded, What: "too many token requests at once"}
	case <-ctx.Done():
		return nil, &upstreamError{Kind: timedOut, What: "the request was given up while it waited for its turn"}
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
