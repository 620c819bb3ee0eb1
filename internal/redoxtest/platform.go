package redoxtest

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// environmentID is the ID of the sandbox's only environment. User-level API keys belong to no
// environment.
const environmentID = "sandbox-environment"

// Quirk names an unexpected result of an update of an API key. Redox does not document whether
// such results happen.
type Quirk string

// The quirks.
const (
	QuirkForgets Quirk = "forgets" // answers 200 and stores nothing
	QuirkMerges  Quirk = "merges"  // adds keys, and never removes one
)

// SetQuirk gives the quirk q to each update through the Platform API from now on. The empty
// quirk ends that.
func (s *Sandbox) SetQuirk(q Quirk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quirk = q
}

func (s *Sandbox) platformRoutes(mux *http.ServeMux) {
	const one, all = "/platform/v1/apikeys/{id}", "/platform/v1/environments/{environment}/apikeys"
	mux.Handle("GET "+all, s.requireManager(s.listAPIKeys))
	mux.Handle("POST "+all, s.requireManager(s.createAPIKey))
	mux.Handle("GET "+one, s.requireManager(s.readAPIKey))
	mux.Handle("PATCH "+one, s.requireManager(s.updateAPIKey))
	mux.Handle("DELETE "+one, s.requireManager(s.deleteAPIKey))
}

// requireManager returns a handler that passes to next only requests with a valid token of a
// user-level API key whose user may manage OAuth API keys. It also serves the faults of the
// Platform API.
func (s *Sandbox) requireManager(next http.HandlerFunc) http.Handler {
	return s.authorized(func(w http.ResponseWriter, r *http.Request) {
		if s.serveFault(platformAPI, w, r) {
			return
		}
		caller, _ := s.session(bearer(r))
		s.mu.Lock()
		k := s.apiKeys[caller.clientID]
		may := k != nil && k.user && k.manage
		s.mu.Unlock()
		if !may {
			s.platformError(w, r, http.StatusForbidden, "not a user who may manage API keys")
			return
		}
		next(w, r)
	})
}

// platformError sends an error in a format of our own, because Redox documents none.
func (s *Sandbox) platformError(w http.ResponseWriter, r *http.Request, status int, reason string) {
	s.answer(w, r, status, map[string]any{"errorDetail": reason}, reason)
}

func (s *Sandbox) payload(w http.ResponseWriter, r *http.Request, payload map[string]any, reason string) {
	s.answer(w, r, http.StatusOK, map[string]any{"meta": map[string]any{"version": "1.0.0"}, "payload": payload}, reason)
}

// show returns the API key as the Platform API shows it.
func (k *apiKey) show(id string) map[string]any {
	shown := map[string]any{
		"id": id, "name": k.name, "jwksURL": nil, "jwkSet": k.jwkSet(),
		"environment": map[string]any{"id": environmentID, "environmentFlag": "Development"},
	}
	if k.url != nil {
		shown["jwksURL"] = k.url.url
	}
	return shown
}

// environmentKeyLocked returns the OAuth API key with that ID. It returns nil if there is none,
// or if the Platform API does not show it: a user-level key, or one of another organization.
func (s *Sandbox) environmentKeyLocked(id string) *apiKey {
	if k := s.apiKeys[id]; k != nil && !k.user && !k.hidden {
		return k
	}
	return nil
}

func (s *Sandbox) listAPIKeys(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("environment") != environmentID {
		s.platformError(w, r, http.StatusNotFound, "no such environment")
		return
	}
	all := []any{}
	for _, id := range s.Clients() {
		s.mu.Lock()
		if k := s.environmentKeyLocked(id); k != nil {
			all = append(all, k.show(id))
		}
		s.mu.Unlock()
	}
	s.payload(w, r, map[string]any{"apikeys": all}, "API keys listed")
}

// change is the body of an update or a creation. An update does not change fields that are
// absent.
type change struct {
	Name    *string         `json:"name"`
	JWKSURL *string         `json:"jwksURL"`
	JWKSet  json.RawMessage `json:"jwkSet"`

	set  []json.RawMessage
	keys map[string]jose.JSONWebKey
}

func readChange(r *http.Request) (c change, err error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err == nil && c.JWKSet != nil {
		c.set, c.keys, err = parseKeys(c.JWKSet)
	}
	return c, err
}

func (k *apiKey) change(c change, q Quirk, now time.Time) {
	if q == QuirkForgets {
		return
	}
	if c.Name != nil {
		k.name = *c.Name
	}
	if c.JWKSURL != nil {
		k.setURL(*c.JWKSURL)
	}
	if c.JWKSet == nil {
		return
	}
	if q == QuirkMerges {
		for id, old := range k.keys {
			if _, given := c.keys[id]; !given {
				raw, err := old.MarshalJSON()
				if err != nil {
					continue // it was read from JSON
				}
				c.set, c.keys[id] = append(c.set, raw), old
			}
		}
	}
	k.save(c.set, c.keys, now)
}

func (s *Sandbox) createAPIKey(w http.ResponseWriter, r *http.Request) {
	c, err := readChange(r)
	switch {
	case r.PathValue("environment") != environmentID:
		s.platformError(w, r, http.StatusNotFound, "no such environment")
		return
	case err != nil || c.Name == nil || *c.Name == "":
		s.platformError(w, r, http.StatusBadRequest, "the body cannot be read, or has no name")
		return
	}
	id := rand.Text()
	s.mu.Lock()
	k := s.apiKeyLocked(id)
	k.change(c, "", s.nowLocked())
	shown := k.show(id)
	s.mu.Unlock()
	s.payload(w, r, map[string]any{"apikey": shown}, "API key created")
}

func (s *Sandbox) readAPIKey(w http.ResponseWriter, r *http.Request) { s.withAPIKey(w, r, nil) }

func (s *Sandbox) updateAPIKey(w http.ResponseWriter, r *http.Request) {
	c, err := readChange(r)
	if err != nil {
		s.platformError(w, r, http.StatusBadRequest, "the body cannot be read: "+err.Error())
		return
	}
	s.withAPIKey(w, r, func(k *apiKey) { k.change(c, s.quirk, s.nowLocked()) })
}

// withAPIKey calls do, unless it is nil, with the API key that the path names, while it holds
// s.mu. It answers with that API key, or with 404 if environmentKeyLocked returns nil.
func (s *Sandbox) withAPIKey(w http.ResponseWriter, r *http.Request, do func(*apiKey)) {
	id := r.PathValue("id")
	s.mu.Lock()
	k := s.environmentKeyLocked(id)
	var shown map[string]any
	if k != nil {
		if do != nil {
			do(k)
		}
		shown = k.show(id)
	}
	s.mu.Unlock()
	if k == nil {
		s.platformError(w, r, http.StatusNotFound, "no such API key")
		return
	}
	s.payload(w, r, map[string]any{"apikey": shown}, "API key shown")
}

func (s *Sandbox) deleteAPIKey(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	s.mu.Lock()
	k := s.environmentKeyLocked(id)
	if k != nil {
		delete(s.apiKeys, id)
	}
	s.mu.Unlock()
	if k == nil {
		s.platformError(w, r, http.StatusNotFound, "no such API key")
		return
	}
	s.payload(w, r, map[string]any{"message": "API key deleted"}, "API key deleted")
}
