package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// serviceAccount is the service account of a Pod.
type serviceAccount struct{ namespace, name string }

// subject returns the account's user name in Kubernetes.
func (s serviceAccount) subject() string {
	return "system:serviceaccount:" + s.namespace + ":" + s.name
}

// token returns a token like those of Kubernetes, but with an invalid signature. Vault asks tokenReview,
// which stands for Kubernetes, whether the token is valid, and tokenReview does not check the signature.
func (s serviceAccount) token(audiences []string) (string, error) {
	claims, err := json.Marshal(map[string]any{
		"iss": "https://kubernetes.default.svc", "sub": s.subject(), "aud": audiences,
		"iat": time.Now().Unix(), "exp": time.Now().Add(10 * time.Minute).Unix(),
		"kubernetes.io": map[string]any{"namespace": s.namespace, "serviceaccount": map[string]string{"name": s.name,
			"uid": "uid-" + s.name}},
	})
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + encode(claims) + "." + encode(make([]byte, 256)), err
}

// kubernetesCmd starts a stub of the API that Vault asks about tokens of service accounts. It stores the
// stub's URL in KUBERNETES, a CA certificate in kubernetes-ca.crt, and a token for Vault in reviewer.jwt:
// kubernetes. The stub does not check whether Vault may ask. scripts/kubernetes tests with the real API.
func kubernetesCmd(ts *testscript.TestScript, _ bool, _ []string) {
	server := httptest.NewServer(http.HandlerFunc(tokenReview))
	ts.Defer(server.Close)
	ts.Setenv("KUBERNETES", server.URL)
	_, authority, err := certify([]string{"kubernetes"}) // OpenBao requires one
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("kubernetes-ca.crt"), authority, 0o600))
	token, err := serviceAccount{"kube-system", "vault-reviewer"}.token(nil)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("reviewer.jwt"), []byte(token+"\n"), 0o600))
}

// tokenReview answers as the TokenReview API of Kubernetes does for a valid token. It checks no signature,
// expiry or audience.
func tokenReview(w http.ResponseWriter, r *http.Request) {
	var review struct {
		Spec struct {
			Token     string
			Audiences []string
		}
	}
	var claims struct {
		Sub string
		Aud []string
		K8s struct{ ServiceAccount struct{ UID string } } `json:"kubernetes.io"`
	}
	err := json.NewDecoder(r.Body).Decode(&review)
	parts := strings.Split(review.Spec.Token, ".")
	if err != nil || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || len(parts) != 3 {
		http.Error(w, "a token review was expected", http.StatusBadRequest)
		return
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &claims) != nil {
		http.Error(w, "not a token", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"status": map[string]any{
			"authenticated": true, "audiences": claims.Aud,
			"user": map[string]any{"username": claims.Sub, "uid": claims.K8s.ServiceAccount.UID},
		},
	})
}

// podCmd reads a path as a Pod does, and prints the type of its Vault token: pod <namespace> <account> <role>
// <audience> <path>. It logs in with the token of a service account, and reads with the Vault token that it
// gets.
func podCmd(ts *testscript.TestScript, neg bool, args []string) {
	kind, err := worldOf(ts).asPod(serviceAccount{args[0], args[1]}, args[2], args[3], args[4])
	if neg == (err == nil) {
		ts.Fatalf("%v", err)
	}
	_, _ = fmt.Fprintln(ts.Stdout(), kind)
	_, _ = fmt.Fprintln(ts.Stderr(), err)
}

func (w *world) asPod(account serviceAccount, role, audience, path string) (kind string, err error) {
	token, err := account.token([]string{audience})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]string{"role": role, "jwt": token})
	if err != nil {
		return "", err
	}
	status, answer, err := w.call(http.MethodPut, "auth/kubernetes/login", string(body))
	if err != nil || status != http.StatusOK {
		return "", errors.Join(err, fmt.Errorf("logging in: HTTP %d, %s", status, answer))
	}
	var login struct {
		Auth struct {
			ClientToken string `json:"client_token"`
			TokenType   string `json:"token_type"`
		}
	}
	if err := json.Unmarshal(answer, &login); err != nil {
		return "", err
	}
	status, answer, err = w.callAs(login.Auth.ClientToken, http.MethodGet, path, "")
	w.record(path, string(answer))
	if err != nil || status != http.StatusOK {
		return "", errors.Join(err, fmt.Errorf("reading %s: HTTP %d, %s", path, status, answer))
	}
	return login.Auth.TokenType, nil
}
