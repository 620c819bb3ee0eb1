package redox

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// config is a client's connection settings as stored.
type config struct {
	ClientID       string `json:"client_id"`
	Region         string `json:"region"`
	TokenURL       string `json:"token_url"` // empty: the region's
	Audience       string `json:"audience"`  // empty: the token URL
	Scope          string `json:"scope"`
	AssertionTTL   int64  `json:"assertion_ttl"` // this and the next two in seconds
	ClockLeeway    int64  `json:"clock_leeway"`
	RequestTimeout int64  `json:"request_timeout"`
	MaxRetries     int64  `json:"max_retries"`
	CAPEM          string `json:"ca_pem"`
	PublicJWKS     bool   `json:"public_jwks"`
	ReuseTokens    bool   `json:"reuse_tokens,omitempty"`
	RotationPeriod int64  `json:"rotation_period"` // this and the next two in seconds
	PublishWindow  int64  `json:"publish_window"`
	RetireAfter    int64  `json:"retire_after"`

	// PlatformClient is the client by whose authority the engine keeps Redox's
	// list of this one's keys. Manages is the other side of it: which clients,
	// each as name=client ID, may have their keys published by this one.
	PlatformClient string   `json:"platform_client,omitempty"`
	Manages        []string `json:"manages,omitempty"`
}

// UnmarshalJSON gives fields that an older version did not store their default.
func (c *config) UnmarshalJSON(raw []byte) error {
	type plain config
	stored := plain(defaultConfig())
	if err := json.Unmarshal(raw, &stored); err != nil {
		return err
	}
	*c = config(stored)
	return nil
}

// tokenURLs are Redox's token endpoints by region.
var tokenURLs = map[string]string{
	"us": "https://api.redoxengine.com/v2/auth/token",
	"ca": "https://api.ca.redoxengine.com/v2/auth/token",
}

func defaultConfig() config {
	return config{
		Region: "us", AssertionTTL: 300, ClockLeeway: 5, RequestTimeout: 10, MaxRetries: 2,
		PublishWindow: 15 * 60, RetireAfter: 24 * 60 * 60,
	}
}

func (c *config) tokenURL() string {
	if c.TokenURL != "" {
		return c.TokenURL
	}
	return tokenURLs[c.Region]
}

func (c *config) audience() string {
	if c.Audience != "" {
		return c.Audience
	}
	return c.tokenURL()
}

// attemptTimeout is the share of request_timeout that one of the attempts may
// take, so that a connection that died leaves time for another.
func (c *config) attemptTimeout() time.Duration {
	return min(max(seconds(c.RequestTimeout)/time.Duration(c.MaxRetries+1), 2*time.Second), seconds(c.RequestTimeout))
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// sameIdentity tells whether both make Redox look for the same public key at
// the same place, so that a proof of one holds for the other.
func (c *config) sameIdentity(other *config) bool { return c.identity() == other.identity() }

func (c *config) identity() string { return c.ClientID + " " + c.tokenURL() + " " + c.audience() }

// update merges the fields that were given, null meaning the default, and
// checks the whole. The fields went through checkInput.
func (c *config) update(d *framework.FieldData) error {
	def := defaultConfig()
	assign(d, fieldClientID, &c.ClientID, "")
	assign(d, fieldRegion, &c.Region, def.Region)
	assign(d, fieldTokenURL, &c.TokenURL, "")
	assign(d, fieldAudience, &c.Audience, "")
	assign(d, fieldScope, &c.Scope, "")
	assign(d, fieldAssertionTTL, &c.AssertionTTL, def.AssertionTTL)
	assign(d, fieldClockLeeway, &c.ClockLeeway, def.ClockLeeway)
	assign(d, fieldRequestTimeout, &c.RequestTimeout, def.RequestTimeout)
	assign(d, fieldMaxRetries, &c.MaxRetries, def.MaxRetries)
	assign(d, fieldCAPEM, &c.CAPEM, "")
	assign(d, fieldPublicJWKS, &c.PublicJWKS, false)
	assign(d, fieldReuseTokens, &c.ReuseTokens, false)
	assign(d, fieldRotationPeriod, &c.RotationPeriod, 0)
	assign(d, fieldPublishWindow, &c.PublishWindow, def.PublishWindow)
	assign(d, fieldRetireAfter, &c.RetireAfter, def.RetireAfter)
	assign(d, fieldPlatformClient, &c.PlatformClient, "")
	assign(d, fieldManages, &c.Manages, nil)
	c.ClientID = strings.TrimSpace(c.ClientID)
	if c.Region == "" {
		c.Region = def.Region
	}
	return c.validate()
}

func assign[T any](d *framework.FieldData, field string, to *T, def T) {
	raw, given := d.Raw[field]
	if !given {
		return
	}
	value, isSet := raw.(T)
	if !isSet { // null
		value = def
	}
	*to = value
}

// policy is what of the config a rotation goes by.
func (c *config) policy() keyring.Policy {
	way := keyring.Pasted
	switch {
	case c.PublicJWKS:
		way = keyring.Fetched
	case c.PlatformClient != "":
		way = keyring.Pushed
	}
	return keyring.Policy{Period: seconds(c.RotationPeriod), Window: seconds(c.PublishWindow), RetireAfter: seconds(c.RetireAfter), Way: way}
}
