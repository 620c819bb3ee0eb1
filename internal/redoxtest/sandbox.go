// Package redoxtest is a sandbox that stands in for Redox. Its token endpoint and the Platform
// API's operations on API keys behave as Redox's documentation says. Two small API endpoints
// accept the tokens. The sandbox verifies what a client sends, so a test replaces the server and
// never the client. Where the documentation is silent about assertions, the sandbox is strict.
//
// Command redox-sandbox runs it as a program. The engine makes requests to it only when its
// host is allowed, for example with: vault write redox/hosts allowed=127.0.0.1:8080.
package redoxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Options configures a [Sandbox]. The zero value suits tests.
type Options struct {
	Listen   string           // address to listen on; 127.0.0.1:0 when empty
	URL      string           // base URL that clients use, without a trailing slash; that of the address when empty
	TokenTTL time.Duration    // life of a token, which must be whole seconds; 5m when zero
	Now      func() time.Time // the sandbox's clock; time.Now when nil
	Log      io.Writer        // gets lines about requests, never a credential; nil for none

	// Transport is what fetches JWK Sets from JWKS URLs; nil for http.DefaultTransport.
	Transport http.RoundTripper

	// Redox consists of many machines. Lag returns how long after a change of pasted keys the
	// machine that answers the next token request learns of it. If Lag is nil, each machine learns
	// at once.
	Lag func() time.Duration
}

// Sandbox stands in for Redox. Its methods are safe for concurrent use.
type Sandbox struct {
	options  Options
	url      string
	address  string
	server   *http.Server
	stopping chan struct{} // closed by Close; ends stalled requests

	mu           sync.Mutex         // guards the fields below; not held while an answer is sent
	apiKeys      map[string]*apiKey // by client ID
	stale        bool               // whether every second request reaches a machine that has not seen the last change
	requests     int
	seen         map[string]time.Time // by iss and jti: until when no other assertion may have them
	swept        time.Time            // when seen was last cleaned
	live         map[string]session   // by token
	assertions   []string
	tokens       []string
	faults       map[endpoint]*scheduledFault
	quirk        Quirk
	offset       time.Duration
	tokenTTL     time.Duration
	conns        int               // opened so far
	open         int               // open now
	idle         map[net.Conn]bool // open, between two requests
	redirected   int
	unauthorized int
	userAgent    string // of the last token request
}

// New returns a sandbox that does not listen: its caller passes requests to Handler.
func New(o Options) *Sandbox {
	if o.TokenTTL == 0 {
		o.TokenTTL = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Lag == nil {
		o.Lag = func() time.Duration { return 0 }
	}
	return &Sandbox{
		options:  o,
		url:      o.URL,
		stopping: make(chan struct{}),
		apiKeys:  map[string]*apiKey{},
		seen:     map[string]time.Time{},
		live:     map[string]session{},
		faults:   map[endpoint]*scheduledFault{tokenEndpoint: {}, platformAPI: {}},
		idle:     map[net.Conn]bool{},
		tokenTTL: o.TokenTTL,
	}
}

// Start returns a sandbox that listens and serves. It returns an error if it cannot
// listen.
func Start(o Options) (*Sandbox, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("starting the sandbox: %w", err)
	}
	if o.URL == "" {
		o.URL = "http://" + listener.Addr().String()
	}
	s := New(o)
	s.address = listener.Addr().String()
	s.server = &http.Server{
		Handler:           s.Handler(),
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

// Close stops the server, if there is one, and ends every pending request.
func (s *Sandbox) Close() {
	close(s.stopping)
	if s.server == nil {
		return
	}
	if err := s.server.Close(); err != nil {
		s.log("closing: %v", err)
	}
}

// URL returns the base URL of the sandbox, without a trailing slash.
func (s *Sandbox) URL() string { return s.url }

// Address returns the host and port that the sandbox listens on. They differ from those of URL
// if Options.URL is the address of a proxy in front of the sandbox.
func (s *Sandbox) Address() string { return s.address }

// TokenURL returns the URL of the token endpoint, which is also the audience that
// assertions must have.
func (s *Sandbox) TokenURL() string { return s.url + "/v2/auth/token" }

// session is what the sandbox knows of an access token.
type session struct {
	clientID string
	until    time.Time
}

// Live reports whether the API endpoints accept token now.
func (s *Sandbox) Live(token string) bool {
	_, live := s.session(token)
	return live
}

// Left returns how long the API endpoints will still accept token, unless it is revoked. It
// returns zero if they do not accept token now.
func (s *Sandbox) Left(token string) time.Duration {
	found, _ := s.session(token)
	return max(0, found.until.Sub(s.now()))
}

// RevokeTokens revokes all tokens that were issued so far.
func (s *Sandbox) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.live)
}

// Unauthorized returns how many requests the API endpoints and the Platform API answered with
// 401, because they had no valid token.
func (s *Sandbox) Unauthorized() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unauthorized
}

func (s *Sandbox) session(token string) (session, bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	found, issued := s.live[token]
	return found, issued && now.Before(found.until)
}

// Assertions returns the client assertions that were received, for leak scans. It lacks those
// whose form was refused.
func (s *Sandbox) Assertions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.assertions)
}

// Tokens returns every access token that was issued, for leak scans.
func (s *Sandbox) Tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens)
}

// Connections returns how many connections were opened so far.
func (s *Sandbox) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Open returns how many connections are open now.
func (s *Sandbox) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Redirected returns how many requests followed [FaultRedirect].
func (s *Sandbox) Redirected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.redirected
}

// SetClockOffset sets the sandbox's clock ahead by d, also in its Date header.
func (s *Sandbox) SetClockOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
}

// SetTokenTTL sets the life of the tokens that are issued from now on. d must be whole
// seconds.
func (s *Sandbox) SetTokenTTL(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenTTL = d
}

func (s *Sandbox) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nowLocked()
}

func (s *Sandbox) nowLocked() time.Time { return s.options.Now().Add(s.offset) }

func (s *Sandbox) countConnections(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.conns++
		s.open++
	case http.StateClosed:
		s.open--
	}
	if delete(s.idle, c); state == http.StateIdle {
		s.idle[c] = true
	}
}

// CloseIdle closes the idle connections, as a server does after an idle timeout. It returns how
// many there were.
func (s *Sandbox) CloseIdle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.idle {
		_ = c.Close() // the client may have closed it already
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
		_, _ = fmt.Fprintf(s.options.Log, format+"\n", args...) // there is nowhere to report this
	}
}
