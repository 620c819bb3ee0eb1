// Package redoxtest is a sandbox: a token endpoint and two API endpoints that
// behave as Redox's documentation says. It verifies what a client sends, so
// that a test against it replaces the server and never the client. Where the
// documentation is silent, the sandbox is strict.
//
// Command redox-sandbox is the same as a program.
package redoxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Options says how a [Sandbox] behaves; the zero value is good for tests.
type Options struct {
	Listen   string           // address to listen on; 127.0.0.1:0 when empty
	URL      string           // base URL that clients use, without a trailing slash; that of the address when empty
	TokenTTL time.Duration    // life of a token, in whole seconds; 5m when zero
	Now      func() time.Time // the sandbox's clock; time.Now when nil
	Log      io.Writer        // gets a line per request, never a credential; nil for none
}

// Sandbox is a running server. Its methods are safe for concurrent use.
type Sandbox struct {
	options  Options
	url      string
	server   *http.Server
	stopping chan struct{} // closed by Close: ends what stalls

	mu         sync.Mutex // guards all below; nothing is sent under it
	keys       map[string]map[string]jose.JSONWebKey
	before     map[string]map[string]jose.JSONWebKey // what the last Register replaced
	urls       map[string]*jwksURL
	stale      bool // every second request meets a machine that knows only before
	requests   int
	seen       map[string]time.Time // iss and jti, until when they could be replayed
	live       map[string]time.Time // token, until when it is accepted
	assertions []string
	tokens     []string
	fault      Fault
	faultTimes int
	offset     time.Duration
	conns      int               // opened so far
	idle       map[net.Conn]bool // open, between two requests
	redirected int
}

// Start listens and serves at once. The error is the listener's.
func Start(o Options) (*Sandbox, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("starting the sandbox: %w", err)
	}
	if o.URL == "" {
		o.URL = "http://" + listener.Addr().String()
	}
	s := &Sandbox{
		options:  o,
		url:      o.URL,
		stopping: make(chan struct{}),
		keys:     map[string]map[string]jose.JSONWebKey{},
		before:   map[string]map[string]jose.JSONWebKey{},
		urls:     map[string]*jwksURL{},
		seen:     map[string]time.Time{},
		live:     map[string]time.Time{},
		idle:     map[net.Conn]bool{},
	}
	s.server = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		ConnState:         s.countConnections,
	}
	go func() {
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log("sandbox stopped: %v", err)
		}
	}()
	return s, nil
}

// Close stops the server and ends every request under way.
func (s *Sandbox) Close() {
	close(s.stopping)
	if err := s.server.Close(); err != nil {
		s.log("closing: %v", err)
	}
}

// URL is the sandbox's base, without a trailing slash.
func (s *Sandbox) URL() string { return s.url }

// TokenURL is the token endpoint, and the audience that assertions must have.
func (s *Sandbox) TokenURL() string { return s.url + "/v2/auth/token" }

// Register replaces the public keys of the API key clientID, as pasting into
// Redox's dashboard does. It takes a JWK Set or a single JWK, and refuses
// private keys, other kinds than RSA, and keys without a kid.
func (s *Sandbox) Register(clientID string, jwks []byte) error {
	keys, err := parseKeys(jwks)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before[clientID], s.keys[clientID] = s.keys[clientID], keys
	return nil
}

// Live tells whether the API endpoints accept token now.
func (s *Sandbox) Live(token string) bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	until, issued := s.live[token]
	return issued && now.Before(until)
}

// Assertions returns every client assertion received, for leak scans.
func (s *Sandbox) Assertions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.assertions)
}

// Tokens returns every access token issued, for leak scans.
func (s *Sandbox) Tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens)
}

// Clients returns the client IDs that have public keys.
func (s *Sandbox) Clients() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.keys))
}

// Connections returns how many connections were opened so far.
func (s *Sandbox) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Redirected returns how many requests followed [FaultRedirect].
func (s *Sandbox) Redirected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.redirected
}

// SetFault makes the next token requests meet f: as many as times says, or all
// when it is negative. The empty fault ends it.
func (s *Sandbox) SetFault(f Fault, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.faultTimes = f, times
}

// FaultsLeft returns how many more token requests meet the fault.
func (s *Sandbox) FaultsLeft() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faultTimes
}

// SetStale makes every second token request meet a machine that has not seen
// the last change of a client's keys, as Redox is many machines.
func (s *Sandbox) SetStale(stale bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale, s.requests = stale, 0
}

// lookup returns the public key that a client has registered under kid.
func (s *Sandbox) lookup(clientID, kid string) (key jose.JSONWebKey, known bool) {
	keys, hasURL := s.fetched(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if hasURL {
		key, known = keys[kid]
		return key, known
	}
	s.requests++
	keys = s.keys[clientID]
	if s.stale && s.requests%2 == 1 {
		keys = s.before[clientID]
	}
	key, known = keys[kid]
	return key, known
}

// SetClockOffset sets the sandbox's clock ahead by d, also in its Date header.
func (s *Sandbox) SetClockOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
}

func (s *Sandbox) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.options.Now().Add(s.offset)
}

func (s *Sandbox) countConnections(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.conns++
	}
	if delete(s.idle, c); state == http.StateIdle {
		s.idle[c] = true
	}
}

// CloseIdle closes the connections that are between two requests, as a server
// does when it has waited long enough, and returns how many those were.
func (s *Sandbox) CloseIdle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.idle {
		_ = c.Close() // the other end may have been faster
	}
	return len(s.idle)
}

func (s *Sandbox) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logLocked(format, args...)
}

func (s *Sandbox) logLocked(format string, args ...any) {
	if s.options.Log != nil {
		_, _ = fmt.Fprintf(s.options.Log, format+"\n", args...) // a log that fails has nobody to tell
	}
}
