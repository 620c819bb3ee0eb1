package redoxapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TLS: only what ca_pem or the system vouches for, and never below 1.2.
func TestExchangeTLS(t *testing.T) {
	answer := body(200, `{"access_token":"t"}`)
	good := startTLS(t, &tls.Config{MinVersion: tls.VersionTLS13}, answer)
	old := startTLS(t, &tls.Config{MaxVersion: tls.VersionTLS11}, answer) //nolint:gosec // what is to be refused
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good.Certificate().Raw}))
	otherName := strings.Replace(good.URL, "127.0.0.1", "localhost", 1)

	_, otherCA := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour)})
	expired, expiredCA := serveWith(t, x509.Certificate{NotAfter: time.Now().Add(-time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}}, answer)
	wrongUse, wrongUseCA := serveWith(t, x509.Certificate{
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, answer)

	for name, test := range map[string]struct{ url, ca, want string }{
		"expired":         {expired, expiredCA, "it has expired or is not yet valid"},
		"for clients":     {wrongUse, wrongUseCA, "it is not valid"},
		"trusted":         {good.URL, ca, ""},
		"unknown":         {good.URL, "", "the TLS certificate of 127.0.0.1:PORT is not trusted: signed by an unknown authority; if a private CA signed it, set ca_pem"},
		"another's CA":    {good.URL, otherCA, "signed by an unknown authority"},
		"for a name else": {otherName, ca, "it is for another host"},
		"TLS 1.1":         {old.URL, ca, "failed: tls: protocol version not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newClient(t, test.ca).Exchange(t.Context(), test.url, "a", "")
			if test.want == "" {
				if err != nil || got.Value != "t" {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			u, parseErr := url.Parse(test.url)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			if want := strings.Replace(test.want, "PORT", u.Port(), 1); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

// What goes wrong on the way names the host, and never shows a proxy's password.
func TestConnectionErrors(t *testing.T) {
	refused, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := refused.Addr().String()
	if err := refused.Close(); err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(body(http.StatusProxyAuthRequired, "canary"))
	t.Cleanup(proxy.Close)
	through := func(proxyURL string) *Client {
		u, err := url.Parse(proxyURL)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, "")
		c.http.Transport.(*http.Transport).Proxy = http.ProxyURL(u)
		return c
	}
	for name, test := range map[string]struct {
		client *Client
		url    string
		want   string
	}{
		"nobody listens":       {newClient(t, ""), "http://" + closed, "connection to " + closed + ": connection refused"},
		"no such name":         {newClient(t, ""), "https://redox.invalid/", "the name of redox.invalid (or of the proxy) cannot be resolved"},
		"the proxy is down":    {through("http://user:canary@" + closed), "https://redox.example/", "the proxy on the way to redox.example cannot be reached"},
		"the proxy says no":    {through(strings.Replace(proxy.URL, "http://", "http://user:canary@", 1)), "https://redox.example/", "on the way to redox.example the proxy refuses with HTTP 407; proxy settings"},
		"the URL is no URL":    {newClient(t, ""), "http://[::1", "cannot be requested"},
		"the proxy is unknown": {through("http://user:canary@proxy.invalid:1"), "https://redox.example/", "redox.example"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.client.Exchange(t.Context(), test.url, "the.assertion", "")
			var up *UpstreamError
			if !errors.As(err, &up) || up.Kind != Unreachable || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %s", err, test.want)
			}
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "the.assertion") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// serveWith starts a server with a certificate that signs itself.
func serveWith(t *testing.T, template x509.Certificate, answer http.HandlerFunc) (url, caPEM string) {
	t.Helper()
	certificate, caPEM := certify(t, template)
	return startTLS(t, &tls.Config{Certificates: []tls.Certificate{certificate}}, answer).URL, caPEM
}

// certify makes a certificate that signs itself, valid since yesterday unless
// the template says otherwise.
func certify(t *testing.T, template x509.Certificate) (certificate tls.Certificate, caPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-24 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// startTLS starts a server that keeps failed handshakes to itself.
func startTLS(t *testing.T, config *tls.Config, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(answer)
	server.TLS = config
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}
