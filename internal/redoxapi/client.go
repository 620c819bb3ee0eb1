// Package redoxapi speaks HTTP with Redox: the token endpoint, where a signed
// assertion becomes an access token, and the Platform API, which lists the
// public keys of an OAuth API key.
//
// It knows nothing of Vault, and nothing of key rings: who calls it signs the
// assertion, bounds the number of requests, and decides what to try again.
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
	"time"
)

// maxBody caps what is read of an answer, in bytes. Redox's are below 16 KiB.
const maxBody = 1 << 20

// Options say how a [Client] connects.
type Options struct {
	CAPEM        string // certificates (PEM) to trust instead of the system's; the system's when empty
	Version      string // of the plugin, for the User-Agent header
	MaxConns     int    // most connections to one host at a time
	MaxIdleConns int    // most of them that are kept while nobody uses them

	// Transport makes the connections in place of the one that is built from the
	// options above, when it is not nil.
	Transport http.RoundTripper

	// Now is the clock against which Redox's is measured. It times nothing.
	Now func() time.Time
}

// Client makes requests over connections of its own. Many may use it at once.
type Client struct {
	http      *http.Client
	userAgent string
	now       func() time.Time
	ownCA     bool // trusts the authorities of ca_pem alone
}

// New returns a client. It connects to nobody yet. The error says that CAPEM
// holds no certificate.
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
			// A redirect would send the assertion to a host nobody chose.
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
	// HTTP/1.1 alone: on a connection that died unnoticed, HTTP/2 fails every
	// request that shares it, HTTP/1.1 only one.
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

// CloseIdleConnections closes the connections that nobody uses. Those in use
// end with their request.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// httpAnswer is a whole HTTP answer, as far as it matters here.
type httpAnswer struct {
	status     int
	body       []byte
	skew       Skew
	retryAfter time.Duration // what a server in trouble asks for; zero when it does not
}

// send makes one request and reads the whole answer. Its error is an
// [*UpstreamError].
func (c *Client) send(req *http.Request) (*httpAnswer, error) {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	connected := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
	got, err := c.receive(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil && !connected {
		// When a request is given up, net/http goes on with its dial and counts
		// it towards MaxConnsPerHost: after a host that drops packets, no further
		// request would be made, also when it is well again. This ends such dials.
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
		// The body of a 101 is the bare connection, which no context ends.
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

// readRetryAfter reads Retry-After in seconds (RFC 9110 section 10.2.3). The
// other form, a date, depends on a clock that may not be ours: it counts as zero.
func readRetryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range, n is the largest
		return 0
	}
	return time.Duration(n) * time.Second
}
