package redox

import (
	"encoding/pem"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
)

// config is a client's connection settings as stored.
type config struct {
	ClientID       string        `json:"client_id"`
	Region         string        `json:"region"`
	TokenURL       string        `json:"token_url"` // empty: the region's
	Audience       string        `json:"audience"`  // empty: the token URL
	Scope          string        `json:"scope"`
	AssertionTTL   time.Duration `json:"assertion_ttl"` // durations in nanoseconds
	ClockLeeway    time.Duration `json:"clock_leeway"`
	RequestTimeout time.Duration `json:"request_timeout"`
	MaxRetries     int           `json:"max_retries"`
	CAPEM          string        `json:"ca_pem"`
}

// tokenURLs are Redox's token endpoints by region.
var tokenURLs = map[string]string{
	"us": "https://api.redoxengine.com/v2/auth/token",
	"ca": "https://api.ca.redoxengine.com/v2/auth/token",
}

func defaultConfig() config {
	return config{
		Region:         "us",
		AssertionTTL:   assertion.MaxTTL,
		ClockLeeway:    5 * time.Second,
		RequestTimeout: 10 * time.Second,
		MaxRetries:     2,
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
	return max(c.RequestTimeout/time.Duration(c.MaxRetries+1), 2*time.Second)
}

// sameIdentity tells whether both make Redox look for the same public key at
// the same place, so that a proof of one holds for the other.
func (c *config) sameIdentity(other *config) bool {
	return c.ClientID == other.ClientID && c.tokenURL() == other.tokenURL() && c.audience() == other.audience()
}

// update merges the fields that were given, null meaning the default, and
// checks the whole.
func (c *config) update(d *framework.FieldData) error {
	set := setter{raw: d.Raw}
	def := defaultConfig()
	assign(&set, fieldClientID, &c.ClientID, "", asString)
	assign(&set, fieldRegion, &c.Region, def.Region, asString)
	assign(&set, fieldTokenURL, &c.TokenURL, "", asString)
	assign(&set, fieldAudience, &c.Audience, "", asString)
	assign(&set, fieldScope, &c.Scope, "", asString)
	assign(&set, fieldAssertionTTL, &c.AssertionTTL, def.AssertionTTL, asDuration)
	assign(&set, fieldClockLeeway, &c.ClockLeeway, def.ClockLeeway, asDuration)
	assign(&set, fieldRequestTimeout, &c.RequestTimeout, def.RequestTimeout, asDuration)
	retries := int64(c.MaxRetries)
	assign(&set, fieldMaxRetries, &retries, int64(def.MaxRetries), asInt)
	assign(&set, fieldCAPEM, &c.CAPEM, "", asString)
	if set.err != nil {
		return set.err
	}
	if retries < 0 || retries > 5 {
		return invalid("%s must be 0 to 5", fieldMaxRetries)
	}
	c.MaxRetries = int(retries)
	c.ClientID = strings.TrimSpace(c.ClientID)
	if c.Region == "" {
		c.Region = def.Region
	}
	return c.validate()
}

// setter carries the first error through a series of assigns.
type setter struct {
	raw map[string]any
	err error
}

func assign[T any](s *setter, field string, to *T, def T, read func(any) (T, error)) {
	raw, given := s.raw[field]
	if !given || s.err != nil {
		return
	}
	if raw == nil {
		*to = def
		return
	}
	v, err := read(raw)
	if err != nil {
		s.err = invalid("%s %s", field, err)
		return
	}
	*to = v
}

func (c *config) validate() error {
	switch {
	case c.ClientID == "":
		return invalid("%s is required: Redox's dashboard shows it on the settings page of the OAuth API key", fieldClientID)
	case len(c.ClientID) > 256 || strings.ContainsFunc(c.ClientID, unprintable):
		return invalid("%s must be at most 256 printable ASCII characters without blanks", fieldClientID)
	case tokenURLs[c.Region] == "":
		return invalid("%s must be us or ca", fieldRegion)
	case len(c.Scope) > 1024 || strings.ContainsFunc(strings.ReplaceAll(c.Scope, " ", ""), unprintable):
		return invalid("%s must be at most 1024 printable ASCII characters", fieldScope)
	case c.AssertionTTL < 30*time.Second || c.AssertionTTL > assertion.MaxTTL:
		return invalid("%s must be 30s to 5m", fieldAssertionTTL)
	case c.ClockLeeway > 10*time.Second:
		return invalid("%s must be 0s to 10s", fieldClockLeeway)
	case c.RequestTimeout < time.Second || c.RequestTimeout > 30*time.Second:
		return invalid("%s must be 1s to 30s", fieldRequestTimeout)
	}
	if err := c.validateEndpoint(); err != nil {
		return err
	}
	return checkCA(c.CAPEM)
}

func (c *config) validateEndpoint() error {
	if c.TokenURL != "" {
		if err := checkURL(fieldTokenURL, c.TokenURL); err != nil {
			return err
		}
	}
	if c.Audience == "" {
		return nil
	}
	if err := checkURL(fieldAudience, c.Audience); err != nil {
		return err
	}
	// Else a config writer could have assertions meant for Redox sent to a
	// server of his own, and use them there.
	at, to := hostname(c.tokenURL()), hostname(c.Audience)
	if at != to && (!isRedox(at) || !isRedox(to)) {
		return invalid("%s must name the host of the token URL (%s), or both must be Redox's", fieldAudience, at)
	}
	return nil
}

func hostname(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

func isRedox(host string) bool { return strings.HasSuffix(host, ".redoxengine.com") }

// checkURL accepts https, and http to this machine, as the sandbox needs it.
func checkURL(field, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Opaque != "" || len(raw) > 1024 || strings.ContainsFunc(raw, unprintable) {
		return invalid("%s must be an absolute URL of at most 1024 printable ASCII characters, such as %s", field, tokenURLs["us"])
	}
	switch {
	case u.User != nil:
		return invalid("%s must not hold a user name or password", field)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(raw, "#"):
		return invalid("%s must not have a query or a fragment", field)
	case u.Hostname() == "":
		return invalid("%s must name a host", field)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return invalid("%s must have a port of 1 to 65535, or none", field)
		}
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return invalid("%s must begin with https:// (http:// only for a loopback address such as 127.0.0.1)", field)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func checkCA(caPEM string) error {
	if caPEM == "" {
		return nil
	}
	if len(caPEM) > 256<<10 {
		return invalid("%s must be at most 256 KiB", fieldCAPEM)
	}
	for rest := []byte(caPEM); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return invalid("%s must hold CERTIFICATE blocks only, and holds a block of another kind", fieldCAPEM)
		}
	}
	if _, err := rootsOnly(caPEM); err != nil {
		return invalid("%s must be PEM: %s", fieldCAPEM, err)
	}
	return nil
}
