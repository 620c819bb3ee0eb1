package redoxapi

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Error is an OAuth error response (RFC 6749 section 5.2): Redox refused the request. Repeating the
// request does not help until something has changed, such as the keys that Redox knows.
type Error struct {
	Status      int // HTTP status
	Code        string
	Description string
	URI         string
	Skew        Skew
}

func (e *Error) Error() string {
	text := fmt.Sprintf("Redox refused the token request (HTTP %d, error %q, error_description %q",
		e.Status, e.Code, e.Description)
	if e.URI != "" {
		text += ", error_uri " + e.URI
	}
	return text + ")"
}

// UnknownKey reports whether the description says that Redox did not find the public key.
func (e *Error) UnknownKey() bool {
	return strings.Contains(strings.ToLower(e.Description), "public key not found")
}

// Kind is what went wrong, as far as the caller needs to know.
type Kind int

// The kinds.
const (
	Unreachable Kind = iota // no connection, or a broken one
	TimedOut                // no answer in time
	Unavailable             // 5xx
	Unusable                // an answer that cannot be used, such as 2xx without a token
	RateLimited             // 429
	NotRedox                // a redirect, or another answer that Redox would not send
	Overloaded              // set by the caller: too many requests, or it is being stopped
	Abandoned               // the reader hung up, or Vault ended the request: nobody waits for an answer
)

// UpstreamError means that there is no usable answer from Redox: the request was not made, no
// answer came, or the answer cannot be used. It never quotes the body of an answer.
type UpstreamError struct {
	Kind       Kind
	Status     int           // HTTP status of the token endpoint; 0 if What says everything
	What       string        // what was seen
	RetryAfter time.Duration // the pause that the token endpoint asks for, see readRetryAfter
	Dropped    bool          // TimedOut while it connected: nobody answered the first packets
}

func (e *UpstreamError) Error() string {
	if e.Status == 0 {
		return e.What
	}
	text := fmt.Sprintf("the token endpoint answered HTTP %d", e.Status)
	if e.What != "" {
		text += ": " + e.What
	}
	if e.RetryAfter > 0 {
		text += ", and asks to wait " + e.RetryAfter.String()
	}
	return text
}

// Transient reports whether it makes sense to repeat the request after a short pause, with a new
// assertion. It returns false after a 429, which means too many requests.
func (e *UpstreamError) Transient() bool {
	switch e.Kind {
	case Unreachable, TimedOut, Unavailable, Unusable:
		return true
	}
	return false
}

// parseError returns an [*Error] if the answer is an OAuth error response. Else it returns an
// [*UpstreamError], because a proxy or firewall may have answered.
func parseError(status int, raw []byte, skew Skew) error {
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		URI         string `json:"error_uri"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Error == "" {
		return &UpstreamError{Kind: NotRedox, Status: status, What: "not the JSON of Redox (a firewall or proxy may have " +
			"answered)"}
	}
	return &Error{
		Status:      status,
		Code:        Quotable(answer.Error, 64),
		Description: Quotable(answer.Description, 300),
		URI:         quotableURL(answer.URI),
		Skew:        skew,
	}
}

// tokenLike matches text that may be a token, an assertion or a part of one. A client ID is too
// short to match: it is a UUID of 36 characters.
var tokenLike = regexp.MustCompile(`[A-Za-z0-9_.~+/=-]{40,}`)

// Quotable makes a received text safe to show. Characters that are not printable, such as line breaks,
// become blanks, and long words that may be credentials become [removed]. A text of more characters
// than most is cut.
func Quotable(text string, most int) string {
	text = strings.TrimSpace(tokenLike.ReplaceAllStringFunc(printable(text), func(match string) string {
		if quotableURL("https:"+match) != "" {
			return match
		}
		return "[removed]"
	}))
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// quotableURL returns text, as net/url writes it, if it is a short https link to redoxengine.com or a
// subdomain, without user, query, fragment, or a part that looks like a token. Else it returns "".
func quotableURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(text) > 200 {
		return ""
	}
	if u.Host != "redoxengine.com" && !strings.HasSuffix(u.Host, ".redoxengine.com") {
		return ""
	}
	for segment := range strings.SplitSeq(u.Host+u.Path, "/") {
		if tokenLike.MatchString(segment) {
			return ""
		}
	}
	return u.String()
}
