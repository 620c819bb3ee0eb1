package redox

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
)

// validate checks all settings, and leaves of ca_pem the certificates alone.
func (c *config) validate() error {
	switch {
	case c.ClientID == "":
		return invalid("%s is required: Redox's dashboard shows it on the settings page of the OAuth API key", fieldClientID)
	case !isClientID(c.ClientID):
		return invalid("%s must be at most 256 printable ASCII characters without blanks", fieldClientID)
	case tokenURLs[c.Region] == "":
		return invalid("%s must be us or ca", fieldRegion)
	case !isScope(c.Scope):
		return invalid("%s must be at most 1024 printable ASCII characters", fieldScope)
	case c.AssertionTTL < 30 || c.AssertionTTL > int64(assertion.MaxTTL/time.Second):
		return invalid("%s must be 30s to 5m", fieldAssertionTTL)
	case c.ClockLeeway > 10:
		return invalid("%s must be 0s to 10s", fieldClockLeeway)
	case c.RequestTimeout < 1 || c.RequestTimeout > 30:
		return invalid("%s must be 1s to 30s", fieldRequestTimeout)
	case c.MaxRetries < 0 || c.MaxRetries > 5:
		return invalid("%s must be 0 to 5", fieldMaxRetries)
	}
	if err := c.validateEndpoint(); err != nil {
		return err
	}
	if err := c.validateRotation(); err != nil {
		return err
	}
	if err := c.validatePublishing(); err != nil {
		return err
	}
	var err error
	c.CAPEM, err = normalCA(c.CAPEM)
	return err
}

func isClientID(text string) bool {
	return text != "" && len(text) <= 256 && !strings.ContainsFunc(text, unprintable)
}

// validateRotation also keeps a ring from filling up: in the time that a
// replaced key stays published, six rotations fit at most.
func (c *config) validateRotation() error {
	const hour, year = 60 * 60, 365 * 24 * 60 * 60
	least := max(c.PublishWindow+60, (c.RetireAfter+c.PublishWindow+5)/6)
	switch {
	case c.PublishWindow > 168*hour:
		return invalid("%s must be 0s to 168h", fieldPublishWindow)
	case c.RetireAfter < c.AssertionTTL || c.RetireAfter > year:
		return invalid("%s must be at least assertion_ttl (%ds) and at most 8760h", fieldRetireAfter, c.AssertionTTL)
	case c.RotationPeriod != 0 && (c.RotationPeriod < least || c.RotationPeriod > 10*year):
		return invalid("%s must be 0 (off), or at least %ds with this publish_window and retire_after, and at most 87600h", fieldRotationPeriod, least)
	}
	return nil
}

func (c *config) validatePublishing() error {
	switch {
	case c.PlatformClient != "" && !isClientName(c.PlatformClient) && c.PlatformClient != defaultClient:
		return invalid("%s must be the name of a client, or default for that of the bare paths", fieldPlatformClient)
	case c.PlatformClient != "" && c.PublicJWKS:
		return invalid("%s and %s exclude each other: where there is a JWKS URL, Redox looks at no other keys", fieldPlatformClient, fieldPublicJWKS)
	case len(c.Manages) > 256:
		return invalid("%s must name at most 256 clients", fieldManages)
	}
	named := map[string]bool{}
	for _, entry := range c.Manages {
		name, id, _ := strings.Cut(entry, "=")
		switch {
		case !isClientName(name) && name != defaultClient, !isClientID(id):
			return invalid("%s must list clients as name=client ID, such as acme=e3b0c442-98fc-4c14-9afb-f4c8996fb924", fieldManages)
		case named[name]:
			return invalid("%s must name each client once", fieldManages)
		}
		named[name] = true
	}
	return nil
}

// validateEndpoint also ties the audience to the token URL. Else a config
// writer could have assertions meant for Redox sent to a server of his own,
// and use them there.
func (c *config) validateEndpoint() error {
	at, err := checkURL(fieldTokenURL, c.tokenURL())
	if err != nil {
		return err
	}
	to, err := checkURL(fieldAudience, c.audience())
	if err != nil {
		return err
	}
	if at != to && (!isRedox(at) || !isRedox(to)) {
		return invalid("%s must name the host of the token URL (%s), or both must be Redox's", fieldAudience, at)
	}
	return nil
}

func isRedox(host string) bool { return strings.HasSuffix(host, ".redoxengine.com") }

var defaultPorts = map[string]uint64{"http": 80, "https": 443}

// checkURL accepts https, and http to this machine, as the sandbox needs it.
// It returns the host in lower case, with its port unless that is the scheme's.
func checkURL(field, raw string) (host string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Opaque != "" || len(raw) > 1024 || strings.ContainsFunc(raw, unprintable) {
		return "", invalid("%s must be an absolute URL of at most 1024 printable ASCII characters, such as %s", field, tokenURLs["us"])
	}
	_, port, hasPort := strings.Cut(strings.TrimPrefix(u.Host, "["+u.Hostname()+"]"), ":")
	number, err := strconv.ParseUint(port, 10, 16)
	switch {
	case u.User != nil:
		return "", invalid("%s must not hold a user name or password", field)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#"):
		return "", invalid("%s must not have a query or a fragment", field)
	case u.Hostname() == "":
		return "", invalid("%s must name a host", field)
	case hasPort && (err != nil || number == 0):
		return "", invalid("%s must have a port of 1 to 65535, or none", field)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return "", invalid("%s must begin with https:// (http:// only for a loopback address such as 127.0.0.1)", field)
	}
	host = strings.ToLower(u.Host)
	if number == defaultPorts[u.Scheme] {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return host, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// normalCA returns the certificates in text and nothing else of it, as what
// is stored is shown again. A block that cannot be read is an error, as
// whoever gave it expects it to be trusted.
func normalCA(text string) (string, error) {
	if len(text) > 256<<10 {
		return "", invalid("%s must be at most 256 KiB", fieldCAPEM)
	}
	var certificates []byte
	blocks := 0
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return "", invalid("%s must hold CERTIFICATE blocks only, and holds a block of another kind", fieldCAPEM)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", invalid("%s must be PEM, and holds a CERTIFICATE block that cannot be read", fieldCAPEM)
		}
		certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		blocks++
	}
	if blocks != strings.Count(text, "-BEGIN ") || blocks == 0 && strings.TrimSpace(text) != "" {
		return "", invalid("%s must be PEM, and holds what is no whole CERTIFICATE block", fieldCAPEM)
	}
	return string(certificates), nil
}
