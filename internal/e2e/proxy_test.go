package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// redoxHosts are the real names of Redox's hosts. The proxy sends requests for them to the sandbox.
var redoxHosts = []string{"api.redoxengine.com", "api.ca.redoxengine.com"}

// gateway is a forward proxy that inspects TLS, as hospitals have: Redox can only be reached through it, and
// shows a certificate of a private authority.
type gateway struct {
	redox *httptest.Server // terminates TLS for the sandbox
	proxy *httptest.Server

	mu     sync.Mutex       // guards all below
	front  *httptest.Server // the server that the proxy leads to: redox, or an attacker's
	denies bool
	asked  []string // since the log was printed last
}

// proxyCmd controls the proxy:
//
//	proxy start       starts it, with a new sandbox behind it; PROXY is the proxy's URL, ca.pem the CA certificate
//	proxy deny|allow  denies or allows requests from now on
//	proxy log         prints the requests since the last proxy log
func proxyCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	if args[0] == "start" {
		w.gateway = startGateway(ts, w)
		return
	}
	g := w.gateway
	g.mu.Lock()
	defer g.mu.Unlock()
	switch args[0] {
	case "deny", "allow":
		g.denies = args[0] == "deny"
	case "log":
		for _, line := range g.asked {
			_, _ = fmt.Fprintln(ts.Stdout(), line)
		}
		g.asked = nil
	default:
		ts.Fatalf("proxy has no command %s", args[0])
	}
}

func startGateway(ts *testscript.TestScript, w *world) *gateway {
	w.sandbox.Close()
	port, err := freePort()
	ts.Check(err)
	w.sandbox, err = redoxtest.Start(redoxtest.Options{Listen: "127.0.0.1:" + port, URL: "https://" +
		redoxHosts[0], Log: &w.tripwire})
	ts.Check(err)
	certificate, authority, err := certify(redoxHosts)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), authority, 0o600))

	g := &gateway{redox: httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http",
		Host: "127.0.0.1:" + port}))}
	g.redox.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	g.redox.Config.ErrorLog = log.New(io.Discard, "", 0) // about clients that do not trust it
	g.redox.StartTLS()
	g.front = g.redox
	g.proxy = httptest.NewServer(g)
	ts.Defer(g.proxy.Close)
	ts.Defer(g.redox.CloseClientConnections)
	ts.Setenv("PROXY", g.proxy.URL)
	ts.Setenv("REDOX", w.sandbox.URL())
	return g
}

// lead makes the proxy connect to server from the next connection on.
func (g *gateway) lead(server *httptest.Server) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.front = server
}

// ServeHTTP tunnels CONNECT requests for Redox's hosts to front, unless denies is set. Any other request gets
// HTTP 403.
func (g *gateway) ServeHTTP(answer http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked = append(g.asked, r.Method+" "+r.Host)
	denied, front := g.denies, g.front
	g.mu.Unlock()
	if r.Method != http.MethodConnect || denied || r.Host != redoxHosts[0]+":443" && r.Host != redoxHosts[1]+":443" {
		http.Error(answer, "not through here", http.StatusForbidden)
		return
	}
	redox, err := new(net.Dialer).DialContext(context.WithoutCancel(r.Context()), "tcp", front.Listener.Addr().String())
	if err != nil {
		http.Error(answer, "host not allowed", http.StatusBadGateway)
		return
	}
	defer func() { _ = redox.Close() }()
	client, _, err := answer.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = client.Close() }()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(redox, client) // ends when either end hangs up
		_ = redox.Close()
	}()
	_, _ = io.Copy(client, redox) // likewise
}

// certify creates an authority, and a server certificate for hosts that the authority signs.
func certify(hosts []string) (server tls.Certificate, authority []byte, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return server, nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Hospital CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return server, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return server, nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return server, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), nil
}
