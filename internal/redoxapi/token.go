package redoxapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxToken caps an access token, in bytes: more fits into no HTTP header.
const maxToken = 16 << 10

// defaultLifetime is assumed of a token whose answer has no expires_in: Redox
// documents that its tokens live five minutes.
const defaultLifetime = 5 * time.Minute

// Token is a successful answer of the token endpoint (RFC 6749 section 5.1).
type Token struct {
	Value    string
	Scope    string // what Redox granted; empty when it does not say
	Lifetime time.Duration
	Assumed  bool // the answer had no usable expires_in
	Skew     Skew

	// RequestedAt is set by the caller of Exchange. The token's life began
	// somewhere between then and the answer: counted from the request, no reader
	// is promised more than there is.
	RequestedAt time.Time
}

// Left returns how much of its life the token has at least; negative when it
// has ended. A monotonic clock stands still while the machine is suspended, and
// the other may be set back: the one that says less is believed.
func (t *Token) Left(now time.Time) time.Duration {
	ends := t.RequestedAt.Add(t.Lifetime)
	return min(ends.Sub(now), ends.Round(0).Sub(now.Round(0)))
}

// Margin returns how long before its end nobody should rely on the token any more:
// a minute, or a fifth of its life when that is less.
func (t *Token) Margin() time.Duration { return min(time.Minute, t.Lifetime/5) }

// Exchange trades one signed assertion for an access token at tokenURL (RFC
// 7523 section 2.2; Redox: "Authenticate an OAuth API key"). It sends exactly
// one request: an assertion is never sent twice, so a retry is the caller's,
// with a new one. The error is an [*Error] when Redox refused, else an
// [*UpstreamError].
func (c *Client) Exchange(ctx context.Context, tokenURL, assertion, scope string) (*Token, error) {
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
	if scope != "" {
		form.Set("scope", scope)
	}
	// A reader that http cannot rewind: after a dead connection the transport
	// must not send the assertion again by itself.
	encoded := form.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, tokenURL, io.NopCloser(strings.NewReader(encoded)))
	if err != nil {
		return nil, &UpstreamError{Kind: Unreachable, What: "the token URL cannot be requested"}
	}
	req.ContentLength = int64(len(encoded))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	got, err := c.send(req)
	if err != nil {
		return nil, err
	}
	raw, echoed := redact(got.body, assertion)
	if echoed && got.status < 300 {
		return nil, &UpstreamError{Kind: Unusable, Status: got.status, What: "the answer repeats the client assertion"}
	}
	t, err := parseAnswer(got.status, raw, got.skew)
	var up *UpstreamError
	if errors.As(err, &up) {
		up.RetryAfter = got.retryAfter
	}
	return t, err
}

// redact removes the parts of the assertion that the server repeats.
func redact(raw []byte, assertion string) (redacted []byte, echoed bool) {
	_, secret, _ := strings.Cut(assertion, ".") // the header is no secret
	for part := range strings.SplitSeq(secret, ".") {
		// The parts of a real assertion are longer than words.
		if len(part) >= 32 && bytes.Contains(raw, []byte(part)) {
			raw, echoed = bytes.ReplaceAll(raw, []byte(part), []byte("[removed]")), true
		}
	}
	return raw, echoed
}

// parseAnswer tells a token from an error response, and both from anything else.
func parseAnswer(status int, raw []byte, skew Skew) (*Token, error) {
	switch {
	case status == http.StatusTooManyRequests:
		return nil, &UpstreamError{Kind: RateLimited, Status: status}
	case status >= 500:
		return nil, &UpstreamError{Kind: Unavailable, Status: status}
	case status >= 400:
		return nil, parseError(status, raw, skew)
	case status >= 300:
		return nil, &UpstreamError{Kind: NotRedox, Status: status, What: "a redirect, which is never followed with " +
			"credentials"}
	}
	return parseToken(status, raw, skew)
}

// parseToken reads a 2xx answer. One without a token is no success.
func parseToken(status int, raw []byte, skew Skew) (*Token, error) {
	var answer struct {
		AccessToken any             `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
		Scope       any             `json:"scope"`
		Error       any             `json:"error"`
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")) // a byte order mark
	if err := json.Unmarshal(raw, &answer); err != nil {
		what := "the answer is not the JSON of a token"
		if text := bytes.TrimSpace(raw); len(text) > 0 && text[0] != '{' && text[0] != '[' {
			what += " (a firewall or proxy may have answered)"
		}
		return nil, &UpstreamError{Kind: Unusable, Status: status, What: what}
	}
	switch answer.Error {
	case nil, false, "":
	default:
		return nil, parseError(status, raw, skew)
	}
	value, _ := answer.AccessToken.(string)
	if value == "" || len(value) > maxToken || !IsPrintable(value) {
		return nil, &UpstreamError{Kind: Unusable, Status: status, What: "the answer has no usable access_token"}
	}
	if answer.TokenType != "" && !strings.EqualFold(answer.TokenType, "Bearer") {
		return nil, &UpstreamError{Kind: Unusable, Status: status, What: "the token is not of type Bearer"}
	}
	t := &Token{Value: value, Skew: skew}
	if scope := scopeText(answer.Scope); IsScope(scope) {
		t.Scope = scope
	}
	t.Lifetime, t.Assumed = lifetime(answer.ExpiresIn)
	return t, nil
}

// scopeText returns a scope as text. Some servers send a list of them.
func scopeText(scope any) string {
	switch scope := scope.(type) {
	case string:
		return scope
	case []any:
		var texts []string
		for _, one := range scope {
			text, _ := one.(string)
			texts = append(texts, text)
		}
		return strings.Join(texts, " ")
	}
	return ""
}

// IsScope reports whether text can be a list of scopes (RFC 6749 section 3.3) of
// a sensible length. The empty one is.
func IsScope(text string) bool {
	return len(text) <= 1024 && IsPrintable(strings.ReplaceAll(text, " ", ""))
}

// IsPrintable reports whether text has printable ASCII characters alone, and no
// blank.
func IsPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// lifetime reads expires_in, which some servers send as a string. A value that is
// no number of seconds counts as missing. Less than one second is a token that has
// ended.
func lifetime(expiresIn json.RawMessage) (d time.Duration, assumed bool) {
	const most = 24 * 60 * 60
	seconds, err := strconv.ParseFloat(strings.Trim(string(expiresIn), `"`), 64)
	if err != nil || math.IsNaN(seconds) || math.IsInf(seconds, 0) || seconds > most {
		return defaultLifetime, true
	}
	return time.Duration(max(seconds, 0)) * time.Second, false
}
