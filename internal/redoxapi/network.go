package redoxapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
)

// proxyRefusal is the HTTP status with which a proxy refuses to connect to Redox.
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
	unreachable := func(what string) error { return &UpstreamError{Kind: Unreachable, What: what} }
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return &UpstreamError{Kind: TimedOut, What: "no answer from " + host + " in time" + proxies}
	case errors.As(err, &certErr):
		return unreachable("the TLS certificate of " + host + " is not trusted: " +
			certificateFault(certErr.Err) + "; if a private CA signed it, set ca_pem")
	case errors.As(err, &dnsErr):
		return unreachable("the name of " + host + " (or of the proxy) cannot be resolved" + proxies)
	case errors.As(err, &opErr) && opErr.Op == "proxyconnect":
		return unreachable("the proxy on the way to " + host + " cannot be reached" + proxies)
	case errors.As(err, &denied):
		return unreachable("on the way to " + host + " " + denied.Error() + proxies)
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return unreachable("what answers at " + host + " does not speak TLS" + proxies)
	case errors.As(err, &opErr) && opErr.Op == "remote error": // an alert, in crypto/tls's words
		return unreachable("the TLS handshake with " + host + " failed: " + opErr.Err.Error())
	case errors.As(err, &errno):
		return unreachable("connection to " + host + ": " + errno.Error() + proxies)
	}
	return unreachable("the connection to " + host + " broke before there was an answer" + proxies)
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
