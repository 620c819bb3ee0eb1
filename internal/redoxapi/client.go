// Package redoxapi speaks HTTP with Redox: it requests access tokens from the token endpoint, and it
// reads and updates the public keys of OAuth API keys through the Platform API.  It uses no code of
// Vault, and knows nothing of key rings. Its caller signs the assertion, limits the number of
// requests, and decides which token requests to repeat.
package redoxapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody is the size of the largest body that is accepted, in bytes, after decompression.
const maxBody = 1 << 20

// Options say how a [Client] connects.
type Options struct {
	CAPEM        string // certificates (PEM) to trust instead of the system's; the system's when empty
	Version      string // of the plugin, for the User-Agent header
	MaxConns     int    // the limit of connections to one host
	MaxIdleConns int    // how many of them may stay open without a request

	// Transport, if it is not nil, makes the requests. CAPEM, MaxConns and MaxIdleConns then have no
	// effect on connections.
	Transport http.RoundTripper

	// Now is the clock that is compared with Redox's. It is not used for timeouts.
	Now func() time.Time
}

// Client makes requests to Redox. It is safe for concurrent use.
type Client struct {
	http      *http.Client
	userAgent string
	now       func() time.Time
	ownCA     bool // trusts only the authorities of ca_pem
}

// New returns a client, and opens no connection. Its error means that no certificate in CAPEM can
// be read.
func New(o Options) (*Client, error) {
	transport := o.Transport
	if transport == nil {
		own, err := newTransport(o)
		if err != nil {
			return nil, err
		}
		transport = own
	}
	return &Client{
		http: &http.Client{
			Transport: transport,
			// Redirects are not followed, so that credentials go to no host but that of the request.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		userAgent: "vault-plugin-secrets-redox/" + strings.TrimPrefix(o.Version, "v"),
		now:       o.Now,
		ownCA:     o.CAPEM != "",
	}, nil
}

func newTransport(o Options) (*http.Transport, error) {
	tlsConfig, err := rootsOnly(o.CAPEM)
	if err != nil {
		return nil, err
	}
	// Only HTTP/1.1: if a connection dies unnoticed, only one request fails. With HTTP/2 all requests
	// that share the connection would fail.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: proxyConnected,
		TLSClientConfig:        tlsConfig,
		Protocols:              protocols,
		MaxConnsPerHost:        o.MaxConns,
		MaxIdleConnsPerHost:    o.MaxIdleConns,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

// rootsOnly returns a TLS configuration that trusts only the certificates in caPEM,
// or the system's certificates if caPEM is empty.
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

// CloseIdleConnections closes the connections that no request uses. Each of the others closes when
// its request ends, unless a new request begins before that.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// httpAnswer is the part of an HTTP answer that this package uses.
type httpAnswer struct {
	status     int
	body       []byte
	skew       Skew
	retryAfter time.Duration // the pause that the server asks for, see readRetryAfter
}

// send makes the request and reads the whole answer. Its error is an [*UpstreamError].
func (c *Client) send(req *http.Request) (*httpAnswer, error) {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	connected := false
	var dialing atomic.Int64 // net/http dials in goroutines
	trace := &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { connected = true },
		ConnectStart: func(string, string) { dialing.Add(1) },
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				dialing.Store(0)
			}
		},
	}
	got, err := c.receive(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	var up *UpstreamError
	if errors.As(err, &up) && up.Kind == TimedOut && !connected && dialing.Load() > 0 {
		up.Dropped = true
		up.What = "no connection to " + c.firstHop(req) + " in time" + c.route(req)
	}
	if err != nil && !connected {
		// After a request has ended, net/http may still go on connecting for it, and counts that as a
		// connection towards MaxConnsPerHost. If a host drops packets, such attempts could use up the
		// limit, and new requests would wait even when the host works again. This call ends such
		// attempts.
		c.http.CloseIdleConnections()
	}
	return got, err
}

func (c *Client) receive(req *http.Request) (*httpAnswer, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.connectionError(req, err)
	}
	defer func() { _ = resp.Body.Close() }() // read-only: nothing can be lost
	if resp.StatusCode < 200 {
		// The body of a 101 is the connection itself. Reading it would not end when the request's context
		// ends.
		what := "the answer is HTTP " + strconv.Itoa(resp.StatusCode) + ", which was not asked for"
		return nil, &UpstreamError{Kind: NotRedox, What: what}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, c.connectionError(req, err)
	}
	if len(raw) > maxBody {
		return nil, &UpstreamError{Kind: Unusable, What: "the answer is larger than 1 MiB"}
	}
	return &httpAnswer{
		status: resp.StatusCode, body: raw, skew: measureSkew(resp.Header, c.now()), retryAfter: readRetryAfter(resp.Header),
	}, nil
}

// readRetryAfter returns the pause in Retry-After (RFC 9110 section 10.2.3) if it is a number of
// seconds; more than 65535 count as 65535. It returns zero for a date, because the local clock may
// be wrong.
func readRetryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range, n is 65535
		return 0
	}
	return time.Duration(n) * time.Second
}
