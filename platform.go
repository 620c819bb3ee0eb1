package redox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// platformAPI is Redox's Platform API, as one user-level API key sees it
// (Redox: "OAuth API keys").
type platformAPI struct {
	http  *http.Client
	base  string // without a trailing slash
	token string // sent there and nowhere else
}

// newPlatformAPI returns the Platform API at the host that issued the token.
func newPlatformAPI(client *http.Client, tokenURL, token string) (*platformAPI, error) {
	u, err := url.Parse(tokenURL)
	if err != nil {
		return nil, fmt.Errorf("the stored token URL cannot be read")
	}
	return &platformAPI{http: client, base: u.Scheme + "://" + u.Host + "/platform/v1", token: token}, nil
}

// apiKey is what of an OAuth API key says by which public keys Redox knows it.
type apiKey struct {
	JWKSURL string            // where there is one, Redox uses it and not Keys
	Keys    []json.RawMessage // as Redox wrote them, whoever gave them
}

// read returns the API key of a client ID. The error is a *platformRefusal
// when Redox said no, else an *upstreamError.
func (p *platformAPI) read(ctx context.Context, clientID string) (*apiKey, error) {
	raw, err := p.request(ctx, http.MethodGet, clientID, nil)
	if err != nil {
		return nil, err
	}
	return readAPIKey(raw, clientID)
}

// update replaces the public keys of the API key of a client ID; its errors
// are those of read. Whether Redox replaces them or merges is not documented,
// so the caller reads what has become of it.
func (p *platformAPI) update(ctx context.Context, clientID string, keys []json.RawMessage) error {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // what others wrote goes back as it came
	if err := encoder.Encode(map[string]any{"jwkSet": map[string]any{"keys": keys}}); err != nil {
		return &upstreamError{Kind: broken, What: "the Platform API lists what is no JSON"}
	}
	_, err := p.request(ctx, http.MethodPatch, clientID, body.Bytes())
	return err
}

func (p *platformAPI) request(ctx context.Context, method, clientID string, body []byte) ([]byte, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+"/apikeys/"+url.PathEscape(clientID), content)
	if err != nil {
		return nil, &upstreamError{Kind: unreachable, What: "the Platform API cannot be requested"}
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	got, err := send(p.http, req)
	switch {
	case err != nil:
		return nil, err
	case bytes.Contains(got.body, []byte(p.token)):
		return nil, &upstreamError{Kind: broken, What: "the Platform API repeats the access token in its answer"}
	case got.status == http.StatusTooManyRequests:
		return nil, &upstreamError{Kind: limited, What: "the Platform API answered HTTP 429"}
	case got.status >= 500:
		return nil, &upstreamError{Kind: unavailable, What: fmt.Sprintf("the Platform API answered HTTP %d", got.status)}
	case got.status >= 300:
		return nil, &platformRefusal{Status: got.status, ClientID: clientID, JSON: json.Valid(got.body)}
	}
	return got.body, nil
}

// readAPIKey reads the answer to a read. Redox adds members between minor
// versions, so what is not known is left alone.
func readAPIKey(raw []byte, clientID string) (*apiKey, error) {
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
		return nil, &upstreamError{Kind: broken, What: "the Platform API's answer is not the JSON of an API key"}
	}
	k := answer.Payload.APIKey
	if k.ID != clientID {
		return nil, &upstreamError{Kind: broken, What: "the Platform API answered with another API key"}
	}
	found := &apiKey{JWKSURL: k.JWKSURL}
	switch {
	case k.JWKSet.Keys != nil:
		found.Keys = *k.JWKSet.Keys
	case k.JWKSURL == "":
		// Taken for an empty list, it would be replaced, and others' keys lost.
		return nil, &upstreamError{Kind: broken, What: "the Platform API does not show the API key's jwkSet, so that is left as it is"}
	}
	return found, nil
}

// platformRefusal is the Platform API's no. How it words it is not documented,
// so its words are not passed on.
type platformRefusal struct {
	Status   int
	ClientID string // whose API key was asked for
	JSON     bool   // else it may not have been Redox that answered
}

func (r *platformRefusal) Error() string {
	text := fmt.Sprintf("the Platform API answered HTTP %d", r.Status)
	switch {
	case r.Status < 400:
		text += ", a redirect, which is never followed with credentials"
	case !r.JSON:
		text += " and not in JSON: a firewall or proxy may have answered"
	case r.Status == http.StatusUnauthorized:
		text += ": it does not take the platform client's token, whose client_id must be that of a user-level API key"
	case r.Status == http.StatusForbidden:
		text += ": the user to whom the platform client's API key belongs needs a role that may manage OAuth API keys (engineer) in this environment"
	case r.Status == http.StatusNotFound:
		text += ": the user to whom the platform client's API key belongs sees no OAuth API key with client ID " + r.ClientID
	default:
		text += ": see in Redox's dashboard whether that user can change the public keys of client ID " + r.ClientID
	}
	return text
}
