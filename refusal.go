package redox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// refusal is Redox's no: it answered, in its own terms, and will answer the
// same again until something is mended.
type refusal struct {
	Status      int
	Code        string
	Description string
	URI         string
	Skew        skew
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("Redox refused the token request (HTTP %d, error %q, error_description %q", r.Status, r.Code, r.Description)
	if r.URI != "" {
		text += ", error_uri " + r.URI
	}
	return text + ")"
}

// unknownKey tells whether Redox found no public key for the client ID and kid.
func (r *refusal) unknownKey() bool {
	return strings.Contains(strings.ToLower(r.Description), "public key not found")
}

// kind says what an upstreamError means for the caller.
type kind int

const (
	unreachable kind = iota // no connection, or it broke
	timedOut                // no answer in time
	unavailable             // 5xx
	broken                  // 2xx without a usable token
	limited                 // 429
	notRedox                // 3xx, or a 4xx that Redox did not write
	overloaded              // too many requests of our own in flight
)

// upstreamError is a token request that got no answer from Redox, or none
// that makes sense. It never quotes the answer.
type upstreamError struct {
	Kind   kind
	Status int // HTTP status, 0 when there was none
	What   string

	RetryAfter time.Duration // how long the server asks to be left alone, zero when it does not
}

func (e *upstreamError) Error() string {
	if e.Status == 0 {
		return e.What
	}
	text := fmt.Sprintf("the token endpoint answered HTTP %d", e.Status)
	if e.What != "" {
		text += ": " + e.What
	}
	if e.RetryAfter > 0 {
		text += ", and asks to wait " + e.RetryAfter.String()
	}
	return text
}

// transient tells whether the same request, signed anew, may succeed at once.
// A 429 is not: trying again is what it complains of.
func (e *upstreamError) transient() bool {
	switch e.Kind {
	case unreachable, timedOut, unavailable, broken:
		return true
	}
	return false
}

// proxyRefusal is the HTTP status with which a proxy denies the way to Redox.
type proxyRefusal int

func (s proxyRefusal) Error() string { return "the proxy refuses with HTTP " + strconv.Itoa(int(s)) }

// proxyConnected reads what a proxy answers to CONNECT. The standard library
// would tell the status by the proxy's own words alone, which are not shown.
func proxyConnected(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return proxyRefusal(answer.StatusCode)
	}
	return nil
}

// connectionError classifies what http.Client returned. Its text is not passed
// on: a proxy's URL in it may hold a password.
func connectionError(host string, err error) error {
	var (
		netErr  net.Error
		dnsErr  *net.DNSError
		opErr   *net.OpError
		certErr *tls.CertificateVerificationError
		noTLS   tls.RecordHeaderError
		errno   syscall.Errno
		denied  proxyRefusal
	)
	const proxies = "; proxy settings come from the environment of the Vault server (HTTPS_PROXY, NO_PROXY)"
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return &upstreamError{Kind: timedOut, What: "no answer from " + host + " in time" + proxies}
	case errors.As(err, &certErr):
		return &upstreamError{Kind: unreachable, What: "the TLS certificate of " + host + " is not trusted: " + certificateFault(certErr.Err) + "; if a private CA signed it, set ca_pem"}
	case errors.As(err, &dnsErr):
		return &upstreamError{Kind: unreachable, What: "the name of " + host + " (or of the proxy) cannot be resolved" + proxies}
	case errors.As(err, &opErr) && opErr.Op == "proxyconnect":
		return &upstreamError{Kind: unreachable, What: "the proxy on the way to " + host + " cannot be reached" + proxies}
	case errors.As(err, &denied):
		return &upstreamError{Kind: unreachable, What: "on the way to " + host + " " + denied.Error() + proxies}
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return &upstreamError{Kind: unreachable, What: "what answers at " + host + " does not speak TLS" + proxies}
	case errors.As(err, &opErr) && opErr.Op == "remote error": // an alert, in crypto/tls's words
		return &upstreamError{Kind: unreachable, What: "the TLS handshake with " + host + " failed: " + opErr.Err.Error()}
	case errors.As(err, &errno):
		return &upstreamError{Kind: unreachable, What: "connection to " + host + ": " + errno.Error() + proxies}
	}
	return &upstreamError{Kind: unreachable, What: "the connection to " + host + " broke before there was an answer" + proxies}
}

func certificateFault(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return "signed by an unknown authority"
	case errors.As(err, &name):
		return "it is for another host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it has expired or is not yet valid"
	}
	return "it is not valid"
}

// tokenLike finds what may be a token, an assertion or a part of one. A client
// ID (a UUID of 36 characters) is shorter.
var tokenLike = regexp.MustCompile(`[A-Za-z0-9_.~+/=-]{40,}`)

// quotable makes foreign text fit to be shown: without control characters,
// without anything that may be a credential that the server echoes, and short.
func quotable(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimSpace(tokenLike.ReplaceAllStringFunc(text, func(match string) string {
		if quotableURL("https:"+match) != "" {
			return match
		}
		return "[removed]"
	}))
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}

// quotableURL returns a documentation link of Redox's, or nothing.
func quotableURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(text) > 200 {
		return ""
	}
	if u.Host != "redoxengine.com" && !strings.HasSuffix(u.Host, ".redoxengine.com") {
		return ""
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if tokenLike.MatchString(segment) {
			return ""
		}
	}
	return u.String()
}
