package redoxapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Platform makes requests to the part "OAuth API keys" of Redox's Platform API, with the token of a
// user-level API key.
type Platform struct {
	client *Client
	base   string // without a trailing slash
	token  string // sent only to base
}

// Platform returns the Platform API at the host of tokenURL, where token was issued.
func (c *Client) Platform(tokenURL, token string) (*Platform, error) {
	u, err := url.Parse(tokenURL)
	if err != nil {
		return nil, errors.New("the stored token URL cannot be read")
	}
	return &Platform{client: c, base: u.Scheme + "://" + u.Host + "/platform/v1", token: token}, nil
}

// APIKey is the part of an OAuth API key that holds its public keys.
type APIKey struct {
	JWKSURL string            // if it is not empty, Redox uses it and ignores Keys
	Keys    []json.RawMessage // exactly as Redox sent them
}

// Read returns the API key with that client ID. Its error is a [*PlatformError] or an
// [*UpstreamError].
func (p *Platform) Read(ctx context.Context, clientID string) (*APIKey, error) {
	raw, err := p.send(ctx, http.MethodGet, clientID, nil)
	if err != nil {
		return nil, err
	}
	return parseAPIKey(raw, clientID)
}

// Update sends keys as the public keys of the API key with that client ID. Its error is a
// [*PlatformError] or an [*UpstreamError]. Redox does not document whether keys replace the old
// ones or are added to them, so the caller must read the API key again.
func (p *Platform) Update(ctx context.Context, clientID string, keys []json.RawMessage) error {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // keys of others must not change
	if err := encoder.Encode(map[string]any{"jwkSet": map[string]any{"keys": keys}}); err != nil {
		return &UpstreamError{Kind: Unusable, What: "the Platform API's list is not JSON"}
	}
	_, err := p.send(ctx, http.MethodPatch, clientID, body.Bytes())
	return err
}

func (p *Platform) send(ctx context.Context, method, clientID string, body []byte) ([]byte, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+"/apikeys/"+url.PathEscape(clientID), content)
	if err != nil {
		return nil, &UpstreamError{Kind: Unreachable, What: "the Platform API cannot be requested"}
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	got, err := p.client.send(req)
	switch {
	case err != nil:
		return nil, err
	case bytes.Contains(got.body, []byte(p.token)):
		return nil, &UpstreamError{Kind: Unusable, What: "the Platform API repeats the access token in its answer"}
	case got.status == http.StatusTooManyRequests:
		return nil, &UpstreamError{Kind: RateLimited, What: "the Platform API answered HTTP 429"}
	case got.status >= 500:
		return nil, &UpstreamError{Kind: Unavailable, What: fmt.Sprintf("the Platform API answered HTTP %d", got.status)}
	case got.status >= 300:
		return nil, &PlatformError{Status: got.status, ClientID: clientID, JSON: json.Valid(got.body)}
	}
	return got.body, nil
}

// parseAPIKey reads the answer to Read. It ignores unknown members: Redox may add some between
// minor versions.
func parseAPIKey(raw []byte, clientID string) (*APIKey, error) {
	var answer struct {
		Payload struct {
			APIKey *struct {
				ID      string `json:"id"`
				JWKSURL string `json:"jwksURL"`
				JWKSet  struct {
					Keys *[]json.RawMessage `json:"keys"`
				} `json:"jwkSet"`
			} `json:"apikey"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Payload.APIKey == nil {
		return nil, &UpstreamError{Kind: Unusable, What: "the Platform API's answer is not the JSON of an API key"}
	}
	k := answer.Payload.APIKey
	if k.ID != clientID {
		return nil, &UpstreamError{Kind: Unusable, What: "the Platform API sent an API key without this client ID"}
	}
	found := &APIKey{JWKSURL: k.JWKSURL}
	switch {
	case k.JWKSet.Keys != nil:
		found.Keys = *k.JWKSet.Keys
	case k.JWKSURL == "":
		// An update may replace the list, and then the keys of others would be lost.
		return nil, &UpstreamError{Kind: Unusable, What: "the Platform API does not show the API key's jwkSet, so " +
			"the engine cannot tell which keys it has"}
	}
	return found, nil
}

// PlatformError is a response of the Platform API with a status from 300 to 499, except
// 429. The format of such a response is not documented, so its text is not shown.
type PlatformError struct {
	Status   int    // HTTP status
	ClientID string // of the API key in the request
	JSON     bool   // false: possibly another server than Redox answered
}

func (e *PlatformError) Error() string {
	text := fmt.Sprintf("the Platform API answered HTTP %d", e.Status)
	switch {
	case e.Status < 400:
		text += ", a redirect, which is never followed with credentials"
	case !e.JSON:
		text += " and not in JSON: a firewall or proxy may have answered"
	case e.Status == http.StatusUnauthorized:
		text += ": it does not accept the platform client's token, whose client_id must be that of a user-level API key"
	case e.Status == http.StatusForbidden:
		text += ": the user who owns the platform client's API key needs a role that may manage OAuth API keys " +
			"(engineer) in this environment"
	case e.Status == http.StatusNotFound:
		text += ": the user who owns the platform client's API key sees no OAuth API key with client ID " + e.ClientID
	default:
		text += ": see in Redox's dashboard whether the user who owns the platform client's API key " +
			"can change the public keys of client ID " + e.ClientID
	}
	return text
}
