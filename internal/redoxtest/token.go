package redoxtest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"maps"
	"mime"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The limits of an assertion's times. Redox documents maxAge and maxSkew; maxLife is from SMART
// App Launch.
const (
	maxAge  = 5 * time.Minute  // iat must be within the past
	maxSkew = 10 * time.Second // allowed between the clocks
	maxLife = 5 * time.Minute  // exp after iat
)

const errorURI = "https://docs.redoxengine.com/permalink/7sEi7MTFssZ1JuHpUYLeYJ"

// refused is an error response. description is the documented error_description,
// which is often empty. reason is for the log, and never empty.
type refused struct{ description, reason string }

func (r *refused) Error() string { return r.reason }

func documented(description string) error { return &refused{description, description} }

// blank returns a refusal without a description. Redox answers so when a claim has a wrong
// value, for example.
func blank(reason string) error { return &refused{"", reason} }

func (s *Sandbox) token(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.userAgent = r.UserAgent()
	s.mu.Unlock()
	if s.serveFault(tokenEndpoint, w, r) {
		return
	}
	clientID, err := s.verify(r)
	if err != nil {
		description := ""
		var no *refused
		if errors.As(err, &no) {
			description = no.description
		}
		s.refuse(w, r, description, err.Error())
		return
	}
	token, life := s.issue(clientID)
	answer := map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(life / time.Second)}
	if scope := r.PostForm.Get("scope"); scope != "" {
		answer["scope"] = scope
	}
	s.answer(w, r, http.StatusOK, answer, "token issued")
}

// UserAgent returns the User-Agent header of the last token request.
func (s *Sandbox) UserAgent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.userAgent
}

func (s *Sandbox) refuse(w http.ResponseWriter, r *http.Request, description, reason string) {
	s.answer(w, r, http.StatusBadRequest, map[string]any{
		"error": "invalid_request", "error_description": description, "error_uri": errorURI,
	}, reason)
}

// answer logs the reason, and then sends v as JSON.
func (s *Sandbox) answer(w http.ResponseWriter, r *http.Request, status int, v any, reason string) {
	s.log("%s %s %d %s", r.Method, r.URL.Path, status, reason)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have closed the connection
}

// issue returns a new token for a client, and its life. clientID is empty if a fault is the
// answer: then nobody has checked which client asked.
func (s *Sandbox) issue(clientID string) (token string, life time.Duration) {
	token = "sandbox-" + rand.Text() + rand.Text()
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[token] = session{clientID, now.Add(s.tokenTTL)}
	s.tokens = append(s.tokens, token)
	return token, s.tokenTTL
}

// verify checks a token request. It returns the client ID.
func (s *Sandbox) verify(r *http.Request) (clientID string, err error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil ||
		kind != "application/x-www-form-urlencoded" {
		return "", documented("x-www-form-urlencoded content-type required")
	}
	r.Body = http.MaxBytesReader(nil, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		return "", blank("the form cannot be read")
	}
	form := r.PostForm
	switch {
	case form.Get("grant_type") == "":
		return "", documented("Missing grant_type parameter")
	case form.Get("grant_type") != "client_credentials":
		return "", documented("The grant_type parameter should equal 'client_credentials'")
	case form.Get("client_assertion_type") == "":
		return "", documented("Missing client assertion type")
	case form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return "", documented("Invalid client assertion type")
	case form.Get("client_assertion") == "":
		return "", documented("Missing client assertion")
	}
	s.mu.Lock()
	s.assertions = append(s.assertions, form.Get("client_assertion"))
	s.mu.Unlock()
	return s.verifyAssertion(form.Get("client_assertion"))
}

// claims are the claims of an assertion. Pointers tell a missing value from zero.
type claims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	ID       string `json:"jti"`
	IssuedAt *int64 `json:"iat"`
	Expires  *int64 `json:"exp"`
}

func (s *Sandbox) verifyAssertion(compact string) (clientID string, err error) {
	// Algorithms other than RS384 are parsed too, so that the error is the one that Redox
	// returns.
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512,
		jose.HS256, jose.HS384, jose.HS512,
	})
	if err != nil {
		return "", blank("the assertion is not a JWS")
	}
	header := jws.Signatures[0].Protected
	if header.KeyID == "" {
		return "", documented("JWT header kid property is required")
	}
	var c claims
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &c); err != nil {
		return "", blank("the claims are not the JSON that is expected")
	}
	key, known := s.lookup(c.Issuer, header.KeyID)
	if !known {
		return "", documented("Public key not found, check client_id, kid and Redox dashboard settings")
	}
	if header.Algorithm != string(jose.RS384) {
		return "", blank("alg is " + header.Algorithm + ", not RS384")
	}
	if _, err := jws.Verify(key); err != nil {
		return "", blank("the signature does not fit the registered key")
	}
	return c.Issuer, s.verifyClaims(c)
}

func (s *Sandbox) verifyClaims(c claims) error {
	now := s.now()
	switch {
	case c.Subject != c.Issuer:
		return blank("sub is not iss")
	case c.Audience != s.TokenURL():
		return blank("aud is not the token URL")
	case c.IssuedAt == nil || c.Expires == nil:
		return blank("iat or exp is missing")
	}
	iat, exp := time.Unix(*c.IssuedAt, 0), time.Unix(*c.Expires, 0)
	switch {
	case iat.After(now.Add(maxSkew)):
		return blank("iat is in the future")
	case iat.Before(now.Add(-maxAge - maxSkew)):
		return blank("iat is not within the past 5 minutes")
	case !exp.Add(maxSkew).After(now):
		return blank("exp has passed")
	case exp.Sub(iat) > maxLife:
		return blank("exp is more than 5 minutes after iat")
	case c.ID == "":
		return blank("jti is missing")
	}
	return s.remember(c.Issuer+"\x00"+c.ID, now)
}

// remember returns an error if id, an iss and jti, was used before. It forgets old IDs, but
// looks for them at most every ten seconds, because there may be many.
func (s *Sandbox) remember(id string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept).Abs() > 10*time.Second {
		maps.DeleteFunc(s.seen, func(_ string, until time.Time) bool { return now.After(until) })
		s.swept = now
	}
	if _, replayed := s.seen[id]; replayed {
		return blank("jti was seen before")
	}
	s.seen[id] = now.Add(maxAge + maxLife + 2*maxSkew)
	return nil
}

func isRSA(k jose.JSONWebKey) bool {
	_, is := k.Key.(*rsa.PublicKey)
	return is
}
