package redox

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Only a server that can show who it is, by config's ca_pem, is sent an assertion.
func TestServersWithBadTLS(t *testing.T) {
	t.Parallel()
	loopback := []net.IP{{127, 0, 0, 1}}
	now := time.Now()
	certificate, ca := certify(t, x509.Certificate{NotAfter: now.Add(time.Hour), IPAddresses: loopback})
	certified := func(template x509.Certificate) (*tls.Config, string) {
		certificate, ca := certify(t, template)
		return &tls.Config{Certificates: []tls.Certificate{certificate}}, ca
	}
	config := func(least, most uint16) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: least, MaxVersion: most}
	}
	otherName, otherNameCA := certified(x509.Certificate{NotAfter: now.Add(time.Hour), DNSNames: []string{"redox.example"}, IPAddresses: []net.IP{{127, 0, 0, 2}}})
	expired, expiredCA := certified(x509.Certificate{NotAfter: now.Add(-time.Minute), IPAddresses: loopback})
	early, earlyCA := certified(x509.Certificate{NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour), IPAddresses: loopback})
	sound := config(tls.VersionTLS12, tls.VersionTLS13)
	const untrusted, most = "is not trusted: ", "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + `{"access_token":"t"}`
	for name, test := range map[string]struct {
		ca     string
		steps  []step
		status int
		want   string
	}{
		"wrong name":           {otherNameCA, []step{encrypts(otherName), hears}, 502, untrusted + "it is for another host"},
		"expired":              {expiredCA, []step{encrypts(expired), hears}, 502, untrusted + "it has expired or is not yet valid"},
		"not yet valid":        {earlyCA, []step{encrypts(early), hears}, 502, untrusted + "it has expired or is not yet valid"},
		"unknown authority":    {"", []step{encrypts(sound), hears}, 502, untrusted + "signed by an unknown authority; if a private CA signed it, set ca_pem"},
		"another authority":    {testdata(t, "certificate.pem"), []step{encrypts(sound), hears}, 502, untrusted + "signed by an unknown authority"},
		"TLS 1.0":              {ca, []step{encrypts(config(tls.VersionTLS10, tls.VersionTLS10)), hears}, 502, "failed: tls: protocol version not supported"},
		"TLS 1.1":              {ca, []step{encrypts(config(tls.VersionTLS10, tls.VersionTLS11)), hears}, 502, "failed: tls: protocol version not supported"},
		"HTTP in its place":    {ca, []step{says("HTTP/1.1 400 " + canary + "\r\n\r\n")}, 502, "does not speak TLS"},
		"another protocol":     {ca, []step{says("SSH-2.0-" + canary + "\r\n")}, 502, "does not speak TLS"},
		"an alert":             {ca, []step{says("\x15\x03\x01\x00\x02\x02\x28")}, 502, "the TLS handshake with 127.0.0.1:"},
		"a cut without notice": {ca, []step{encrypts(sound), hears, says(most), ends}, 502, notHTTP},
		"a stall":              {ca, []step{encrypts(sound), hears, says(most), stalls}, 504, "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVillain(t, test.steps...)
			withstand(t, attack{by: v, url: v.secure(), caPEM: test.ca, status: test.status, want: []string{v.host(), test.want}})
			if n := v.requests.Load(); n != 0 && (strings.Contains(test.want, "TLS") || strings.Contains(test.want, untrusted)) {
				t.Error("it was sent an assertion")
			}
		})
	}
}

// HTTP/2 is not spoken, not even with a server that has nothing else to offer.
func TestServersThatOfferHTTP2(t *testing.T) {
	t.Parallel()
	certificate, ca := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}})
	v := newVillain(t, encrypts(&tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}), hears, says(ok200(`{"access_token":"t"}`)))
	withstand(t, attack{by: v, url: v.secure(), caPEM: ca, status: 200})
}

// A change of ca_pem holds for the next read, also where a connection is open.
func TestCAOfConfig(t *testing.T) {
	t.Parallel()
	server := startTLS(t, &tls.Config{MinVersion: tls.VersionTLS12}, body(200, `{"access_token":"t"}`))
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	m := newMount(t)
	m.ready("", map[string]any{"token_url": server.URL, "max_retries": 0})
	for _, pem := range []any{"", testdata(t, "certificate.pem"), ca, nil, testdata(t, "certificate.pem") + ca} {
		m.write("config", map[string]any{"ca_pem": pem})
		if text, isText := pem.(string); isText && strings.HasSuffix(text, ca) {
			m.read("token")
			continue
		}
		m.fails(502, logical.ReadOperation, "token", nil, "signed by an unknown authority; if a private CA signed it, set ca_pem")
	}
	m.allLeft()
}

// proxied holds the plan of the process that reads through proxies: net/http
// reads their variables once per process.
const proxied = "REDOX_TEST_PROXIED"

// proxyCase is a host of a token URL, and what the proxy does when asked for it.
type proxyCase struct {
	does   []step
	Status int
	Want   string
}

type proxyPlan struct {
	CAPEM string
	Hosts map[string]proxyCase
}

// noProxy is the host to which no proxy is asked the way.
const noProxy = "direct.redox.invalid"

func proxyCases(certificate tls.Certificate) map[string]proxyCase {
	const settings = "; proxy settings come from"
	tunnel := says("HTTP/1.1 200 Connection established\r\n\r\n")
	inside := encrypts(&tls.Config{Certificates: []tls.Certificate{certificate}})
	return map[string]proxyCase{
		noProxy:                {nil, 502, "the name of " + noProxy + " (or of the proxy) cannot be resolved" + settings},
		"good.redox.invalid":   {[]step{tunnel, inside, hears, says(ok200(`{"access_token":"t"}`))}, 200, ""},
		"other.redox.invalid":  {[]step{tunnel, inside, hears}, 502, "it is for another host"},
		"no.redox.invalid":     {[]step{says("HTTP/1.1 407 " + canary + "\r\nProxy-Authenticate: Basic realm=" + canary + "\r\n\r\n")}, 502, "on the way to no.redox.invalid the proxy refuses with HTTP 407" + settings},
		"stall.redox.invalid":  {[]step{stalls}, 504, "no answer from stall.redox.invalid in time" + settings},
		"silent.redox.invalid": {[]step{tunnel, stalls}, 504, "no answer from silent.redox.invalid in time" + settings},
		"cut.redox.invalid":    {[]step{tunnel, ends}, 502, notHTTP},
		"reset.redox.invalid":  {[]step{resets}, 502, "connection reset by peer" + settings},
		"flood.redox.invalid":  {[]step{says("HTTP/1.1 200 OK\r\nX: "), floods(canary)}, 502, notHTTP},
		"noise.redox.invalid":  {[]step{says(canary + "\r\n\r\n")}, 502, notHTTP},
	}
}

// What is between Vault and Redox is a proxy of Vault's environment: it is
// asked for a tunnel, sees no assertion, and its password is never shown.
func TestProxies(t *testing.T) {
	if plan := os.Getenv(proxied); plan != "" {
		readThroughProxies(t, plan)
		return
	}
	t.Parallel()
	certificate, ca := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"good.redox.invalid"}})
	cases := proxyCases(certificate)
	asked := make(chan string, 99)
	proxy := newVillain(t, func(p *peer) error {
		req, err := http.ReadRequest(p.in)
		if err != nil {
			return err
		}
		asked <- req.Method + " " + req.Host + " " + req.Header.Get("Proxy-Authorization")
		for _, do := range cases[strings.TrimSuffix(req.Host, ":443")].does {
			if err := do(p); err != nil {
				return err
			}
		}
		return nil
	})
	want := map[string]bool{}
	for host := range cases {
		if host == noProxy {
			continue
		}
		want["CONNECT "+host+":443 Basic dXNlcjpjNG40cnk="] = true // user:c4n4ry
	}
	readElsewhere(t, proxy.host(), proxyPlan{ca, cases}, "NO_PROXY="+noProxy)
	for len(asked) > 0 {
		if got := <-asked; !want[got] {
			t.Errorf("the proxy was asked: %s", got)
		}
	}
	if n := proxy.connections.Load(); n != int64(len(want)) {
		t.Errorf("the proxy saw %d connections, want %d", n, len(want))
	}
	if sent := proxy.sent.Load(); sent > few {
		t.Errorf("%d bytes of the proxy were taken", sent)
	}
}

func TestProxyThatIsDown(t *testing.T) {
	t.Parallel()
	gone, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil || gone.Close() != nil {
		t.Fatal(err)
	}
	readElsewhere(t, gone.Addr().String(), proxyPlan{Hosts: map[string]proxyCase{
		"redox.invalid": {nil, 502, "the proxy on the way to redox.invalid cannot be reached; proxy settings come from"},
	}})
}

// readElsewhere runs TestProxies in a process that has a proxy.
func readElsewhere(t *testing.T, proxy string, plan proxyPlan, env ...string) {
	t.Helper()
	raw, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, "-test.run=^TestProxies$", "-test.count=1", "-test.timeout=1m")
	child.Env = append(append(os.Environ(), proxied+"="+string(raw), "HTTPS_PROXY=http://user:"+canary+"@"+proxy), env...)
	if output, err := child.CombinedOutput(); err != nil || strings.Contains(string(output), canary) {
		t.Errorf("through %s: %v\n%s", proxy, err, output)
	}
}

func readThroughProxies(t *testing.T, raw string) {
	t.Helper()
	var plan proxyPlan
	if err := json.Unmarshal([]byte(raw), &plan); err != nil {
		t.Fatal(err)
	}
	for host, test := range plan.Hosts {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			withstand(t, attack{url: "https://" + host + "/token", caPEM: plan.CAPEM, status: test.Status, want: []string{test.Want}})
		})
	}
}
