package redoxapi

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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

// The client makes no request to a server without TLS 1.2 or later, or with a certificate that it
// does not trust. If ca_pem is set, the client trusts only the authorities in it. Each error names
// the server.
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
	_, otherCA := certify(t, x509.Certificate{NotAfter: later, Subject: pkix.Name{CommonName: "other"}})
	otherName, otherNameCA := certify(t, x509.Certificate{NotAfter: later, DNSNames: []string{"redox.example"},
		IPAddresses: []net.IP{{127, 0, 0, 2}}})
	expired, expiredCA := certify(t, x509.Certificate{NotAfter: now.Add(-time.Minute), IPAddresses: loopback})
	early, earlyCA := certify(t, x509.Certificate{NotBefore: later, NotAfter: later.Add(time.Hour), IPAddresses: loopback})
	wrongUse, wrongUseCA := certify(t, x509.Certificate{NotAfter: later, IPAddresses: loopback,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	noName, noNameCA := certify(t, x509.Certificate{NotAfter: later, Subject: pkix.Name{CommonName: "127.0.0.1"}})
	noHost, noHostCA := certify(t, x509.Certificate{NotAfter: later,
		URIs: []*url.URL{{Scheme: "https", Host: "127.0.0.1"}}})
	negative, _ := certify(t, x509.Certificate{NotAfter: later, IPAddresses: loopback})
	negative.Certificate[0] = bytes.Replace(negative.Certificate[0], []byte("\x02\x01\x01"), []byte("\x02\x01\xff"), 1)
	authority := x509.Certificate{NotAfter: later, Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		BasicConstraintsValid: true}
	between := x509.Certificate{NotAfter: later, Subject: pkix.Name{CommonName: "between"}, IsCA: true,
		BasicConstraintsValid: true}
	leaf := x509.Certificate{NotAfter: later, Subject: pkix.Name{CommonName: "leaf"}, IPAddresses: loopback}
	noIntermediate, noIntermediateCA := issue(t, authority, between, leaf)
	noIntermediate.Certificate = noIntermediate.Certificate[:1]
	noAuthority := authority
	noAuthority.IsCA, noAuthority.BasicConstraintsValid = false, false
	notOne, notOneCA := issue(t, noAuthority, leaf)
	noCertSign := authority
	noCertSign.KeyUsage = x509.KeyUsageDigitalSignature
	mayNot, mayNotCA := issue(t, noCertSign, leaf)
	sha1 := leaf
	sha1.SignatureAlgorithm = x509.ECDSAWithSHA1
	old, oldCA := issue(t, authority, sha1)
	const untrusted, replace = " is not trusted: ", "; its owner has to replace it; directly: "
	const unknown = untrusted + "signed by an unknown authority"
	const noSigner = "may not sign certificates (its basic constraints lack CA:TRUE, or its key usage keyCertSign)" +
		replace
	const noSAN = untrusted + "it has no host as a subject alternative name, and a common name does not count" + replace
	const set, private = "; ca_pem replaces the system's authorities: add to it the certificate of the authority that " +
		"signed this one", "; if a private authority signed it, set ca_pem to that authority's certificate"
	const valid = untrusted + "it is valid from "
	const clock = "; if the clock of the Vault server is right, the certificate's owner has to replace"
	const most = "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + `{"access_token":"t"}`
	for name, test := range map[string]struct {
		ca       string
		steps    []step
		kind     Kind
		want     string
		requests int64
	}{
		"wrong name": {otherNameCA, with(otherName, 0, 0),
			Unreachable, untrusted + "it is for another host; check token_url", 0},
		"a common name alone": {noNameCA, with(noName, 0, 0),
			Unreachable, noSAN, 0},
		"a URI alone": {noHostCA, with(noHost, 0, 0), Unreachable, noSAN, 0},
		"expired": {expiredCA, with(expired, 0, 0),
			Unreachable, " to " + now.Add(-time.Minute).UTC().Format(time.RFC3339) + clock, 0},
		"not yet valid": {earlyCA, with(early, 0, 0),
			Unreachable, valid + later.UTC().Format(time.RFC3339), 0},
		"for clients": {wrongUseCA, with(wrongUse, 0, 0),
			Unreachable, untrusted + "it may not be used for a server (extended key usage)" + replace, 0},
		"a negative serial": {ca, with(negative, 0, 0),
			Unreachable, " cannot be read: x509: negative serial number" + replace, 0},
		"SHA-1": {oldCA, with(old, 0, 0), Unreachable, untrusted + "it is signed with SHA-1 or MD5" + replace, 0},
		"a signer that is no authority": {notOneCA, with(notOne, 0, 0),
			Unreachable, noSigner, 0},
		"an authority without keyCertSign": {mayNotCA, with(mayNot, 0, 0),
			Unreachable, noSigner, 0},
		"no intermediate": {noIntermediateCA, with(noIntermediate, 0, 0),
			Unreachable, unknown + ", and the server sent no intermediate certificate: if there is one, the server has to " +
				"send it" + set, 0},
		"unknown authority": {"", sound(), Unreachable, unknown + private, 0},
		"another authority": {otherCA, sound(), Unreachable, unknown + set, 0},
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
				timeout = 2 * impatient // a TLS handshake is slow on a busy machine
			}
			_, err := withstand(t, newClient(t, test.ca), s, s.https(), timeout)
			checkError(t, err, test.kind, test.want)
			if !strings.Contains(err.Error(), s.address) || s.requests.Load() != test.requests {
				t.Errorf("%d requests: %v", s.requests.Load(), err)
			}
		})
	}
}

// The client connects with TLS 1.2, and uses HTTP/1.1 even if the server offers only HTTP/2. ca_pem
// may hold more than one authority, but must hold one if it is set.
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

// through returns a client that uses the proxy at address, with a password. scheme is http or https.
func through(t *testing.T, scheme, address, caPEM string) *Client {
	t.Helper()
	c := newClient(t, caPEM)
	c.http.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme,
		User: url.UserPassword("user", canary), Host: address})
	return c
}

// The client asks a proxy for a tunnel, over one connection. No error shows the proxy's password.
func TestProxies(t *testing.T) {
	t.Parallel()
	certificate, ca := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"redox.example"}})
	const settings = "; through the proxy 127.0.0.1:"
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
			Unreachable, "connection to the proxy 127.0.0.1:"},
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
			got, err := withstand(t, through(t, "http", proxy.address, ca), proxy, "https://"+test.host+"/token", timeout)
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

// If TLS with an https proxy fails, the error names the proxy and not Redox.
func TestProxiesWithTLS(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	certificate, ca := certify(t, x509.Certificate{NotAfter: later, IPAddresses: loopback,
		DNSNames: []string{"redox.example"}})
	other, otherCA := certify(t, x509.Certificate{NotAfter: later, DNSNames: []string{"other.example"},
		Subject: pkix.Name{CommonName: "other"}})
	negative, _ := certify(t, x509.Certificate{NotAfter: later, IPAddresses: loopback})
	negative.Certificate[0] = bytes.Replace(negative.Certificate[0], []byte("\x02\x01\x01"), []byte("\x02\x01\xff"), 1)
	with := func(certificate tls.Certificate) step {
		return handshake(&tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	readByte := func(p *peer) error {
		_, err := p.in.ReadByte()
		return err
	}
	tunnel := reply("HTTP/1.1 200 Connection established\r\n\r\n")
	for name, test := range map[string]struct {
		ca    string
		steps []step
		want  string // "%": the proxy
	}{
		"no TLS": {ca, []step{reply("HTTP/1.1 400 " + canary + "\r\n\r\n")},
			"the proxy % does not speak TLS, but HTTPS_PROXY names it with https: try http; through the proxy %"},
		"unknown authority": {"", []step{with(certificate)}, "the TLS certificate of the proxy % is not trusted: " +
			"signed by an unknown authority; if a private authority signed it, set ca_pem to that authority's certificate " +
			"and those of Redox's authorities: ca_pem replaces the system's; through the proxy %"},
		"another authority": {otherCA, []step{with(certificate)}, "the TLS certificate of the proxy % is not trusted: " +
			"signed by an unknown authority; ca_pem replaces the system's authorities: add to it the certificate"},
		"a negative serial": {ca, []step{with(negative)}, "the TLS certificate of the proxy % cannot be read: x509: "},
		"wrong name": {otherCA, []step{with(other)}, "the TLS certificate of the proxy % is not trusted: " +
			"it is for another host; check HTTPS_PROXY; through the proxy %"},
		"an alert": {ca, []step{reply("\x15\x03\x01\x00\x02\x02\x28")},
			"the TLS handshake with the proxy % failed: tls: handshake failure; through the proxy %"},
		"a cut": {ca, []step{hangUp},
			"the connection to the proxy % broke before there was an answer; through the proxy %"},
		"a reset": {ca, []step{readByte, reset}, "connection to the proxy %: connection reset by peer; through the proxy %"},
		"another name in the tunnel": {ca, []step{with(certificate), readRequest, tunnel, with(other)},
			"the TLS certificate of redox.example is not trusted: it is for another host; check token_url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := newHostileServer(t, test.steps...)
			_, err := withstand(t, through(t, "https", proxy.address, test.ca), proxy, "https://redox.example/token", patient)
			checkError(t, err, Unreachable, strings.ReplaceAll(test.want, "%", proxy.address))
		})
	}
}

// If no connection can be made, the error names the host or proxy that cannot be reached or
// resolved.
func TestConnectionErrors(t *testing.T) {
	t.Parallel()
	closed := listen(t)
	_ = closed.Close()
	address := closed.Addr().String()
	for url, test := range map[string]struct {
		client *Client
		want   string
	}{
		"http://" + address: {newClient(t, ""), "connection to " + address + ": connection refused; directly: the "},
		"https://redox.invalid/": {newClient(t, ""),
			"the name of redox.invalid cannot be resolved; directly: the environment "},
		"https://redox.example/": {through(t, "http", address, ""),
			"the proxy on the way to redox.example cannot be reached; through the proxy " + address},
		"https://redox.other/": {through(t, "http", "proxy.invalid:1", ""),
			"the name of the proxy proxy.invalid:1 cannot be resolved; through the proxy proxy.invalid:1"},
	} {
		_, err := withstand(t, test.client, nil, url, patient)
		checkError(t, err, Unreachable, test.want)
	}
}

// issue makes a chain of certificates, from the authority's to the server's. It returns
// what the server sends, and the authority's certificate as PEM.
func issue(t *testing.T, chain ...x509.Certificate) (sent tls.Certificate, caPEM string) {
	t.Helper()
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for _, template := range chain {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber, template.NotBefore = big.NewInt(1), time.Now().Add(-24*time.Hour)
		if parent == nil {
			parent, parentKey = &template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		if parentKey = key; caPEM == "" {
			caPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
			continue
		}
		sent.Certificate, sent.PrivateKey = append([][]byte{der}, sent.Certificate...), key
	}
	return sent, caPEM
}

// proxyTrouble says why a proxy in the environment is not used, and nothing if all is well.
func TestProxyTrouble(t *testing.T) {
	const none = ""
	const inEnv, noEffect = " in the environment of the Vault server ", "does not apply to https: set HTTPS_PROXY"
	for env, want := range map[string]string{
		"":                                     none,
		"HTTPS_PROXY=http://proxy.example:1":   none,
		"https_proxy=proxy.example:1":          none,
		"HTTPS_PROXY=http://u:p@ss%41@proxy:1": none,
		"HTTPS_PROXY=http://u:p%zz@proxy:1":    "HTTPS_PROXY" + inEnv + "is not a URL that can be read",
		"HTTP_PROXY=http://proxy.example:1":    "HTTP_PROXY" + inEnv + noEffect,
		"all_proxy=socks5://proxy.example:1":   "ALL_PROXY" + inEnv + noEffect,
	} {
		name, value, _ := strings.Cut(env, "=")
		got := proxyTrouble(func(asked string) string {
			if asked == name {
				return value
			}
			return ""
		})
		if want == none && got != none || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", env, got, want)
		}
	}
}

// certify makes a self-signed certificate. NotBefore is yesterday unless template sets it.
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
