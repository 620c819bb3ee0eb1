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

// maxToken is the size of the largest access token that is accepted, in bytes. Many servers would
// refuse a larger one in an HTTP header.
const maxToken = 16 << 10

// defaultLifetime is used for a token without a usable expires_in. Redox documents
// that its tokens live five minutes.
const defaultLifetime = 5 * time.Minute

// Token is a successful answer of the token endpoint (RFC 6749 section 5.1).
type Token struct {
	Value    string
	Scope    string // the scope that Redox granted; empty if the answer has no usable one
	Lifetime time.Duration
	Assumed  bool // the answer had no usable expires_in
	Skew     Skew

	// RequestedAt is when the token was requested; the caller of Exchange sets it. The token's life is
	// counted from then, so that no reader expects a longer life than the token has.
	RequestedAt time.Time
}

// Left returns how much longer the token lives; negative if it has ended. It uses two clocks and
// returns the smaller result: the monotonic clock stops while the machine is suspended, and the
// wall clock may be set back.
func (t *Token) Left(now time.Time) time.Duration {
	ends := t.RequestedAt.Add(t.Lifetime)
	return min(ends.Sub(now), ends.Round(0).Sub(now.Round(0)))
}

// Margin returns how long before the token's end readers should stop using it: a
// minute, or a fifth of its life if that is less.
func (t *Token) Margin() time.Duration { return min(time.Minute, t.Lifetime/5) }

// Exchange requests an access token at tokenURL with a signed assertion (RFC 7523 section 2.2;
// Redox: "Authenticate an OAuth API key"). It sends the assertion at most once, and a retry needs a
// new one. The error is an [*Error] if Redox refused, else an [*UpstreamError].
func (c *Client) Exchange(ctx context.Context, tokenURL, assertion, scope string) (*Token, error) {
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
	if scope != "" {
		form.Set("scope", scope)
	}
	// The transport cannot rewind this reader, so it cannot send the assertion again after a
	// connection broke.
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

// redact removes the assertion's claims and signature from an answer that repeats them. echoed
// reports whether it did.
func redact(raw []byte, assertion string) (redacted []byte, echoed bool) {
	_, secret, _ := strings.Cut(assertion, ".") // the header is no secret
	for part := range strings.SplitSeq(secret, ".") {
		// The claims and the signature of a real assertion have at least this length. A shorter part
		// could be a word.
		if len(part) >= 32 && bytes.Contains(raw, []byte(part)) {
			raw, echoed = bytes.ReplaceAll(raw, []byte(part), []byte("[removed]")), true
		}
	}
	return raw, echoed
}

// parseAnswer returns the token or the error in an answer of the token endpoint.
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

// parseToken returns the token in a 2xx answer, or an error if the answer has no usable token or is
// an error response.
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

// scopeText returns the scope in an answer as one text. Some servers send a list of texts.
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

// IsScope reports whether text consists of at most 1024 printable ASCII characters and blanks. RFC
// 6749 section 3.3 allows a little less: for example, no empty text.
func IsScope(text string) bool {
	return len(text) <= 1024 && IsPrintable(strings.ReplaceAll(text, " ", ""))
}

// IsPrintable reports whether all characters of text are printable ASCII, and none is a blank.
func IsPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// lifetime reads expires_in: a number, or a string with a number, as some servers send it. If it is
// neither, or is more than a day, lifetime returns the default, and assumed is true. Fractions of a
// second are cut off, and less than zero counts as zero.
func lifetime(expiresIn json.RawMessage) (d time.Duration, assumed bool) {
	const most = 24 * 60 * 60
	seconds, err := strconv.ParseFloat(strings.Trim(string(expiresIn), `"`), 64)
	if err != nil || math.IsNaN(seconds) || math.IsInf(seconds, 0) || seconds > most {
		return defaultLifetime, true
	}
	return time.Duration(max(seconds, 0)) * time.Second, false
}
