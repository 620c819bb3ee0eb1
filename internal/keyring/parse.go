package keyring

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The sizes in bits that a key may have. Redox documents none; libraries
// refuse less than 2048, and over 4096 a signature takes longer than a
// token request.
const (
	MinBits = 2048
	MaxBits = 4096
)

const wanted = "give an RSA private key as PEM (PKCS#8 or PKCS#1) or as a JWK"

// Parse reads an RSA private key from PEM (PKCS#8 or PKCS#1, also with its
// line ends written as \n, as environment variables hold it) or from a private
// JWK. The ID is id when given, else the JWK's kid, else the thumbprint.
// Errors are of type [Rule]; they name what was found and never quote it.
func Parse(text string, id ID, now time.Time) (*Key, error) {
	text = strings.TrimSpace(text)
	var private *rsa.PrivateKey
	var err error
	switch {
	case text == "":
		return nil, ruleError("it is empty: %s", wanted)
	case strings.HasPrefix(text, "{"):
		private, id, err = parseJWK(text, id)
	case strings.Contains(text, "-----BEGIN "):
		private, err = parsePEM(text)
	case looksLikePath(text):
		return nil, ruleError("it looks like a file's name: did you mean private_key=@%s?", text)
	default:
		return nil, ruleError("it is neither PEM nor JSON: %s", wanted)
	}
	if err != nil {
		return nil, err
	}
	if err := checkRSA(private); err != nil {
		return nil, err
	}
	return newKey(private, id, Imported, now)
}

// looksLikePath is narrow on purpose: what it accepts is quoted in a message.
func looksLikePath(text string) bool {
	if len(text) > 128 || strings.ContainsAny(text, "\r\n\t \\+=") {
		return false
	}
	for _, suffix := range []string{".pem", ".key", ".json", ".jwk"} {
		if strings.HasSuffix(text, suffix) {
			return true
		}
	}
	return false
}

func parsePEM(text string) (*rsa.PrivateKey, error) {
	text = strings.NewReplacer(`\r`, "", `\n`, "\n").Replace(text) // PEM itself has no backslash
	if strings.Count(text, "-BEGIN ") > 1 {
		return nil, ruleError("it holds more than one PEM block: give the private key alone")
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil {
		return nil, ruleError("the PEM block is damaged: copy it whole, from -----BEGIN to -----END, with its line ends")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, ruleError("there is text after the PEM block: give the private key alone")
	}
	if block.Headers["Proc-Type"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, ruleError("the private key is encrypted with a passphrase: decrypt it first (openssl pkey -in key.pem -out plain.pem)")
	}
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, damagedKey("PKCS#8", err)
		}
		private, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, ruleError("it is a private key of another kind (EC or Ed25519): Redox's RS384 needs an RSA key")
		}
		return private, nil
	case "RSA PRIVATE KEY":
		private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, damagedKey("PKCS#1", err)
		}
		return private, nil
	case "EC PRIVATE KEY":
		return nil, ruleError("it is an EC private key: Redox's RS384 needs an RSA key")
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return nil, ruleError("it is a public key: the engine needs the private one")
	case "CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL":
		return nil, ruleError("it is a certificate or part of one: %s", wanted)
	case "OPENSSH PRIVATE KEY":
		return nil, ruleError("it is in OpenSSH's own format: convert it first (ssh-keygen -p -m PEM -f key)")
	}
	return nil, ruleError("it is a PEM block of an unknown type: %s", wanted)
}

// damagedKey keeps from crypto's errors only the classes that an operator can
// act on.
func damagedKey(format string, err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "exponent"):
		return ruleError("its public exponent is even, too small or too large: generate another key")
	case strings.Contains(text, "unknown algorithm"):
		return ruleError("it is a private key of another kind (such as RSA-PSS): Redox's RS384 needs a plain RSA key")
	}
	return ruleError("it is not a valid %s RSA key: copy it again, or generate another", format)
}

func parseJWK(text string, id ID) (*rsa.PrivateKey, ID, error) {
	var head struct {
		KeyType   string          `json:"kty"`
		Algorithm string          `json:"alg"`
		Use       string          `json:"use"`
		ID        *string         `json:"kid"`
		D         string          `json:"d"`
		P         string          `json:"p"`
		Q         string          `json:"q"`
		Keys      json.RawMessage `json:"keys"`
	}
	switch err := json.Unmarshal([]byte(text), &head); {
	case err != nil:
		return nil, "", ruleError("it is not a JWK: the JSON is damaged, or a member has the wrong type")
	case head.Keys != nil:
		return nil, "", ruleError("it is a JWK Set: give one of its keys alone")
	case head.KeyType != "RSA":
		return nil, "", ruleError("its kty is not RSA: Redox's RS384 needs an RSA key")
	case head.Algorithm != "" && head.Algorithm != "RS384":
		return nil, "", ruleError("its alg is not RS384, the only algorithm Redox documents")
	case head.Use != "" && head.Use != "sig":
		return nil, "", ruleError("its use is not sig: it was not made for signing")
	case head.D == "":
		return nil, "", ruleError("it is a public JWK (it has no d): the engine needs the private one")
	case head.P == "" || head.Q == "":
		return nil, "", ruleError("it is a JWK without its primes p and q: export it with them, or as PEM")
	}
	if head.ID != nil {
		kid, err := ParseID(*head.ID)
		if err != nil {
			return nil, "", ruleError("its kid cannot be used: %s", err)
		}
		if id != "" && id != kid {
			return nil, "", ruleError("its kid differs from the field key_id: leave key_id out")
		}
		id = kid
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON([]byte(text)); err != nil {
		return nil, "", damagedKey("JWK", err)
	}
	private, ok := key.Key.(*rsa.PrivateKey)
	if !ok {
		return nil, "", ruleError("it is not a private RSA key: %s", wanted)
	}
	return private, id, nil
}

// checkRSA adds what the decoders let pass; they check the exponent, and that
// the numbers belong together.
func checkRSA(private *rsa.PrivateKey) error {
	switch bits := private.N.BitLen(); {
	case bits < MinBits:
		return ruleError("it has %d bits, and a key needs at least %d", bits, MinBits)
	case bits > MaxBits:
		return ruleError("it has %d bits, and a key may have at most %d", bits, MaxBits)
	case len(private.Primes) != 2:
		return ruleError("it has %d primes: RSA keys for JWT have two", len(private.Primes))
	}
	return nil
}
