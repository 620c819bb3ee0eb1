package redox

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/pasted"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

const (
	hour = 60 * 60
	year = 365 * 24 * hour
)

// defaultClient is the client of the paths that do not begin with clients/<name>/.
const defaultClient = "default"

var clientName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$`)

// isClientName reports whether name is valid for a client other than the default one.
func isClientName(name string) bool {
	return name != defaultClient && clientName.MatchString(name) && !strings.Contains(name, "..")
}

// isClient reports whether name is valid for a client, including the default one.
func isClient(name string) bool { return name == defaultClient || isClientName(name) }

// unless returns nil if the rule holds, else a user error with the text of the rule.
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
	if strings.ContainsAny(id, "\"'`") {
		return invalid("client_id must not have quotes: write it as Redox's dashboard shows it")
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

// checkPeriod returns an error if rotation_period is not in its range. The lower limit keeps automatic
// rotations from filling a ring: at most six, with the one that replaces a key, can begin until that
// key may be deleted.
func checkPeriod(period, publishWindow, retireAfter int64) error {
	least := max(publishWindow+60, (retireAfter+publishWindow+5)/6)
	return unless(period == 0 || period >= least && period <= 10*year,
		"rotation_period must be 0 (off), or at least %ds with this publish_window and retire_after, "+
			"and at most 87600h", least)
}

func checkPlatformClient(name string, publicJWKS bool) error {
	switch {
	case name != "" && !isClient(name):
		return invalid("platform_client must be the name of a client: the name in clients/<name>/, or default for " +
			"the client of paths such as token")
	case name != "" && publicJWKS:
		return invalid("platform_client and public_jwks exclude each other: with a JWKS URL, Redox ignores all other keys")
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

// managedNames returns the name of each entry in the list. An entry has the form
// name=client ID.
func managedNames(list []string) []string {
	names := make([]string, 0, len(list))
	for _, entry := range list {
		name, _, _ := strings.Cut(entry, "=")
		names = append(names, name)
	}
	return names
}

// normalCA returns the certificates in text as PEM, without the rest of text, because a
// read of the config shows what is stored. It returns an error if a certificate cannot
// be read, because whoever gave it expects it to be trusted.
func normalCA(text string) (string, error) {
	if len(text) > 256<<10 {
		return "", invalid("ca_pem must be at most 256 KiB")
	}
	blocks, err := certificateBlocks(text)
	if err != nil {
		return "", err
	}
	var certificates []byte
	for i, block := range blocks {
		der := block.Bytes
		var outer asn1.RawValue
		if _, err := asn1.Unmarshal(der, &outer); err == nil && block.Label == "TRUSTED CERTIFICATE" {
			der = outer.FullBytes // without the data that OpenSSL appends
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			return "", invalid("ca_pem must be PEM: certificate %d of %d cannot be read (%s), so none was stored: "+
				"copy it again, whole", i+1, len(blocks), redoxapi.Quotable(err.Error(), 100))
		}
		certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(certificates), nil
}

// normalizeCA puts ca_pem into its normal form, see normalCA. It also keeps the text as it
// was given, if that differs and may be shown.
func (c *config) normalizeCA() error {
	normal, err := normalCA(c.CAPEM)
	if err == nil && normal != c.CAPEM {
		c.CAPEM, c.CAPEMGiven = normal, shownCA(c.CAPEM, normal)
	}
	return err
}

// shownCA returns text if a read of the config may show it. It returns "" if text has
// anything but the certificates in normal, blanks, and lines that begin with #, because
// the rest may be secret.
func shownCA(text, normal string) string {
	var rest strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			rest.WriteString(line)
		}
	}
	withoutBlanks := func(s string) string { return strings.Join(strings.Fields(s), "") }
	if normal == "" || withoutBlanks(rest.String()) != withoutBlanks(normal) {
		return ""
	}
	return text
}

// certificateBlocks returns the certificates in text, which is PEM, base64 of PEM, base64
// of one DER certificate, or empty. It returns an error if text is something else, or has a
// block of another kind. The certificates in PEM blocks may be damaged.
func certificateBlocks(text string) ([]pasted.Block, error) {
	clean := pasted.Clean(text)
	if raw, is := pasted.Base64(clean); is {
		if _, err := x509.ParseCertificate(raw); err == nil {
			return []pasted.Block{{Label: "CERTIFICATE", Bytes: raw}}, nil
		}
		if within := pasted.Clean(string(raw)); strings.Contains(within, "-----BEGIN ") {
			clean = within
		}
	}
	blocks, err := pasted.Blocks(clean)
	name := pasted.FileName("ca_pem", text)
	switch {
	case pasted.IsUTF16(text):
		return nil, invalid("ca_pem must be PEM, and is in UTF-16: save the file as UTF-8")
	case err != nil:
		return nil, invalid("ca_pem must be PEM: %s", err)
	case len(blocks) == 0 && name != "":
		return nil, invalid("ca_pem must be PEM: %s", name)
	case len(blocks) == 0 && strings.ContainsRune(clean, utf8.RuneError):
		return nil, invalid("ca_pem must be PEM, and is binary: convert it " +
			"(openssl x509 -inform DER -in ca.der -out ca.pem)")
	case len(blocks) == 0 && clean != "":
		return nil, invalid("ca_pem must be PEM: no CERTIFICATE block was found in it: give the file, ca_pem=@ca.pem")
	}
	for _, block := range blocks {
		switch block.Label {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
		case "PKCS7":
			return nil, invalid("ca_pem must hold CERTIFICATE blocks only, and is PKCS#7: convert it " +
				"(openssl pkcs7 -print_certs -in ca.p7b -out ca.pem)")
		default:
			return nil, invalid("ca_pem must hold CERTIFICATE blocks only, " +
				"and holds a block of another kind, such as a key")
		}
	}
	return blocks, nil
}
