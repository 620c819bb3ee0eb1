package redox

import (
	"errors"
	"fmt"

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
		return "Redox allows 10,000 requests in 5 minutes per source address, and all reads through this Vault share " +
			"one: wait, and read tokens less often"
	case redoxapi.TimedOut:
		return fmt.Sprintf("each of %d attempts had %s, its share of request_timeout: raise that in %sconfig, or lower "+
			"max_retries", e.config.MaxRetries+1, e.config.attemptTimeout(), e.paths)
	case redoxapi.Unavailable, redoxapi.Unusable:
		return "Redox may be in trouble (https://status.redoxengine.com): try again"
	case redoxapi.NotRedox:
		return fmt.Sprintf("check token_url in %sconfig and any proxy or firewall between Vault and Redox", e.paths)
	}
	return ""
}

func (e *tokenError) refusalAdvice(refused *redoxapi.Error) string {
	switch {
	case refused.UnknownKey() && e.config.PlatformClient != "":
		return fmt.Sprintf("Redox does not know key %s for client ID %s: see publication in %skeys, and "+
			"check that client_id in %sconfig is the API key's",
			e.keyID, e.config.ClientID, e.paths, e.paths)
	case refused.UnknownKey() && e.origin == keyring.Imported:
		return fmt.Sprintf("Redox does not know key %s for client ID %s: the key was imported, so if Redox has it "+
			"under another kid, delete %skeys/%s (force=true if it is the only key) and import it again with "+
			"key_id=<that kid>; else copy the JWK Set (vault read -field=jwks %skeys) to this API key in Redox's "+
			"dashboard, press Save Changes, and check that client_id in %sconfig is the API key's",
			e.keyID, e.config.ClientID, e.paths, e.keyID, e.paths, e.paths)
	case refused.UnknownKey():
		return fmt.Sprintf("Redox does not know key %s for client ID %s: copy the JWK Set (vault read -field=jwks "+
			"%skeys) to this API key in Redox's dashboard, press Save Changes, and check that client_id in %sconfig is the "+
			"API key's",
			e.keyID, e.config.ClientID, e.paths, e.paths)
	case refused.Description == "":
		return fmt.Sprintf("Redox gives no reason when a claim is wrong: %s, the audience is %s, the algorithm RS384, "+
			"the key %s; fix the clock if it is wrong, otherwise audience in %sconfig",
			refused.Skew, e.config.audience(), e.keyID, e.paths)
	}
	return fmt.Sprintf("client ID %s, key %s", e.config.ClientID, e.keyID)
}

// withoutAdvice returns the error of a token request without its advice. Stored
// errors must not have advice: it names paths of the mount, and the mount may move.
func withoutAdvice(err error) error {
	var t *tokenError
	if errors.As(err, &t) {
		return t.err
	}
	return err
}
