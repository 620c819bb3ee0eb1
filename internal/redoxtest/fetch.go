package redoxtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// jwksURL is where an API key's public keys are fetched, and what was there.
type jwksURL struct {
	url     string
	expires time.Time // nothing is fetched before, not even for an unknown kid
	keys    map[string]jose.JSONWebKey
}

// RegisterURL gives the API key clientID a JWKS URL, as the dashboard's other
// field does. As at Redox, it goes before any pasted keys. The set is fetched
// when it is needed, and kept as long as its Cache-Control allows: of how
// Redox does it nothing is known, so this is what SMART App Launch 2 demands.
func (s *Sandbox) RegisterURL(clientID, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.urls[clientID] = &jwksURL{url: url}
}

// fetched returns the keys of an API key that has a JWKS URL.
func (s *Sandbox) fetched(clientID string) (keys map[string]jose.JSONWebKey, hasURL bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.urls[clientID]
	if u == nil {
		return nil, false
	}
	if now.Before(u.expires) {
		return u.keys, true
	}
	// Under the lock, so that each set is fetched once; a sandbox can wait.
	keys, maxAge, err := fetch(u.url)
	if err != nil {
		s.logLocked("fetching the JWKS of %s failed: %v", clientID, err)
		return u.keys, true
	}
	s.logLocked("fetched %d keys of %s, for %v", len(keys), clientID, maxAge)
	u.keys, u.expires = keys, now.Add(maxAge)
	return keys, true
}

var maxAgeDirective = regexp.MustCompile(`max-age=(\d+)`)

func fetch(url string) (keys map[string]jose.JSONWebKey, maxAge time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	if directive := maxAgeDirective.FindStringSubmatch(resp.Header.Get("Cache-Control")); directive != nil {
		seconds, err := strconv.Atoi(directive[1])
		if err != nil {
			return nil, 0, err
		}
		maxAge = time.Duration(seconds) * time.Second
	}
	keys, err = parseKeys(raw)
	return keys, maxAge, err
}

// parseKeys reads a JWK Set or a single JWK of public RSA keys that have a kid.
func parseKeys(jwks []byte) (map[string]jose.JSONWebKey, error) {
	var set jose.JSONWebKeySet
	var probe struct {
		Keys json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &probe); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if probe.Keys == nil {
		jwks = []byte(`{"keys":[` + string(jwks) + `]}`)
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("not a JWK or JWK Set: %w", err)
	}
	keys := map[string]jose.JSONWebKey{}
	for _, k := range set.Keys {
		switch {
		case !k.IsPublic():
			return nil, errors.New("a private key: only the public half belongs here")
		case !isRSA(k):
			return nil, fmt.Errorf("key %q is not an RSA key", k.KeyID)
		case k.KeyID == "":
			return nil, errors.New("a key without kid")
		}
		keys[k.KeyID] = k
	}
	return keys, nil
}
