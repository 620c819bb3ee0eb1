package keyring

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/pasted"
)

// jwk holds the members of a JWK, not yet decoded.
type jwk map[string]json.RawMessage

// has reports whether the member exists and is not null, "" or [].
func (j jwk) has(name string) bool {
	raw := strings.TrimSpace(string(j[name]))
	return raw != "" && raw != "null" && raw != `""` && raw != "[]"
}

func (j jwk) isPrivate() bool { return j.has("d") || j.has("p") || j.has("q") }

// text returns a member that must be a string, "" if the JWK does not have it.
func (j jwk) text(name string) (text string, err error) {
	if j.has(name) && json.Unmarshal(j[name], &text) != nil {
		return "", ruleError("its %s has to be a string", name)
	}
	return text, nil
}

// readJWK reads an RSA private key (RFC 7517, and RFC 7518 section 6.3).
func readJWK(j jwk) (found, error) {
	if err := j.checkPurpose(); err != nil {
		return found{}, err
	}
	var got found
	kid, err := j.text("kid")
	if err == nil && kid != "" {
		if got.id, err = ParseID(kid); err != nil {
			err = ruleError("its kid cannot be used: %s; "+
				"remove kid from the JWK and import the rest, then give Redox the public half, which has a new kid", err)
		}
	}
	if err != nil {
		return found{}, err
	}
	for _, member := range []struct {
		name string
		into **big.Int
	}{{"n", &got.n}, {"e", &got.e}, {"d", &got.d}, {"p", &got.p}, {"q", &got.q}} {
		if *member.into, err = j.number(member.name); err != nil {
			return found{}, err
		}
	}
	if got.otherCertificate(j) {
		got.warnings = append(got.warnings,
			"the certificate in x5c belongs to another key: the key was imported without x5c")
	}
	return got, nil
}

// checkPurpose returns an error if the JWK is not a private RSA key with two primes, or if alg, use
// or key_ops say that it is not for signing with RS384.
func (j jwk) checkPurpose() error {
	kty, err := j.text("kty")
	switch {
	case err != nil:
		return err
	case strings.EqualFold(kty, "RSA") && kty != "RSA":
		return ruleError("its kty has to be RSA, in capitals")
	case kty != "RSA":
		return ruleError("its kty is %s: Redox's RS384 needs an RSA key", brief(kty, "not RSA"))
	}
	alg, err := j.text("alg")
	if err != nil {
		return err
	}
	use, err := j.text("use")
	if err != nil {
		return err
	}
	otherUse, otherAlg := use != "" && use != "sig", alg != "" && alg != "RS384"
	switch {
	case otherUse && otherAlg:
		return ruleError("its alg is %s and its use %s: it was not made for signing, so generate another key",
			brief(alg, "another"), brief(use, "another"))
	case otherUse:
		return ruleError("its use is %s and not sig: it was not made for signing, so generate another key",
			brief(use, "another"))
	case otherAlg:
		return ruleError("its alg is %s, and Redox documents only RS384: remove alg if the key is meant for Redox",
			brief(alg, "another"))
	case j.has("oth"):
		return ruleError("it has more than two primes (oth): RSA keys for JWT have two")
	case !j.isPrivate():
		return ruleError("it is a public JWK (it has no d): the engine needs the private one")
	}
	return j.checkOperations()
}

func (j jwk) checkOperations() error {
	if raw := j["key_ops"]; raw != nil && string(raw) != "null" {
		var operations []string
		if json.Unmarshal(raw, &operations) != nil {
			return ruleError("its key_ops has to be a list of strings")
		}
		if !slices.Contains(operations, "sign") {
			return ruleError("its key_ops has no sign: it was not made for signing; remove key_ops if the key is meant for " +
				"Redox")
		}
	}
	return nil
}

var briefly = regexp.MustCompile(`^[A-Za-z0-9+_. -]{1,16}$`)

// brief returns value, which is an alg, use or kty, for a message. If value is empty, longer than 16
// characters or has unusual ones, brief returns the argument otherwise.
func brief(value, otherwise string) string {
	if briefly.MatchString(value) {
		return value
	}
	return otherwise
}

var hexadecimal = regexp.MustCompile(`^[0-9A-Fa-f:]{128,}$`)

// number reads a member that is a number in base64url. It also accepts base64, and a whole JSON number
// for e. It returns zero if the member does not exist, but n and e must exist.
func (j jwk) number(name string) (*big.Int, error) {
	if !j.has(name) {
		if name == "n" || name == "e" {
			return nil, ruleError("it has no %s: an RSA key in a JWK has n and e", name)
		}
		return new(big.Int), nil
	}
	if plain, err := strconv.ParseUint(string(j[name]), 10, 63); err == nil && name == "e" {
		return new(big.Int).SetUint64(plain), nil
	}
	var text string
	if json.Unmarshal(j[name], &text) != nil {
		return nil, ruleError("its member %s has to be a string, in base64url", name)
	}
	if hexadecimal.MatchString(text) {
		return nil, ruleError("its member %s is in hexadecimal or decimal, which is not base64url: export it again", name)
	}
	raw, is := pasted.Base64(text)
	if !is {
		return nil, ruleError("its member %s is not base64url: copy it again", name)
	}
	return new(big.Int).SetBytes(raw), nil
}

// otherCertificate reports whether the first certificate in x5c belongs to another key. It returns
// false if it cannot read that certificate.
func (k numbers) otherCertificate(j jwk) bool {
	var chain []string
	if json.Unmarshal(j["x5c"], &chain) != nil || len(chain) == 0 {
		chain = []string{""}
		_ = json.Unmarshal(j["x5c"], &chain[0])
	}
	der, err := base64.StdEncoding.DecodeString(chain[0])
	if err != nil {
		return false
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return false
	}
	public, isRSA := certificate.PublicKey.(*rsa.PublicKey)
	return !isRSA || public.N.Cmp(k.n) != 0
}
