package redox

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const (
	simHost   = "api.redoxengine.com"
	elsewhere = "elsewhere.example" // issues a token to everybody
)

// simRedox is the Redox of a simulation. Its sandbox verifies requests. simRedox adds machines that learn of keys
// late, and moods: in a mood it answers most requests with an error.
type simRedox struct {
	s         *simulation
	sandbox   *redoxtest.Sandbox
	handler   http.Handler
	reason    string           // why the sandbox answered as it did
	lags      [3]time.Duration // how late each machine learns of keys
	lag       time.Duration    // of the machine that answers now
	mood      string           // what it answers instead, empty for nothing
	late      bool             // it cannot fetch JWK Sets
	unfetched bool             // a fault has kept it from fetching a JWK Set for the request that it answers now
	changes   map[string]int   // of each list, by people
	elsewhere int              // tokens that another host issued
}

// exchange is one request to Redox.
type exchange struct {
	id     string // client ID
	kid    string
	where  string // client ID, token URL and audience
	host   string
	lag    time.Duration // of the machine that answered
	knew   bool          // whether that machine knew the key
	stale  bool          // whether a fault kept Redox from fetching the JWK Set, so that it used the one before
	status int
	reason string
}

// outdated reports whether Redox did not know the key because it used a JWK Set that it fetched earlier.
func (x exchange) outdated() bool { return x.stale && !x.knew }

func newSimRedox(s *simulation) *simRedox {
	r := &simRedox{s: s, changes: map[string]int{}}
	r.calm()
	r.sandbox = redoxtest.New(redoxtest.Options{
		URL: "https://" + simHost, Now: s.trueNow, Log: r, Transport: fetcher{s}, Lag: func() time.Duration { return r.lag },
	})
	r.handler = r.sandbox.Handler()
	return r
}

// usualLag is the time after which the slowest machine learns of a change of keys, unless lagMore has made one
// slower.
const usualLag = 20 * time.Second

func (r *simRedox) calm() {
	r.lags = [...]time.Duration{0, 5 * time.Second, usualLag}
	r.mood, r.late = "", false
	if r.sandbox != nil {
		r.setQuirk("")
	}
}

func (r *simRedox) setQuirk(q redoxtest.Quirk) {
	r.s.laws.quirk = q
	r.sandbox.SetQuirk(q)
}

// Write gets the sandbox's log.
func (r *simRedox) Write(line []byte) (int, error) {
	r.reason = strings.TrimSpace(string(line))
	return len(line), nil
}

// readExchange returns what a request to Redox is about, and the jti of its assertion, empty for none.
func readExchange(req *http.Request, body []byte) (x *exchange, jti string) {
	x = &exchange{host: req.URL.Host}
	if form, err := url.ParseQuery(string(body)); err == nil && form.Get("client_assertion") != "" {
		var aud string
		x.id, x.kid, aud, jti = claimsOf(form.Get("client_assertion"))
		x.where = x.id + " " + req.URL.String() + " " + aud
	} else if at := strings.LastIndex(req.URL.Path, "/apikeys/"); at >= 0 {
		x.id = req.URL.Path[at+len("/apikeys/"):]
	}
	return x, jti
}

// begin lets the laws judge a request that leaves the engine, and returns what the request is about.
func (r *simRedox) begin(p *process, req *http.Request, body []byte) *exchange {
	x, jti := readExchange(req, body)
	r.s.sends(r.s.op(), p.node, x, jti)
	return x
}

// claimsOf reads an assertion without verifying it, because the sandbox verifies it.
func claimsOf(assertion string) (iss, kid, aud, jti string) {
	var header struct{ Kid string }
	var claims struct{ Iss, Aud, Jti string }
	parts := strings.Split(assertion, ".")
	for i, into := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[min(i, len(parts)-1)])
		if err == nil {
			_ = json.Unmarshal(raw, into) // what is missing is empty
		}
	}
	return claims.Iss, header.Kid, claims.Aud, claims.Jti
}

// serve answers a request.
func (r *simRedox) serve(p *process, x *exchange, req *http.Request, body []byte) *http.Response {
	s := r.s
	if r.mood != "" && !s.oneIn("", "well", 5) {
		s.op().faults++
		switch r.mood {
		case "limits":
			return answerOf(req, http.StatusTooManyRequests, "")
		case "refuses":
			return answerOf(req, http.StatusBadRequest, `{"error":"invalid_request","error_description":""}`)
		case "knows nothing":
			return answerOf(req, http.StatusBadRequest,
				`{"error":"invalid_request","error_description":"Public key not found, check client_id"}`)
		case "is a firewall":
			return answerOf(req, http.StatusForbidden, "<html>")
		}
		return answerOf(req, http.StatusServiceUnavailable, "")
	}
	if x.host != simHost {
		x.status = http.StatusOK
		if x.kid != "" {
			r.elsewhere++
			token := fmt.Sprint("elsewhere-", r.elsewhere)
			s.answered(s.op(), x, token)
			return answerOf(req, http.StatusOK, `{"access_token":"`+token+`","token_type":"Bearer","expires_in":300}`)
		}
		return answerOf(req, http.StatusNotFound, "{}")
	}
	r.lag = r.lags[s.below(x.id, "machine", len(r.lags))]
	r.unfetched = false
	before := r.list(x.id)
	asked := req.Clone(req.Context())
	asked.Body, asked.RequestURI = answerOf(req, 0, string(body)).Body, req.URL.RequestURI()
	recorder := httptest.NewRecorder()
	r.handler.ServeHTTP(recorder, asked)
	x.status, x.reason, x.lag, x.stale = recorder.Code, r.reason, r.lag, r.unfetched
	x.knew = r.sandbox.Knows(x.id, x.kid, r.lag) // of a JWKS URL: with what it fetched just now
	switch {
	case x.kid != "":
		var answer struct {
			Token string `json:"access_token"`
		}
		_ = json.Unmarshal(recorder.Body.Bytes(), &answer) // an error has none
		s.answered(s.op(), x, answer.Token)
	case x.status != http.StatusOK:
	case req.Method == http.MethodGet && !strings.Contains(recorder.Body.String(), `"jwksURL":null`):
		// the API key has a JWKS URL: Redox ignores the list, and so does the engine
	case req.Method == http.MethodGet:
		s.listRead(s.op(), x.id, before, r.changes[x.id])
	case req.Method == http.MethodPatch:
		s.listWritten(s.op(), x.id, before, r.list(x.id), r.changes[x.id])
	}
	return recorder.Result()
}

// listedKey is a key in Redox's list.
type listedKey struct {
	ID string `json:"kid"`
	N  string `json:"n"`
}

func (r *simRedox) list(id string) []listedKey { return listOf(r.sandbox, id) }

func listOf(sandbox *redoxtest.Sandbox, id string) []listedKey {
	var set struct{ Keys []listedKey }
	_ = json.Unmarshal([]byte(sandbox.JWKS(id)), &set) // the sandbox made it
	return set.Keys
}

// edit replaces Redox's list of a client's keys, as a person may do in the dashboard.
func (r *simRedox) edit(c *simClient, list []json.RawMessage) {
	raw, err := json.Marshal(map[string]any{"keys": append([]json.RawMessage{}, list...)})
	if err == nil {
		err = r.sandbox.Register(c.id, raw)
	}
	if err != nil {
		r.s.violated("an edit of Redox's list: %v", err)
	}
	r.changes[c.id]++
	r.s.noteTaken(c)
}

// noteTaken notes until when Redox may know another key under the ID of a key in the ring. While Redox lists such
// a key, it notes a time in a hundred years. Once Redox lists none, it notes the time in four hours: by then even
// the slowest machine knows the new list.
func (s *simulation) noteTaken(c *simClient) {
	lc, never := s.laws.clients[c.name], s.now.AddDate(100, 0, 0)
	switch taken := s.takenID(c); {
	case taken:
		lc.taken = never
	case lc.taken.After(s.now.AddDate(1, 0, 0)):
		lc.taken = s.now.Add(4 * time.Hour)
	}
}

// takenID reports whether Redox lists another key under the ID of a key in the ring.
func (s *simulation) takenID(c *simClient) bool {
	lc := s.laws.clients[c.name]
	return slices.ContainsFunc(s.redox.list(c.id), func(k listedKey) bool {
		own := lc.ring.Get(keyring.ID(k.ID))
		return own != nil && own.N != k.N
	})
}

// raw returns Redox's list of a client's keys, each key as JSON.
func (r *simRedox) raw(c *simClient) []json.RawMessage {
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal([]byte(r.sandbox.JWKS(c.id)), &set); err != nil {
		r.s.violated("Redox's list of %s: %v", c.id, err)
	}
	return set.Keys
}

// fetcher fetches the JWK Set of a client from Vault, for Redox.
type fetcher struct{ s *simulation }

func (f fetcher) RoundTrip(req *http.Request) (*http.Response, error) {
	s := f.s
	if s.redox.late {
		return nil, errors.New("Redox cannot reach Vault")
	}
	path := strings.TrimPrefix(req.URL.Path, "/v1/redox/")
	n := s.nodes[s.below("", "fetched from", 2)]
	client := s.clientOf(path)
	got := s.request("fetch", n, logical.ReadOperation, client, path, nil)
	if got.status != http.StatusOK {
		s.redox.unfetched = got.faults > 0
		return answerOf(req, max(got.status, 500), ""), nil
	}
	body, _ := got.resp.Data[logical.HTTPRawBody].([]byte)
	answer := answerOf(req, http.StatusOK, string(body))
	cache, _ := got.resp.Data[logical.HTTPCacheControlHeader].(string)
	answer.Header.Set("Cache-Control", cache)
	return answer, nil
}

// clientOf returns the client that a path belongs to: the default one if the path names no other of
// the simulation.
func (s *simulation) clientOf(path string) *simClient {
	for _, c := range s.clients {
		if c.prefix() != "" && strings.HasPrefix(path, c.prefix()) {
			return c
		}
	}
	return s.named(defaultClient)
}

func (s *simulation) named(name string) *simClient {
	for _, c := range s.clients {
		if c.name == name {
			return c
		}
	}
	return nil
}
