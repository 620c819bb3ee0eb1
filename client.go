package redox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxBody caps what is read of an answer, in bytes. Redox's are below 16 KiB.
const maxBody = 1 << 20

// maxToken caps an access token, in bytes: more fits into no HTTP header.
const maxToken = 16 << 10

// defaultLifetime is assumed of a token whose answer has no expires_in: Redox
// documents that its tokens live five minutes.
const defaultLifetime = 5 * time.Minute

// accessToken is a successful answer of the token endpoint (RFC 6749 section 5.1).
type accessToken struct {
	Value    string
	Scope    string
	Lifetime time.Duration
	Assumed  bool // the answer had no usable expires_in
	Skew     skew

	// RequestedAt is noted by who calls exchange. The token's life began
	// somewhere between then and the answer: counted from the request, no reader
	// is promised more than there is.
	RequestedAt time.Time
}

// left returns how much of its life the token has at least; negative when it
// has ended. A monotonic clock stands still while the machine is suspended, and
// the other may be set back: the one that says less is believed.
func (t *accessToken) left(now time.Time) time.Duration {
	ends := t.RequestedAt.Add(t.Lifetime)
	return min(ends.Sub(now), ends.Round(0).Sub(now.Round(0)))
}

// margin is the end of a token's life, in which nobody should rely on it: a
// minute, or a fifth of a shorter life.
func (t *accessToken) margin() time.Duration { return min(time.Minute, t.Lifetime/5) }

// skew is how far the local clock is ahead of the server's, as its Date header
// tells; not known without one. The header has whole seconds, so a skew below
// two seconds means nothing.
type skew struct {
	Known bool
	Ahead time.Duration
}

// String says it in a sentence. Two seconds mean nothing: the header has whole
// ones, and the answer was under way.
func (s skew) String() string {
	switch {
	case !s.Known:
		return "the clock skew could not be measured"
	case s.Ahead.Abs() <= 2*time.Second:
		return "the clocks agree"
	case s.Ahead < 0:
		return "the clock here is behind Redox's by " + s.Ahead.Abs().String()
	}
	return "the clock here is ahead of Redox's by " + s.Ahead.String() + " (Redox allows 10s)"
}

// exchange trades one signed assertion for an access token at tokenURL (RFC
// 7523 section 2.2; Redox: "Authenticate an OAuth API key"). It sends exactly
// one request: an assertion is never sent twice, so a retry is the caller's,
// with a new one. The error is a *refusal when Redox said no, else an
// *upstreamError.
func exchange(ctx context.Context, client *http.Client, tokenURL, assertion, scope string) (*accessToken, error) {
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
	if scope != "" {
		form.Set("scope", scope)
	}
	// A reader that http cannot rewind: after a dead connection the transport
	// must not send the assertion again by itself.
	encoded := form.Encode()
	body := io.NopCloser(strings.NewReader(encoded))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, tokenURL, body)
	if err != nil {
		return nil, &upstreamError{Kind: unreachable, What: "the token URL cannot be requested"}
	}
	req.ContentLength = int64(len(encoded))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	got, err := send(client, req)
	if err != nil {
		return nil, err
	}
	raw, echoed := redact(got.body, assertion)
	if echoed && got.status < 300 {
		return nil, &upstreamError{Kind: broken, Status: got.status, What: "the answer repeats the client assertion"}
	}
	t, err := readAnswer(got.status, raw, got.clock)
	var up *upstreamError
	if errors.As(err, &up) {
		up.RetryAfter = got.retryAfter
	}
	return t, err
}

// answer is a whole HTTP answer, as far as it matters here.
type answer struct {
	status int
	body   []byte
	clock  skew

	retryAfter time.Duration // what a server in trouble asks for; zero when it does not
}

// send makes one request and reads the whole answer. Its error is an
// *upstreamError.
func send(client *http.Client, req *http.Request) (*answer, error) {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "vault-plugin-secrets-redox/"+strings.TrimPrefix(Version, "v"))
	connected := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
	got, err := receive(client, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil && !connected {
		// Given up, a request leaves its dial to net/http, which goes on with it
		// and counts it towards MaxConnsPerHost: a host that drops packets would
		// be asked no more, also when it is well again. This ends such dials.
		client.CloseIdleConnections()
	}
	return got, err
}

func receive(client *http.Client, req *http.Request) (*answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, connectionError(req.URL.Host, err)
	}
	defer func() { _ = resp.Body.Close() }() // read-only: nothing can be lost
	if resp.StatusCode < 200 {
		// The body of a 101 is the bare connection, which no context ends.
		return nil, &upstreamError{Kind: notRedox, What: "the answer is HTTP " + strconv.Itoa(resp.StatusCode) + ", which was not asked for"}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, connectionError(req.URL.Host, err)
	}
	if len(raw) > maxBody {
		return nil, &upstreamError{Kind: broken, What: "the answer is larger than 1 MiB"}
	}
	return &answer{status: resp.StatusCode, body: raw, clock: measureSkew(resp.Header), retryAfter: readRetryAfter(resp.Header)}, nil
}

// readRetryAfter reads Retry-After in seconds (RFC 9110 section 10.2.3). The
// other form, a date, goes by a clock that may not be ours.
func readRetryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range, n is the largest
		return 0
	}
	return time.Duration(n) * time.Second
}

// redact removes what a server repeats of the assertion it was sent.
func redact(raw []byte, assertion string) (redacted []byte, echoed bool) {
	_, secret, _ := strings.Cut(assertion, ".") // the header is none, and real parts are longer than words
	for part := range strings.SplitSeq(secret, ".") {
		if len(part) >= 32 && bytes.Contains(raw, []byte(part)) {
			raw, echoed = bytes.ReplaceAll(raw, []byte(part), []byte("[removed]")), true
		}
	}
	return raw, echoed
}

// readAnswer tells a token from a refusal, and both from anything else.
func readAnswer(status int, raw []byte, clock skew) (*accessToken, error) {
	switch {
	case status == http.StatusTooManyRequests:
		return nil, &upstreamError{Kind: limited, Status: status}
	case status >= 500:
		return nil, &upstreamError{Kind: unavailable, Status: status}
	case status >= 400:
		return nil, readRefusal(status, raw, clock)
	case status >= 300:
		return nil, &upstreamError{Kind: notRedox, Status: status, What: "a redirect, which is never followed with credentials"}
	}
	return readToken(status, raw, clock)
}

// readToken reads a 2xx answer. One without a token is no success.
func readToken(status int, raw []byte, clock skew) (*accessToken, error) {
	var answer struct {
		AccessToken any             `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
		Scope       string          `json:"scope"`
		Error       string          `json:"error"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, &upstreamError{Kind: broken, Status: status, What: "the answer is not the JSON of a token"}
	}
	if answer.Error != "" {
		return nil, readRefusal(status, raw, clock)
	}
	value, _ := answer.AccessToken.(string)
	if value == "" || len(value) > maxToken || strings.ContainsFunc(value, unprintable) {
		return nil, &upstreamError{Kind: broken, Status: status, What: "the answer has no usable access_token"}
	}
	if answer.TokenType != "" && !strings.EqualFold(answer.TokenType, "Bearer") {
		return nil, &upstreamError{Kind: broken, Status: status, What: "the token is not of type Bearer"}
	}
	t := &accessToken{Value: value, Skew: clock}
	if isScope(answer.Scope) {
		t.Scope = answer.Scope
	}
	t.Lifetime, t.Assumed = lifetime(answer.ExpiresIn)
	return t, nil
}

// isScope tells whether text can be a list of scopes (RFC 6749 section 3.3) of
// a sensible length; nothing else is shown to a reader as one.
func isScope(text string) bool {
	return len(text) <= 1024 && !strings.ContainsFunc(strings.ReplaceAll(text, " ", ""), unprintable)
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// lifetime reads expires_in, which some servers send as a string. What is no
// number of seconds counts as missing; less than one is a token that has ended.
func lifetime(expiresIn json.RawMessage) (d time.Duration, assumed bool) {
	const most = 24 * 60 * 60
	seconds, err := strconv.ParseFloat(strings.Trim(string(expiresIn), `"`), 64)
	if err != nil || math.IsNaN(seconds) || math.IsInf(seconds, 0) || seconds > most {
		return defaultLifetime, true
	}
	return time.Duration(max(seconds, 0)) * time.Second, false
}

// readRefusal reads a 4xx answer: Redox's {error, error_description,
// error_uri} (RFC 6749 section 5.2). What is not that JSON comes from
// something between Redox and here, and is not a refusal.
func readRefusal(status int, raw []byte, clock skew) error {
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		URI         string `json:"error_uri"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Error == "" {
		return &upstreamError{Kind: notRedox, Status: status, What: "not the JSON of Redox (a firewall or proxy may have answered)"}
	}
	return &refusal{
		Status:      status,
		Code:        quotable(answer.Error, 64),
		Description: quotable(answer.Description, 300),
		URI:         quotableURL(answer.URI),
		Skew:        clock,
	}
}

func measureSkew(h http.Header) skew {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return skew{}
	}
	return skew{Known: true, Ahead: time.Since(date).Truncate(time.Second)}
}

// newTransport returns a transport for one client's connections to Redox.
func newTransport(caPEM string) (*http.Transport, error) {
	tlsConfig, err := rootsOnly(caPEM)
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
		MaxConnsPerHost:        maxInFlight + maxProofsInFlight,
		MaxIdleConnsPerHost:    maxInFlight,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}
