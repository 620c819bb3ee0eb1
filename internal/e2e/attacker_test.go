package e2e

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/rogpeppe/go-internal/testscript"
)

// anyToken is a token endpoint that answers every request with a token.
func anyToken(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"access_token":"worthless","token_type":"Bearer","expires_in":300}`)
}

// attackerCmd sets up the attacks of a person who may write config:
//
//	attacker server   starts his token endpoint: ATTACKER is its URL, ATTACKER_HOST its host and port
//	attacker network  has the proxy connect to an endpoint of his instead of Redox; attacker.pem is its CA certificate
//	attacker gone     has the proxy connect to Redox again
func attackerCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	switch args[0] {
	case "server":
		server := httptest.NewServer(http.HandlerFunc(anyToken))
		ts.Defer(server.Close)
		ts.Setenv("ATTACKER", server.URL)
		ts.Setenv("ATTACKER_HOST", hostOf(server.URL))
	case "network":
		certificate, authority, err := certify(redoxHosts)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs("attacker.pem"), authority, 0o600))
		server := httptest.NewUnstartedServer(http.HandlerFunc(anyToken))
		server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
		server.StartTLS()
		ts.Defer(server.Close)
		w.gateway.lead(server)
	case "gone":
		w.gateway.lead(w.gateway.redox)
	default:
		ts.Fatalf("attacker has no command %s", args[0])
	}
}
