package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"
)

// issuer stands for the OIDC issuer of GitHub or GitLab, whose signed ID tokens describe a job. Vault fetches
// the public key from it.
type issuer struct {
	server *httptest.Server
	key    *rsa.PrivateKey
}

const issuerKeyID = "key-of-the-issuer"

// issuersCmd starts an issuer for GitHub and one for GitLab, and stores their URLs in GITHUB and GITLAB.
func issuersCmd(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.issuers = map[string]*issuer{}
	for _, name := range []string{"github", "gitlab"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		ts.Check(err)
		one := &issuer{key: key}
		one.server = httptest.NewUnstartedServer(one) // it reads server
		one.server.Start()
		ts.Defer(one.server.Close)
		w.issuers[name] = one
		ts.Setenv(strings.ToUpper(name), one.server.URL)
	}
}

func (i *issuer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var answer any
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		answer = map[string]any{
			"issuer": i.server.URL, "jwks_uri": i.server.URL + "/jwks",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
		}
	case "/jwks":
		answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: issuerKeyID, Use: "sig",
			Algorithm: "RS256"}}}
	default:
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(answer) // Vault may have gone
}

// claimsOf are claims of a job's ID token after a push to main, as GitHub and GitLab document them.
var claimsOf = map[string]string{
	"github": `{
		"sub": "repo:my-org/my-repository:ref:refs/heads/main", "aud": "https://vault.example.org",
		"repository": "my-org/my-repository", "repository_id": "74", "repository_visibility": "private",
		"repository_owner": "my-org", "repository_owner_id": "65", "actor": "octocat", "actor_id": "12",
		"event_name": "push", "ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true",
		"head_ref": "", "base_ref": "",
		"sha": "6dcb09b5b57875f334f61aebed695e2e4193db5e", "workflow": "redox", "runner_environment": "github-hosted",
		"workflow_ref": "my-org/my-repository/.github/workflows/token.yml@refs/heads/main",
		"job_workflow_ref": "my-org/my-repository/.github/workflows/token.yml@refs/heads/main",
		"run_id": "1234567890", "run_number": "10", "run_attempt": "2"
	}`,
	"gitlab": `{
		"sub": "project_path:my-group/my-project:ref_type:branch:ref:main", "aud": "https://vault.example.org",
		"project_path": "my-group/my-project", "project_id": "22", "project_visibility": "private",
		"namespace_path": "my-group", "namespace_id": "72", "user_id": "1", "user_login": "sample-user",
		"user_email": "sample-user@example.org",
		"pipeline_id": "574", "pipeline_source": "push", "job_id": "302",
		"ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
		"runner_id": 1, "runner_environment": "gitlab-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
		"ci_config_ref_uri": "gitlab.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main"
	}`,
}

// idTokenCmd writes the ID token of a job to a file:
//
//	idtoken <file> github|gitlab [<claim>=<value>…] [exp=<duration>] [key=another]
func idTokenCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(idToken(ts, args[1], args[2:])), 0o600))
}

// idToken returns an ID token of an issuer. Each <claim>=<value> in said sets a claim. But
// exp=<duration> says how long the token remains valid, and key=another signs it with a key that the
// issuer does not publish.
func idToken(ts *testscript.TestScript, name string, said []string) string {
	w := worldOf(ts)
	from := w.issuers[name]
	claims := map[string]any{}
	ts.Check(json.Unmarshal([]byte(claimsOf[name]), &claims))
	claims["iss"], claims["jti"] = from.server.URL, rand.Text()
	key, left := from.key, 5*time.Minute
	for _, arg := range said {
		claim, value, _ := strings.Cut(arg, "=")
		var err error
		switch claim {
		case "key":
			key, err = rsa.GenerateKey(rand.Reader, 2048)
		case "exp":
			left, err = time.ParseDuration(value)
		default:
			claims[claim] = value
		}
		ts.Check(err)
	}
	end := time.Now().Add(left)
	begin := end.Add(-5 * time.Minute)
	claims["iat"], claims["nbf"], claims["exp"] = begin.Unix(), begin.Unix(), end.Unix()
	payload, err := json.Marshal(claims)
	ts.Check(err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256,
		Key: jose.JSONWebKey{Key: key, KeyID: issuerKeyID}}, (&jose.SignerOptions{}).WithType("JWT"))
	ts.Check(err)
	signed, err := signer.Sign(payload)
	ts.Check(err)
	token, err := signed.CompactSerialize()
	ts.Check(err)
	w.others[fmt.Sprintf("the signature of ID token %d", len(w.others))] = token[strings.LastIndex(token, ".")+1:]
	return token
}
