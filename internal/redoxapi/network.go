package redoxapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// proxyRefusal is the HTTP status with which a proxy refuses to connect to Redox.
type proxyRefusal int

func (s proxyRefusal) Error() string { return "the proxy refuses with HTTP " + strconv.Itoa(int(s)) }

// proxyConnected returns the proxy's status as an error if the proxy refuses to connect. The error
// of the standard library would have only the proxy's own text, which must not be shown.
func proxyConnected(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return proxyRefusal(answer.StatusCode)
	}
	return nil
}

// connectionError returns the [*UpstreamError] for an error of http.Client. It does not quote all
// of err, which may show the password in a proxy's URL.
func (c *Client) connectionError(req *http.Request, err error) error {
	host := req.URL.Host
	server := host // the other side of the TLS handshake
	var (
		netErr  net.Error
		dnsErr  *net.DNSError
		opErr   *net.OpError
		certErr *tls.CertificateVerificationError
		noTLS   tls.RecordHeaderError
		errno   syscall.Errno
		denied  proxyRefusal
	)
	unreachable := func(what string) error {
		return &UpstreamError{Kind: Unreachable, What: what + c.route(req)}
	}
	atProxy := errors.As(err, &opErr) && opErr.Op == "proxyconnect"
	if atProxy {
		server, err = c.firstHop(req), opErr.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &UpstreamError{Kind: Abandoned, What: "the reader hung up, or Vault's max_request_duration ended the " +
			"request, before there was an answer"}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return &UpstreamError{Kind: TimedOut, What: "no answer from " + host + " in time" + c.route(req)}
	case errors.As(err, &certErr):
		return unreachable("the TLS certificate of " + server + " is not trusted: " +
			certificateFault(certErr, c.ownCA, atProxy))
	case errors.As(err, &dnsErr):
		return unreachable("the name of " + c.firstHop(req) + " cannot be resolved")
	case errors.As(err, &denied):
		return unreachable("on the way to " + host + " " + denied.Error())
	case errors.As(err, &noTLS) && atProxy:
		return unreachable(server + " does not speak TLS, but HTTPS_PROXY names it with https: try http")
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return unreachable("the server at " + host + " does not speak TLS")
	case errors.As(err, &opErr) && opErr.Op == "remote error": // an alert, in crypto/tls's words
		return unreachable("the TLS handshake with " + server + " failed: " + opErr.Err.Error())
	case atProxy && errors.As(err, &opErr) && opErr.Op == "dial":
		return unreachable("the proxy on the way to " + host + " cannot be reached")
	case errors.As(err, &errno):
		return unreachable("connection to " + c.firstHop(req) + ": " + errno.Error())
	}
	// What follows this prefix is crypto/x509's text.
	if _, why, is := strings.Cut(err.Error(), "tls: failed to parse certificate from server: "); is {
		return unreachable("the TLS certificate of " + server + " cannot be read: " + why + "; its owner has to replace it")
	}
	return unreachable("the connection to " + server + " broke before there was an answer")
}

// proxyOf returns the proxy that a request goes through, nil for none.
func (c *Client) proxyOf(req *http.Request) *url.URL {
	transport, is := c.http.Transport.(*http.Transport)
	if !is || transport.Proxy == nil {
		return nil
	}
	proxy, err := transport.Proxy(req)
	if err != nil {
		return nil
	}
	return proxy
}

// firstHop names the host that the request goes to first: the proxy, if there is one,
// else the host of the request's URL.
func (c *Client) firstHop(req *http.Request) string {
	if proxy := c.proxyOf(req); proxy != nil {
		return "the proxy " + proxy.Host
	}
	return req.URL.Host
}

// route says whether the request went through a proxy or directly. It leaves out the user name and
// password in the proxy's URL.
func (c *Client) route(req *http.Request) string {
	if proxy := c.proxyOf(req); proxy != nil {
		return "; through the proxy " + proxy.Host + ", which the environment of the Vault server names " +
			"(HTTPS_PROXY, NO_PROXY)"
	}
	if trouble := ProxyTrouble(); trouble != "" {
		return "; directly: " + trouble
	}
	return "; directly: the environment of the Vault server names no proxy for this host (HTTPS_PROXY, NO_PROXY)"
}

// ProxyTrouble says why a proxy that the environment of this process names is not used for https.
// It is empty if nothing is wrong. The standard library ignores a proxy URL that it cannot read,
// and reports no error.
var ProxyTrouble = sync.OnceValue(func() string { return proxyTrouble(os.Getenv) }) // once, like net/http

func proxyTrouble(getenv func(string) string) string {
	either := func(name string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return getenv(strings.ToLower(name))
	}
	if proxy := either("HTTPS_PROXY"); proxy != "" {
		u, err := url.Parse(proxy)
		if err != nil || u.Scheme == "" || u.Host == "" {
			_, err = url.Parse("http://" + proxy)
		}
		if err != nil {
			return "HTTPS_PROXY in the environment of the Vault server is not a URL that can be read: " +
				"escape special characters of its user name and password (% is %25, @ is %40)"
		}
		return ""
	}
	for _, name := range []string{"HTTP_PROXY", "ALL_PROXY"} {
		if either(name) != "" {
			return name + " in the environment of the Vault server does not apply to https: set HTTPS_PROXY"
		}
	}
	return ""
}

// certificateFault says why a certificate is not trusted, and what to do. If ownCA is true, ca_pem
// replaces the system's authorities. If atProxy is true, the certificate is the proxy's.
func certificateFault(failed *tls.CertificateVerificationError, ownCA, atProxy bool) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	const replace = "; its owner has to replace it"
	trust := "; if a private authority signed it, set ca_pem to that authority's certificate"
	switch {
	case ownCA:
		trust = "; ca_pem replaces the system's authorities: add to it the certificate of the authority that signed this one"
	case atProxy:
		trust = "; if a private authority signed it, set ca_pem to that authority's certificate and those of Redox's " +
			"authorities: ca_pem replaces the system's"
	}
	text := failed.Err.Error()
	switch {
	case strings.Contains(text, "insecure algorithm"):
		return "it is signed with SHA-1 or MD5" + replace
	case strings.Contains(text, "parent certificate cannot sign"):
		return "the certificate that signed it may not sign certificates (its basic constraints lack CA:TRUE, or its " +
			"key usage keyCertSign)" + replace
	case errors.As(failed.Err, &unknown):
		if sent := failed.UnverifiedCertificates; len(sent) == 1 && !bytes.Equal(sent[0].RawIssuer, sent[0].RawSubject) {
			return "signed by an unknown authority, and the server sent no intermediate certificate: if there is one, the " +
				"server has to send it" + trust
		}
		return "signed by an unknown authority" + trust
	case errors.As(failed.Err, &name):
		if c := name.Certificate; len(c.DNSNames)+len(c.IPAddresses) == 0 {
			return "it has no host as a subject alternative name, and a common name does not count" + replace
		}
		if atProxy {
			return "it is for another host; check HTTPS_PROXY"
		}
		return "it is for another host; check token_url, and any proxy or gateway between Vault and that host"
	case errors.As(failed.Err, &invalid) && invalid.Reason == x509.Expired:
		return "it is valid from " + invalid.Cert.NotBefore.Format(time.RFC3339) + " to " +
			invalid.Cert.NotAfter.Format(time.RFC3339) + "; if the clock of the Vault server is right, the certificate's " +
			"owner has to replace it"
	case errors.As(failed.Err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "it may not be used for a server (extended key usage)" + replace
	case errors.As(failed.Err, &invalid) && invalid.Reason == x509.NotAuthorizedToSign:
		return "the certificate that signed it may not sign certificates (its basic constraints lack CA:TRUE, or its " +
			"key usage keyCertSign)" + replace
	}
	return Quotable(text, 200) + replace // crypto/x509's words
}
