package redoxtest

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// piece is the length, in bytes, of the parts of a secret that are searched for. Any part of a
// secret that is at least two pieces long is found. A piece is long enough that no harmless
// text contains one by chance.
const piece = 24

// Leaks returns which texts contain which secrets, in whole or in a part of at least 48 bytes. Each
// map has names as its keys. Each result is "<name of the secret> in <name of the text>".
func Leaks(texts, secrets map[string]string) []string {
	pieces := map[string][]string{} // names of the secrets that contain each piece
	var short []string              // secrets that are too short for pieces
	for name, secret := range secrets {
		if len(secret) < piece {
			short = append(short, name)
			continue
		}
		for i := 0; i+piece <= len(secret); i += piece {
			pieces[secret[i:i+piece]] = append(pieces[secret[i:i+piece]], name)
		}
		end := secret[len(secret)-piece:]
		pieces[end] = append(pieces[end], name)
	}
	found := map[string]bool{}
	for where, text := range texts {
		for i := 0; i+piece <= len(text); i++ {
			for _, name := range pieces[text[i:i+piece]] {
				found[name+" in "+where] = true
			}
		}
		for _, name := range short {
			if secrets[name] != "" && strings.Contains(text, secrets[name]) {
				found[name+" in "+where] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Secrets returns what [Leaks] must search for: the claims and the signature of each assertion
// that Assertions returns, and every token that was issued.
func (s *Sandbox) Secrets() map[string]string {
	secrets := map[string]string{}
	for i, assertion := range s.Assertions() {
		_, signed, _ := strings.Cut(assertion, ".") // the header is no secret
		claims, signature, _ := strings.Cut(signed, ".")
		secrets[fmt.Sprintf("claims of assertion %d", i)] = claims
		secrets[fmt.Sprintf("signature of assertion %d", i)] = signature
	}
	for i, token := range s.Tokens() {
		secrets[fmt.Sprintf("token %d", i)] = token
	}
	return secrets
}

// KeySecrets returns what [Leaks] must search for to find a private key in the usual encodings.
// It leaves out the public half, which some of them contain too.
func KeySecrets(name string, key *rsa.PrivateKey) (map[string]string, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding key %s: %w", name, err)
	}
	secrets := map[string]string{}
	for format, der := range map[string][]byte{"PKCS#8": pkcs8, "PKCS#1": x509.MarshalPKCS1PrivateKey(key)} {
		text := base64.StdEncoding.EncodeToString(der)
		// Skip the first three tenths, which contain the modulus, and then up to the next
		// line of PEM: a line has 64 characters.
		secrets["key "+name+" as "+format] = text[len(text)*3/10/64*64+64:]
	}
	for number, value := range map[string]*big.Int{"d": key.D, "p": key.Primes[0], "q": key.Primes[1]} {
		secrets["key "+name+", "+number+" in base64url"] = base64.RawURLEncoding.EncodeToString(value.Bytes())
		secrets["key "+name+", "+number+" in base64"] = base64.StdEncoding.EncodeToString(value.Bytes())
		secrets["key "+name+", "+number+" in hex"] = hex.EncodeToString(value.Bytes())
		secrets["key "+name+", "+number+" in decimal"] = value.String()
	}
	return secrets, nil
}
