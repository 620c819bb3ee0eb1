package redoxtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// jwksURL is a JWKS URL, and the set that was last fetched from it.
type jwksURL struct {
	url     string
	expires time.Time // no fetch before this, not even for an unknown kid
	keys    map[string]jose.JSONWebKey
}

// fetched returns the keys at the JWKS URL of an API key. It fetches them if none were fetched
// yet, or if they have expired. If that fails, it returns those that were fetched last. hasURL
// is false if the API key has no JWKS URL or does not exist.
func (s *Sandbox) fetched(clientID string) (keys map[string]jose.JSONWebKey, hasURL bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.apiKeys[clientID]
	if k == nil || k.url == nil {
		return nil, false
	}
	if now.Before(k.url.expires) {
		return k.url.keys, true
	}
	// The lock is held during the fetch, so that two requests at once do not both fetch.
	keys, maxAge, err := s.fetch(k.url.url)
	if err != nil {
		s.logLocked("fetching the JWKS of %s failed: %v", clientID, err)
		return k.url.keys, true
	}
	s.logLocked("fetched %d keys of %s, for %v", len(keys), clientID, maxAge)
	k.url.keys, k.url.expires = keys, now.Add(maxAge)
	return keys, true
}

var maxAgeDirective = regexp.MustCompile(`max-age=(\d+)`)

func (s *Sandbox) fetch(url string) (keys map[string]jose.JSONWebKey, maxAge time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := (&http.Client{Transport: s.options.Transport}).Do(req)
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
	_, keys, err = parseKeys(raw)
	return keys, maxAge, err
}
