package redox

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

const (
	hour = 60 * 60
	year = 365 * 24 * hour
)

// unless returns nil when the rule holds, else a user error that says the rule.
func unless(holds bool, rule string, args ...any) error {
	if holds {
		return nil
	}
	return invalid(rule, args...)
}

func checkClientID(id string) error {
	if id == "" {
		return invalid("client_id is required: Redox's dashboard shows it on the settings page of the OAuth API key")
	}
	return unless(isClientID(id), "client_id must be at most 256 printable ASCII characters without blanks")
}

func isClientID(text string) bool {
	return text != "" && len(text) <= 256 && redoxapi.IsPrintable(text)
}

func checkScope(scope string) error {
	return unless(redoxapi.IsScope(scope), "scope must be at most 1024 printable ASCII characters")
}

func checkRetireAfter(retireAfter, assertionTTL int64) error {
	return unless(retireAfter >= assertionTTL && retireAfter <= year,
		"retire_after must be at least assertion_ttl (%ds) and at most 8760h", assertionTTL)
}

// checkPeriod also keeps a ring from filling up: in the time that a replaced key
// stays published, six rotations fit at most.
func checkPeriod(period, publishWindow, retireAfter int64) error {
	least := max(publishWindow+60, (retireAfter+publishWindow+5)/6)
	return unless(period == 0 || period >= least && period <= 10*year,
		"rotation_period must be 0 (off), or at least %ds with this publish_window and retire_after, "+
			"and at most 87600h", least)
}

func checkPlatformClient(name string, publicJWKS bool) error {
	switch {
	case name != "" && !isClient(name):
		return invalid("platform_client must be the name of a client, or default for that of the bare paths")
	case name != "" && publicJWKS:
		return invalid("platform_client and public_jwks exclude each other: where there is a JWKS URL, Redox looks at no " +
			"other keys")
	}
	return nil
}

func checkManages(list []string) error {
	if len(list) > 256 {
		return invalid("manages must name at most 256 clients")
	}
	named := map[string]bool{}
	for _, entry := range list {
		name, id, _ := strings.Cut(entry, "=")
		switch {
		case !isClient(name), !isClientID(id):
			return invalid("manages must list clients as name=client ID, such as acme=e3b0c442-98fc-4c14-9afb-f4c8996fb924")
		case named[name]:
			return invalid("manages must name each client once")
		}
		named[name] = true
	}
	return nil
}

// managedNames returns the names in a list of name=client ID.
func managedNames(list []string) []string {
	names := make([]string, 0, len(list))
	for _, entry := range list {
		name, _, _ := strings.Cut(entry, "=")
		names = append(names, name)
	}
	return names
}

func checkTokenURL(tokenURL string) error {
	_, err := checkURL("token_url", tokenURL)
	return err
}

// checkAudience ties the audience to the token URL. Else who may write config
// could have assertions meant for Redox sent to a server of his own, and use
// them at Redox.
func checkAudience(tokenURL, audience string) error {
	at, err := checkURL("token_url", tokenURL)
	if err != nil {
		return err
	}
	to, err := checkURL("audience", audience)
	if err != nil {
		return err
	}
	return unless(at == to || isRedox(at) && isRedox(to),
		"audience must name the host of the token URL (%s), or both must be Redox's", at)
}

func isRedox(host string) bool { return strings.HasSuffix(host, ".redoxengine.com") }

var defaultPorts = map[string]uint64{"http": 80, "https": 443}

// checkURL accepts https, and http to this machine, as the sandbox needs it.
// It returns the host in lower case, with its port unless that is the scheme's.
func checkURL(field, raw string) (host string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Opaque != "" || len(raw) > 1024 || !redoxapi.IsPrintable(raw) {
		return "", invalid("%s must be an absolute URL of at most 1024 printable ASCII characters, "+
			"such as https://api.redoxengine.com/v2/auth/token", field)
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
		return "", invalid("ca_pem must be at most 256 KiB")
	}
	var certificates []byte
	blocks := 0
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return "", invalid("ca_pem must hold CERTIFICATE blocks only, and holds a block of another kind")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", invalid("ca_pem must be PEM, and holds a CERTIFICATE block that cannot be read")
		}
		certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		blocks++
	}
	if blocks != strings.Count(text, "-BEGIN ") || blocks == 0 && strings.TrimSpace(text) != "" {
		return "", invalid("ca_pem must be PEM, and holds what is no whole CERTIFICATE block")
	}
	return string(certificates), nil
}
