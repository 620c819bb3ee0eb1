package redoxtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// apiKey is an API key at Redox, with its public keys.
type apiKey struct {
	name   string
	set    []json.RawMessage          // the JWK Set, as it was given
	keys   map[string]jose.JSONWebKey // the keys of set, by kid
	before []version                  // what the last changes replaced, the newest last
	url    *jwksURL                   // has precedence over set
	user   bool                       // a user-level key, which the Platform API asks for
	manage bool                       // whether its user may manage OAuth API keys
	hidden bool                       // whether it belongs to another organization
}

// version holds the public keys that an API key had until some time.
type version struct {
	keys  map[string]jose.JSONWebKey
	until time.Time
}

// maxVersions is how many replaced versions of its public keys an API key keeps.
const maxVersions = 32

// apiKeyLocked returns the API key clientID, and creates it if it does not exist.
func (s *Sandbox) apiKeyLocked(clientID string) *apiKey {
	k := s.apiKeys[clientID]
	if k == nil {
		k = &apiKey{name: clientID}
		s.apiKeys[clientID] = k
	}
	return k
}

// Register replaces the public keys of the API key clientID, as pasting into
// Redox's dashboard does. It accepts a JWK Set or a single JWK. It rejects private
// keys, keys other than RSA, and keys without a kid.
func (s *Sandbox) Register(clientID string, jwks []byte) error {
	set, keys, err := parseKeys(jwks)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiKeyLocked(clientID).save(set, keys, s.nowLocked())
	return nil
}

func (k *apiKey) save(set []json.RawMessage, keys map[string]jose.JSONWebKey, now time.Time) {
	if len(k.before) == maxVersions {
		k.before = slices.Delete(k.before, 0, 1)
	}
	k.before = append(k.before, version{k.keys, now})
	k.set, k.keys = set, keys
}

// known returns the saved keys that a machine knows at the time now, if it learns of each
// change only after lag.
func (k *apiKey) known(now time.Time, lag time.Duration) map[string]jose.JSONWebKey {
	for _, old := range k.before {
		if lag > 0 && old.until.After(now.Add(-lag)) {
			return old.keys
		}
	}
	return k.keys
}

// RegisterURL sets the JWKS URL of the API key clientID, as Redox's dashboard does; the empty
// URL removes it. As at Redox, the URL has precedence over pasted keys. The set is fetched when
// it is needed, and used without another fetch as long as its Cache-Control allows. Redox does
// not document how it fetches; SMART App Launch 2 requires servers to obey Cache-Control.
func (s *Sandbox) RegisterURL(clientID, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiKeyLocked(clientID).setURL(url)
}

func (k *apiKey) setURL(url string) {
	if k.url = nil; url != "" {
		k.url = &jwksURL{url: url}
	}
}

// RegisterUser makes clientID a user-level API key, as the user menu of the
// dashboard does. mayManage says whether its user may manage the organization's
// OAuth API keys. Register sets its public keys.
func (s *Sandbox) RegisterUser(clientID string, mayManage bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.apiKeyLocked(clientID)
	k.user, k.manage = true, mayManage
}

// Hide sets whether the API key clientID belongs to another organization. If it does, the
// Platform API does not show it.
func (s *Sandbox) Hide(clientID string, hidden bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiKeyLocked(clientID).hidden = hidden
}

// JWKS returns the JWK Set that was saved for the API key clientID, as the dashboard shows it.
func (s *Sandbox) JWKS(clientID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(s.apiKeyLocked(clientID).jwkSet())
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// jwkSet returns the JWK Set for the JSON encoder. Its member "keys" is an array, never null.
func (k *apiKey) jwkSet() map[string]any {
	return map[string]any{"keys": append([]json.RawMessage{}, k.set...)}
}

// Clients returns the client IDs of all API keys, also of those without public keys.
func (s *Sandbox) Clients() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.apiKeys))
}

// SetStale sets whether every second lookup of saved keys, beginning with the next, finds the
// keys from before their last change: Redox consists of many machines, which may learn of it
// late.
func (s *Sandbox) SetStale(stale bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale, s.requests = stale, 0
}

// lookup returns the public key of clientID with that kid, if the machine that answers the
// token request knows it.
func (s *Sandbox) lookup(clientID, kid string) (key jose.JSONWebKey, known bool) {
	keys, hasURL := s.fetched(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if hasURL {
		key, known = keys[kid]
		return key, known
	}
	s.requests++
	k := s.apiKeys[clientID]
	if k == nil {
		return key, false
	}
	keys = k.known(s.nowLocked(), s.options.Lag())
	if s.stale && s.requests%2 == 1 && len(k.before) > 0 {
		keys = k.before[len(k.before)-1].keys
	}
	key, known = keys[kid]
	return key, known
}

// Knows reports whether a machine that learns of changes after lag knows the key kid of the API
// key clientID. If the API key has a JWKS URL, lag does not matter: the set that was fetched
// last counts.
func (s *Sandbox) Knows(clientID, kid string, lag time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.apiKeys[clientID]
	if k == nil {
		return false
	}
	keys := k.known(s.nowLocked(), lag)
	if k.url != nil {
		keys = k.url.keys
	}
	_, known := keys[kid]
	return known
}

// parseKeys reads a JWK Set or a single JWK of public RSA keys that have a kid.
func parseKeys(jwks []byte) (set []json.RawMessage, keys map[string]jose.JSONWebKey, err error) {
	var probe struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &probe); err != nil {
		return nil, nil, fmt.Errorf("not JSON: %w", err)
	}
	if probe.Keys == nil {
		probe.Keys = []json.RawMessage{jwks}
	}
	keys = map[string]jose.JSONWebKey{}
	for _, raw := range probe.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err != nil {
			return nil, nil, fmt.Errorf("not a JWK or JWK Set: %w", err)
		}
		switch {
		case !k.IsPublic():
			return nil, nil, errors.New("a private key: only the public half belongs here")
		case !isRSA(k):
			return nil, nil, fmt.Errorf("key %q is not an RSA key", k.KeyID)
		case k.KeyID == "":
			return nil, nil, errors.New("a key without kid")
		}
		keys[k.KeyID] = k
	}
	return probe.Keys, keys, nil
}
