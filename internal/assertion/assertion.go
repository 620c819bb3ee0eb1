// Package assertion signs the client assertion that proves to Redox's token endpoint
// who the client is: a JWT of RFC 7523 section 2.2, signed with RS384, with the claims
// on Redox's page "Authenticate an OAuth API key".
//
// Sign has no side effects: the time and the assertion's ID are arguments. The package
// knows nothing of HTTP or of Vault.
package assertion

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxTTL is the longest life that SMART Backend Services allow for an assertion: its exp
// is at most five minutes in the future. Redox documents no limit of its own.
const MaxTTL = 5 * time.Minute

// Claims is the content of one assertion.
type Claims struct {
	ClientID string        // iss and sub: the OAuth API key's client ID
	KeyID    string        // the header's kid, as registered at Redox
	Audience string        // aud: usually the token URL
	Scope    string        // the scope claim; left out when empty
	ID       string        // jti: never used twice, see [NewID]
	IssuedAt time.Time     // iat, cut to whole seconds
	TTL      time.Duration // exp - iat, in whole seconds; at most [MaxTTL]
}

// NewID returns a jti with at least 128 random bits.
func NewID() string { return rand.Text() }

// Sign returns c as a compact JWS. RS384 is deterministic: the same key and
// claims give the same assertion. An assertion is for one HTTP request;
// a retry needs another, with a new ID.
func Sign(key *rsa.PrivateKey, c Claims) (string, error) {
	iat := c.IssuedAt.Unix()
	claims := jwt.MapClaims{
		"iss": c.ClientID,
		"sub": c.ClientID,
		"aud": c.Audience,
		"iat": iat,
		"exp": iat + int64(c.TTL/time.Second),
		"jti": c.ID,
	}
	if c.Scope != "" {
		claims["scope"] = c.Scope
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS384, claims)
	t.Header["kid"] = c.KeyID
	signed, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("signing the client assertion with key %s: %w", c.KeyID, err)
	}
	return signed, nil
}
