package redoxapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

var loopback = []net.IP{{127, 0, 0, 1}}

// A server that cannot prove who it is, by ca_pem or the system's authorities,
// with TLS 1.2 or later, is sent no assertion.
func TestServersWithBadTLS(t *testing.T) {
	t.Parallel()
	now := time.Now()
	certificate, ca := certify(t, x509.Certificate{NotAfter: now.Add(time.Hour), IPAddresses: loopback})
	with := func(certificate tls.Certificate, least, most uint16) []step {
		config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: least, MaxVersion: most}
		return []step{handshake(config), readRequest}
	}
	sound := func(more ...step) []step {
		return append(with(certificate, tls.VersionTLS12, tls.VersionTLS13), more...)
	}
	later := now.Add(time.Hour)
	_, otherCA := certify(t, x509.Certificate{NotAfter: later})
	otherName, otherNameCA := certify(t, x509.Certificate{NotAfter: later, DNSNames: []string{"redox.example"},
		IPAddresses: []net.IP{{127, 0, 0, 2}}})
	expired, expiredCA := certify(t, x509.Certificate{NotAfter: now.Add(-time.Minute), IPAddresses: loopback})
	early, earlyCA := certify(t, x509.Certificate{NotBefore: later, NotAfter: later.Add(time.Hour), IPAddresses: loopback})
	wrongUse, wrongUseCA := certify(t, x509.Certificate{NotAfter: later, IPAddresses: loopback,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	const untrusted, private = " is not trusted: ", "; if a private CA signed it, set ca_pem"
	const most = "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + `{"access_token":"t"}`
	for name, test := range map[string]struct {
		ca       string
		steps    []step
		kind     Kind
		want     string
		requests int64
	}{
		"wrong name": {otherNameCA, with(otherName, 0, 0),
			Unreachable, untrusted + "it is for another host" + private, 0},
		"expired": {expiredCA, with(expired, 0, 0),
			Unreachable, untrusted + "it has expired or is not yet valid" + private, 0},
		"not yet valid": {earlyCA, with(early, 0, 0),
			Unreachable, untrusted + "it has expired or is not yet valid" + private, 0},
		"for clients": {wrongUseCA, with(wrongUse, 0, 0),
			Unreachable, untrusted + "it is not valid" + private, 0},
		"unknown authority": {"", sound(), Unreachable, untrusted + "signed by an unknown authority" + private, 0},
		"another authority": {otherCA, sound(),
			Unreachable, untrusted + "signed by an unknown authority" + private, 0},
		"TLS 1.0": {ca, with(certificate, tls.VersionTLS10, tls.VersionTLS10),
			Unreachable, "failed: tls: protocol version not supported", 0},
		"TLS 1.1": {ca, with(certificate, tls.VersionTLS10, tls.VersionTLS11),
			Unreachable, "failed: tls: protocol version not supported", 0},
		"HTTP in its place": {ca, []step{reply("HTTP/1.1 400 " + canary + "\r\n\r\n")},
			Unreachable, " does not speak TLS", 0},
		"another protocol": {ca, []step{reply("SSH-2.0-" + canary + "\r\n")},
			Unreachable, " does not speak TLS", 0},
		"an alert": {ca, []step{reply("\x15\x03\x01\x00\x02\x02\x28")},
			Unreachable, " failed: tls: handshake failure", 0},
		"a cut without notice": {ca, sound(reply(most), hangUp), Unreachable, notHTTP, 1},
		"a stall":              {ca, sound(reply(most), stall), TimedOut, "in time", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHostileServer(t, test.steps...)
			timeout := patient
			if test.kind == TimedOut {
				timeout = 2 * impatient // TLS takes its time on a busy machine
			}
			_, err := withstand(t, newClient(t, test.ca), s, s.https(), timeout)
			checkError(t, err, test.kind, test.want)
			if !strings.Contains(err.Error(), s.address) || s.requests.Load() != test.requests {
				t.Errorf("%d requests: %v", s.requests.Load(), err)
			}
		})
	}
}

// A server with TLS 1.2 and one that offers nothing but HTTP/2 are spoken to, in
// HTTP/1.1. ca_pem may hold more than one authority.
func TestServersWithTLS(t *testing.T) {
	t.Parallel()
	certificate, ca := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour), IPAddresses: loopback})
	_, otherCA := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour)})
	for _, config := range []*tls.Config{{MaxVersion: tls.VersionTLS12}, {NextProtos: []string{"h2"}}} {
		config.Certificates = []tls.Certificate{certificate}
		s := newHostileServer(t, handshake(config), readRequest, reply(ok(`{"access_token":"t"}`)))
		if got, err := withstand(t, newClient(t, otherCA+ca), s, s.https(), patient); err != nil || got.Value != "t" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := New(Options{CAPEM: "nonsense"}); err == nil || !strings.Contains(err.Error(), "no CERTIFICATE block") {
		t.Errorf("nonsense in place of a certificate: %v", err)
	}
}

// through returns a client that uses a proxy with a password.
func through(t *testing.T, address, caPEM string) *Client {
	t.Helper()
	c := newClient(t, caPEM)
	c.http.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http",
		User: url.UserPassword("user", canary), Host: address})
	return c
}

// A proxy is asked for a tunnel. It sees no assertion, and its password is never
// shown.
func TestProxies(t *testing.T) {
	t.Parallel()
	certificate, ca := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"redox.example"}})
	const settings = "; proxy settings come from the environment of the Vault server (HTTPS_PROXY, NO_PROXY)"
	tunnel := reply("HTTP/1.1 200 Connection established\r\n\r\n")
	inside := handshake(&tls.Config{Certificates: []tls.Certificate{certificate}})
	for name, test := range map[string]struct {
		host  string
		steps []step
		kind  Kind
		want  string
	}{
		"a tunnel": {"redox.example", []step{tunnel, inside, readRequest, reply(ok(`{"access_token":"t"}`))}, 0, ""},
		"a tunnel to another host": {"other.example", []step{tunnel, inside, readRequest},
			Unreachable, "it is for another host"},
		"no": {"redox.example", []step{reply("HTTP/1.1 407 " + canary + "\r\nProxy-Authenticate: " + canary + "\r\n\r\n")},
			Unreachable, "on the way to redox.example the proxy refuses with HTTP 407" + settings},
		"another success": {"redox.example", []step{reply("HTTP/1.1 204 X\r\n\r\n")},
			Unreachable, "the proxy refuses with HTTP 204" + settings},
		"a stall": {"redox.example", []step{stall},
			TimedOut, "no answer from redox.example in time" + settings},
		"a stall behind the tunnel": {"redox.example", []step{tunnel, stall},
			TimedOut, "no answer from redox.example in time" + settings},
		"a cut behind the tunnel": {"redox.example", []step{tunnel, hangUp},
			Unreachable, "the connection to redox.example " + notHTTP},
		"a reset": {"redox.example", []step{reset},
			Unreachable, "connection to redox.example: connection reset by peer" + settings},
		"a flood": {"redox.example", []step{reply("HTTP/1.1 200 OK\r\nX: "), flood(canary)},
			Unreachable, notHTTP},
		"noise": {"redox.example", []step{reply(canary + "\r\n\r\n")}, Unreachable, notHTTP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 9)
			proxy := newHostileServer(t, append([]step{func(p *peer) error {
				req, err := http.ReadRequest(p.in)
				if err == nil {
					asked <- req.Method + " " + req.Host + " " + req.Header.Get("Proxy-Authorization")
				}
				return err
			}}, test.steps...)...)
			timeout := patient
			if test.kind == TimedOut {
				timeout = impatient
			}
			got, err := withstand(t, through(t, proxy.address, ca), proxy, "https://"+test.host+"/token", timeout)
			if test.want != "" {
				checkError(t, err, test.kind, test.want)
			} else if err != nil || got.Value != "t" {
				t.Errorf("%+v, %v", got, err)
			}
			if text := <-asked; text != "CONNECT "+test.host+":443 Basic dXNlcjpjNG40cnk=" || proxy.connections.Load() != 1 {
				t.Errorf("over %d connections the proxy was asked: %s", proxy.connections.Load(), text)
			}
			if sent := proxy.sent.Load(); sent > fewBytes {
				t.Errorf("the client accepted %d bytes", sent)
			}
		})
	}
}

// What fails before anybody answers names the host.
func TestConnectionErrors(t *testing.T) {
	t.Parallel()
	closed := listen(t)
	_ = closed.Close()
	address := closed.Addr().String()
	for url, test := range map[string]struct {
		client *Client
		want   string
	}{
		"http://" + address: {newClient(t, ""), "connection to " + address + ": connection refused; proxy settings"},
		"https://redox.invalid/": {newClient(t, ""),
			"the name of redox.invalid (or of the proxy) cannot be resolved; proxy settings"},
		"https://redox.example/": {through(t, address, ""),
			"the proxy on the way to redox.example cannot be reached; proxy settings"},
		"https://redox.other/": {through(t, "proxy.invalid:1", ""), "redox.other"},
	} {
		_, err := withstand(t, test.client, nil, url, patient)
		checkError(t, err, Unreachable, test.want)
	}
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
	certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
