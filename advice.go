package redox

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// tokenError is a failed token request, with the facts that its advice needs.
type tokenError struct {
	err    error
	config *config
	keyID  keyring.ID
	origin keyring.Origin // of the key
	paths  string         // of the client, such as redox/ or redox/clients/acme/
}

func (e *tokenError) Error() string {
	text := e.err.Error()
	if advice := e.advice(); advice != "" {
		text += ": " + advice
	}
	return text
}

func (e *tokenError) Unwrap() error { return e.err }

func (e *tokenError) advice() string {
	var refused *redoxapi.Error
	if errors.As(e.err, &refused) {
		return e.refusalAdvice(refused)
	}
	var up *redoxapi.UpstreamError
	if !errors.As(e.err, &up) {
		return ""
	}
	switch up.Kind {
	case redoxapi.RateLimited:
		return "Redox allows 10,000 requests in a rolling window of 5 minutes per source address, and fewer of some kinds; " +
			"all reads through this Vault share one address: wait, for up to 5 minutes, and read tokens less often"
	case redoxapi.TimedOut:
		return e.timeoutAdvice(up.Dropped)
	case redoxapi.Unavailable, redoxapi.Unusable:
		return "Redox may be in trouble (https://status.redoxengine.com): try again"
	case redoxapi.NotRedox:
		return fmt.Sprintf("check token_url in %sconfig and any proxy or firewall between Vault and Redox", e.paths)
	}
	return ""
}

// timeoutAdvice says how long an attempt may take, and what to do. It does not advise
// more time if packets are dropped, or if one attempt already has the most time possible.
func (e *tokenError) timeoutAdvice(dropped bool) string {
	each := e.config.attemptTimeout()
	had := each.Round(100*time.Millisecond).String() + " of request_timeout"
	attempts := "the one attempt had " + had + ": "
	if n := e.config.MaxRetries + 1; n > 1 {
		attempts = fmt.Sprintf("each attempt may take %s (at most %d attempts): ", had, n)
	}
	var more []string
	if e.config.RequestTimeout < maxRequestTimeout {
		more = append(more, "raise that in "+e.paths+"config")
	}
	if each < seconds(e.config.RequestTimeout) {
		more = append(more, "lower max_retries in "+e.paths+"config")
	}
	switch {
	case dropped:
		return attempts + "find out, with curl -v on the Vault server, whether a firewall drops the packets or the host " +
			"is down"
	case len(more) == 0:
		return attempts + "request_timeout is at its maximum: find out why Redox, or a proxy on the way, is so slow"
	}
	return attempts + strings.Join(more, ", or ")
}

// refusalAdvice says which key and settings the request used, how the clocks compare, and
// what to do next. If Redox does not know the key, the text leaves the clocks out unless
// they differ.
func (e *tokenError) refusalAdvice(refused *redoxapi.Error) string {
	origin := "generated in Vault"
	if e.origin == keyring.Imported {
		origin = "imported"
	}
	if refused.UnknownKey() {
		text := fmt.Sprintf("Redox does not know key %s (%s) for client ID %s: %s; the audience is %s",
			e.keyID, origin, e.config.ClientID, e.unknownKeyAdvice(), e.config.audience())
		if refused.Skew.Off() {
			text += ", and " + refused.Skew.String()
		}
		return text
	}
	text := fmt.Sprintf("client ID %s, key %s (%s), audience %s and algorithm RS384 were used, and %s",
		e.config.ClientID, e.keyID, origin, e.config.audience(), refused.Skew)
	if refused.Description == "" {
		text = "Redox gives no reason when a claim is wrong: " + text
	}
	return text + ": " + e.nextStep(refused)
}

// nextStep says what to do if Redox refused for another reason than an unknown key. If
// the engine cannot know the reason, the text asks a question.
func (e *tokenError) nextStep(refused *redoxapi.Error) string {
	words := strings.ToLower(refused.Description)
	switch {
	case e.config.isOff(refused.Skew):
		return "fix the clock of this Vault server; if that one is right, the clock of the token URL's host is wrong"
	case strings.Contains(words, "audience") || strings.Contains(words, "aud claim"):
		return "set region, token_url or audience in " + e.paths + "config so that the audience is the one Redox expects"
	}
	text := "do client ID and key belong together? Compare the JWK Set (" + e.readKeys() + ") with the public keys of " +
		"this API key in Redox's dashboard"
	if !e.config.PublicJWKS && e.config.PlatformClient == "" {
		text += ", or paste it again: one lost character breaks it"
	}
	if e.config.TokenURL != "" || e.config.Audience != "" {
		text += "; is the audience, which " + e.paths + "config sets, the one that Redox expects?"
	}
	return text
}

// isOff reports whether the clock here is so wrong that Redox may refuse the assertions, now
// or soon. A few seconds ahead do no harm: Redox allows 10, and clock_leeway adds to that. A
// clock that is behind does harm only if an assertion has expired when it arrives.
func (c *config) isOff(s redoxapi.Skew) bool {
	return s.Known && (s.Ahead > 5*time.Second || s.Ahead < -min(time.Minute, seconds(c.AssertionTTL)/2))
}

func (e *tokenError) readKeys() string { return "vault read -field=jwks " + inShell(e.paths+"keys") }

func (e *tokenError) unknownKeyAdvice() string {
	checkID := "check that client_id in " + e.paths + "config is the API key's"
	if e.config.PlatformClient != "" {
		return "see publication in " + e.paths + "keys, and " + checkID
	}
	text := "copy the JWK Set (" + e.readKeys() + ") to this API key in Redox's dashboard, press Save Changes, and " +
		checkID
	if e.origin == keyring.Imported {
		text = fmt.Sprintf("if Redox has it under another kid, delete %skeys/%s (force=true if it is the only key, "+
			"else activate another one first) and import it again with key_id=<that kid>; else ", e.paths, e.keyID) + text
	}
	return text
}

// withoutAdvice returns the error in a [*tokenError], without its advice, and any other
// error as it is. Stored errors must have no advice: advice names paths of the mount, and
// the mount may move.
func withoutAdvice(err error) error {
	var t *tokenError
	if errors.As(err, &t) {
		return t.err
	}
	return err
}
