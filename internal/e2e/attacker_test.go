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

// attackerCmd gives a person who may write config what else he needs for an attack:
//
//	attacker server   a token endpoint of his own, at ATTACKER, on ATTACKER_HOST
//	attacker network  his endpoint answers instead of Redox behind the proxy; attacker.pem is its authority
//	attacker gone     Redox answers again
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
