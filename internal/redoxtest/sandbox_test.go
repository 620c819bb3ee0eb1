package redoxtest_test

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const clientID = "client-1"

func key(t *testing.T) *rsa.PrivateKey { return keyFile(t, "pkcs8.pem") }

func keyFile(t *testing.T, name string) *rsa.PrivateKey {
	t.Helper()
	raw, err := os.ReadFile("../keyring/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := keyring.Parse(string(raw), "", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	private, err := k.Private()
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func publicJWK(t *testing.T, k any, kid string) string {
	t.Helper()
	raw, err := jose.JSONWebKey{Key: k, KeyID: kid}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// start returns a sandbox that knows the test key, and the sandbox's log.
func start(t *testing.T, o redoxtest.Options) (*redoxtest.Sandbox, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	o.Log = log
	s, err := redoxtest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Register(clientID, []byte(`{"keys":[`+publicJWK(t, &key(t).PublicKey, "k")+`]}`)); err != nil {
		t.Fatal(err)
	}
	return s, log
}

// request is a token request. The function good returns a valid one, which tests then change.
type request struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
	form   url.Values
	kind   string // content type
}

func good(t *testing.T, s *redoxtest.Sandbox, now time.Time) *request {
	t.Helper()
	return &request{
		method: jwt.SigningMethodRS384,
		key:    key(t),
		header: map[string]any{"kid": "k"},
		claims: jwt.MapClaims{
			"iss": clientID, "sub": clientID, "aud": s.TokenURL(), "iat": now.Unix(), "exp": now.Unix() + 300,
			"jti": fmt.Sprint(now.UnixNano()),
		},
		form: url.Values{
			"grant_type":            {"client_credentials"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		},
		kind: "application/x-www-form-urlencoded",
	}
}

// build returns the HTTP request. It signs an assertion, unless the test has put one into
// the form.
func (r *request) build(t *testing.T, s *redoxtest.Sandbox) *http.Request {
	t.Helper()
	if _, given := r.form["client_assertion"]; !given {
		assertion := jwt.NewWithClaims(r.method, r.claims)
		for name, value := range r.header {
			assertion.Header[name] = value
		}
		signed, err := assertion.SignedString(r.key)
		if err != nil {
			t.Fatal(err)
		}
		r.form.Set("client_assertion", signed)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.TokenURL(), strings.NewReader(r.form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", r.kind)
	return req
}

func (r *request) send(t *testing.T, s *redoxtest.Sandbox) (status int, answer map[string]any) {
	t.Helper()
	return do(t, r.build(t, s))
}

func do(t *testing.T, req *http.Request) (status int, answer map[string]any) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(raw, &answer) // some answers are not JSON
	return resp.StatusCode, answer
}

func TestToken(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	s, log := start(t, redoxtest.Options{TokenTTL: time.Hour, Now: func() time.Time { return now }})
	s.SetTokenTTL(7 * time.Second)
	r := good(t, s, now)
	r.form.Set("scope", "a b")
	status, answer := r.send(t, s)
	token, _ := answer["access_token"].(string)
	if status != 200 || token == "" || answer["token_type"] != "Bearer" || answer["expires_in"] != 7.0 ||
		answer["scope"] != "a b" {
		t.Fatalf("HTTP %d %v", status, answer)
	}
	for _, path := range []string{"/fhir/R4/redox-fhir-sandbox/Development/Patient/_search", "/endpoint"} {
		for bearer, want := range map[string]int{token: 200, token + "x": 401, "": 401} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+bearer)
			if status, _ := do(t, req); status != want {
				t.Errorf("%s with %d characters of a token: HTTP %d, want %d", path, len(bearer), status, want)
			}
		}
	}
	if s.Unauthorized() != 4 {
		t.Errorf("%d requests were refused, want 4", s.Unauthorized())
	}
	if now = now.Add(7*time.Second - 1); !s.Live(token) || s.Left(token) != 1 {
		t.Errorf("the token died early, %v are left", s.Left(token))
	}
	if now = now.Add(1); s.Live(token) || s.Left(token) != 0 {
		t.Errorf("the token outlived its time, %v are left", s.Left(token))
	}
	if now = now.Add(-1); !s.Live(token) {
		t.Error("a token that had not ended is refused")
	}
	if s.RevokeTokens(); s.Live(token) || s.Left(token) != 0 {
		t.Error("a revoked token is accepted")
	}
	if leaks := redoxtest.Leaks(map[string]string{"log": log.String()}, s.Secrets()); len(leaks) > 0 {
		t.Errorf("the log shows %v", leaks)
	}
	if len(s.Secrets()) != 3 || len(s.Tokens()) != 1 || s.Clients()[0] != clientID {
		t.Errorf("%d secrets, %d tokens, clients %v", len(s.Secrets()), len(s.Tokens()), s.Clients())
	}
}

// noKey is the error_description for an unknown kid or client ID.
const noKey = "Public key not found, check client_id, kid and Redox dashboard settings"

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// badRequest changes a valid request, and says what the sandbox must answer.
type badRequest struct {
	spoil func(*request)
	want  string // error_description, or ok
	log   string // expected in the log, when the error_description is empty
}

func setClaim(name string, value any) func(*request) {
	return func(r *request) {
		if r.claims[name] = value; value == nil {
			delete(r.claims, name)
		}
	}
}

func setForm(name, value string) func(*request) {
	return func(r *request) {
		if r.form.Set(name, value); value == "" {
			r.form.Del(name)
		}
	}
}

// The sandbox refuses a bad form, and an assertion that cannot be read. It answers with the
// error_description that Redox documents, if there is one.
func TestRefusesForms(t *testing.T) {
	refuses(t, map[string]badRequest{
		"JSON": {func(r *request) { r.kind = "application/json" },
			"x-www-form-urlencoded content-type required", ""},
		"no content type": {func(r *request) { r.kind = "" }, "x-www-form-urlencoded content-type required", ""},
		"no grant type":   {setForm("grant_type", ""), "Missing grant_type parameter", ""},
		"wrong grant type": {setForm("grant_type", "password"),
			"The grant_type parameter should equal 'client_credentials'", ""},
		"no assertion type":    {setForm("client_assertion_type", ""), "Missing client assertion type", ""},
		"wrong assertion type": {setForm("client_assertion_type", "x"), "Invalid client assertion type", ""},
		"no assertion":         {func(r *request) { r.form["client_assertion"] = nil }, "Missing client assertion", ""},
		"not a JWT":            {setForm("client_assertion", "x"), "", "not a JWS"},
		"claims no JSON": {func(r *request) {
			enc := base64.RawURLEncoding.EncodeToString
			r.form.Set("client_assertion", enc([]byte(`{"alg":"RS384","kid":"k"}`))+"."+enc([]byte("x"))+"."+enc([]byte("x")))
		}, "", "not the JSON that is expected"},
	})
}

// The sandbox refuses a bad assertion. The error_description is empty if the algorithm, the
// signature or a claim other than iss is wrong. Clocks may differ by about ten seconds.
func TestRefusesAssertions(t *testing.T) {
	refuses(t, map[string]badRequest{
		"no kid":         {func(r *request) { delete(r.header, "kid") }, "JWT header kid property is required", ""},
		"unknown kid":    {func(r *request) { r.header["kid"] = "other" }, noKey, ""},
		"unknown client": {setClaim("iss", "other"), noKey, ""},
		"RS256":          {func(r *request) { r.method = jwt.SigningMethodRS256 }, "", "RS256, not RS384"},
		"PS384":          {func(r *request) { r.method = jwt.SigningMethodPS384 }, "", "PS384, not RS384"},
		"HS384": {func(r *request) { r.method, r.key = jwt.SigningMethodHS384, []byte("secret") }, "",
			"HS384, not RS384"},
		"another's key":  {func(r *request) { r.key = keyFile(t, "rsa3072.pem") }, "", "the signature does not fit"},
		"sub is not iss": {setClaim("sub", "other"), "", "sub is not iss"},
		"no sub":         {setClaim("sub", nil), "", "sub is not iss"},
		"wrong aud":      {setClaim("aud", "https://api.redoxengine.com/v2/auth/token"), "", "aud is not the token URL"},
		"no iat":         {setClaim("iat", nil), "", "iat or exp is missing"},
		"no exp":         {setClaim("exp", nil), "", "iat or exp is missing"},
		"iat 11 s ahead": {setClaim("iat", noon.Unix()+11), "", "iat is in the future"},
		"iat too old":    {setClaim("iat", noon.Unix()-311), "", "iat is not within the past 5 minutes"},
		"exp has passed": {func(r *request) { r.claims["iat"], r.claims["exp"] = noon.Unix()-100, noon.Unix()-10 },
			"", "exp has passed"},
		"lives 301 s": {setClaim("exp", noon.Unix()+301), "", "more than 5 minutes after iat"},
		"no jti":      {setClaim("jti", nil), "", "jti is missing"},
		"a huge form": {setForm("x", strings.Repeat("x", 1<<20)), "", "the form cannot be read"},
		"iat 10 s ahead": {func(r *request) { r.claims["iat"], r.claims["exp"] = noon.Unix()+10, noon.Unix()+310 }, "ok",
			""},
		"iat 309 s old": {func(r *request) { r.claims["iat"], r.claims["exp"] = noon.Unix()-309, noon.Unix()-9 }, "ok",
			""},
		"exp 9 s ago passes": {func(r *request) { r.claims["iat"], r.claims["exp"] = noon.Unix()-100, noon.Unix()-9 }, "ok",
			""},
	})
}

func refuses(t *testing.T, tests map[string]badRequest) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, log := start(t, redoxtest.Options{Now: func() time.Time { return noon }})
			r := good(t, s, noon)
			test.spoil(r)
			status, answer := r.send(t, s)
			if test.want == "ok" {
				if status != 200 {
					t.Errorf("HTTP %d %v", status, answer)
				}
				return
			}
			if status != 400 || answer["error"] != "invalid_request" || answer["error_description"] != test.want ||
				answer["error_uri"] == "" {
				t.Errorf("HTTP %d %v", status, answer)
			}
			if test.log == "" {
				test.log = test.want
			}
			if !strings.Contains(log.String(), test.log) {
				t.Errorf("logged %q, want %q", log, test.log)
			}
		})
	}
}

// Until a slow machine learns of a change, it knows the keys from before the change.
func TestLag(t *testing.T) {
	now := time.Now()
	s := redoxtest.New(redoxtest.Options{Now: func() time.Time { return now }})
	for _, kid := range []string{"old", "next"} {
		now = now.Add(time.Hour)
		if err := s.Register("c", []byte(publicJWK(t, &key(t).PublicKey, kid))); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	for lag, knows := range map[time.Duration]string{
		0: "next", time.Minute: "next", time.Minute + 1: "old", time.Hour + time.Minute + 1: "neither",
	} {
		for _, kid := range []string{"old", "next"} {
			if known := s.Knows("c", kid, lag); known != (kid == knows) {
				t.Errorf("after %v it knows %s: %v", lag, kid, known)
			}
		}
	}
}
