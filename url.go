package redox

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

func checkTokenURL(tokenURL string) error {
	_, err := checkURL("token_url", tokenURL)
	return err
}

// checkAudience returns an error unless the audience names the host of the token URL, or both hosts
// are Redox's. Without this check, somebody who may write config could have assertions for Redox sent
// to any host that hosts allows, and that host could use them at Redox.
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

// checkURL returns the host of a URL in the form of parseHost. The scheme must be https, or
// http to this machine, where a sandbox may run. The URL must have no user, query or
// fragment.
func checkURL(field, raw string) (host string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Opaque != "" || len(raw) > 1024 || !redoxapi.IsPrintable(raw) {
		return "", invalid("%s must be an absolute URL of at most 1024 printable ASCII characters, "+
			"such as https://api.redoxengine.com/v2/auth/token", field)
	}
	switch {
	case u.User != nil:
		return "", invalid("%s must not hold a user name or password", field)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#"):
		return "", invalid("%s must not have a query or a fragment", field)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return "", invalid("%s must begin with https:// (http:// only for a loopback address such as 127.0.0.1)", field)
	}
	host = u.Host
	if u.Scheme == "http" && u.Port() == "" && !strings.HasSuffix(host, ":") {
		host += ":80"
	}
	if host, err = parseHost(host); err != nil {
		return "", invalid("%s must name a host: %s", field, err)
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

// redoxHosts are the hosts of Redox's API. They are always allowed.
var redoxHosts = []string{"api.redoxengine.com", "api.ca.redoxengine.com"}

// isRedox reports whether host is one of the two hosts of Redox's API. It compares
// whole names: a comparison of endings would accept names that are not Redox's,
// such as evil.example;.redoxengine.com.
func isRedox(host string) bool { return slices.Contains(redoxHosts, host) }

var (
	hostName   = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)
	lastNumber = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

// parseHost returns text, a host or host:port, in the form in which hosts are compared: in
// lower case, without port 443, and an IPv6 address in brackets and as short as possible.
// The error says what is wrong with text, and does not quote it.
func parseHost(text string) (host string, err error) {
	name, port := strings.ToLower(text), "443"
	at := strings.LastIndexByte(name, ':')
	switch {
	case text == "":
		return "", invalid("it is empty")
	case strings.IndexFunc(text, func(r rune) bool { return r > '~' || r < '!' }) >= 0:
		return "", invalid("it has blanks, or characters that are not printable ASCII: write the name as DNS has it, in " +
			"its xn-- form")
	case strings.Contains(text, "://"):
		return "", invalid("it is a URL: leave out the scheme, and all behind the host and its port")
	case strings.ContainsAny(text, `/\`):
		return "", invalid("it has a path: leave that out")
	case strings.Contains(text, "*"):
		return "", invalid("it has a *: each host is named in full")
	case name[0] != '[' && strings.IndexByte(name, ':') < at:
		return "", invalid("an IPv6 address needs brackets, such as [2001:db8::1]:8443")
	case at > strings.LastIndexByte(name, ']'):
		name, port = name[:at], name[at+1:]
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 || port[0] == '0' {
			return "", invalid("its port must be 1 to 65535")
		}
	}
	if name, err = parseHostName(name); err != nil {
		return "", err
	}
	if port != "443" {
		name += ":" + port
	}
	return name, nil
}

func parseHostName(name string) (string, error) {
	if inside, is := strings.CutPrefix(name, "["); is {
		inside, is = strings.CutSuffix(inside, "]")
		address, err := netip.ParseAddr(inside)
		if !is || err != nil || !address.Is6() || address.Zone() != "" {
			return "", invalid("what is in brackets must be an IPv6 address without a zone")
		}
		return "[" + address.String() + "]", nil
	}
	switch {
	case strings.HasSuffix(name, "."):
		return "", invalid("it ends with a dot: leave that out")
	case len(name) > 253 || !hostName.MatchString(name):
		return "", invalid("a host has at most 253 characters: parts of a-z 0-9 _ - with single dots between them, each " +
			"at most 63 long and with no - at its ends")
	case lastNumber.MatchString(name):
		if address, err := netip.ParseAddr(name); err != nil || !address.Is4() {
			return "", invalid("it ends like an IPv4 address and is none")
		}
	}
	return name, nil
}

// tokenURLs are Redox's token endpoints by region.
var tokenURLs = map[string]string{
	"us": "https://api.redoxengine.com/v2/auth/token",
	"ca": "https://api.ca.redoxengine.com/v2/auth/token",
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

// unpin clears a token URL and an audience that equal their defaults: the token URL
// then follows the region, and the audience the token URL. So what a read shows can be
// written back, and means the same.
func (c *config) unpin() {
	if c.TokenURL == tokenURLs[c.Region] {
		c.TokenURL = ""
	}
	if c.Audience == c.tokenURL() {
		c.Audience = ""
	}
}
