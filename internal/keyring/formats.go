package keyring

import (
	"regexp"
	"strings"
)

// These are the messages about formats that the engine recognises but cannot read.
const (
	fromPKCS12 = "it is PKCS#12 (.p12, .pfx), which is binary: extract the private key " + outOfPKCS12
	fromJKS    = "it is a Java keystore, which is binary: convert it to PKCS#12 (keytool -importkeystore " +
		"-srckeystore key.jks -destkeystore key.p12 -deststoretype PKCS12), and that to PEM " + outOfPKCS12
	outOfPKCS12 = "(openssl pkcs12 -in key.p12 -nodes -nocerts -out key.pem)"

	fromDER  = "it is DER, which is binary: convert it (openssl pkey -inform DER -in key.der -out key.pem)"
	fromBlob = "it is a Microsoft PRIVATEKEYBLOB, which is binary: convert it " +
		"(openssl rsa -inform MSBLOB -in key.blob -out key.pem)"
	fromOpenSSH = "it is in OpenSSH's own format: convert a copy, as the command rewrites the file " +
		`(install -m 600 key key.pem && ssh-keygen -p -N "" -m PEM -f key.pem)`
	fromSSHCom = "it is in the format of ssh.com: convert it (ssh-keygen -i -f key > key.pem)"
	fromSSH    = "it is an SSH public key: the engine needs the private one"
	fromPuTTY  = "it is a PuTTY key (.ppk): convert it (puttygen key.ppk -O private-openssh -o key.pem)"
	fromXML    = "it is XML of .NET (RSAKeyValue): export the key as PEM (RSA.ExportPkcs8PrivateKeyPem)"
	isJWT      = "it is a signed JWT: the engine needs the private key that signs JWTs"
	isJWE      = "it is encrypted (a JWE): decrypt it, and give the JWK in it"
)

var formats = []struct {
	mark    *regexp.Regexp
	message string
}{
	{regexp.MustCompile(`(?m)^PuTTY-User-Key-File-`), fromPuTTY},
	{regexp.MustCompile(`BEGIN SSH2 PUBLIC KEY`), fromSSH},
	{regexp.MustCompile(`BEGIN SSH2 `), fromSSHCom},
	{regexp.MustCompile(`(?m)^\s*(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-\S+) AAAA`), fromSSH},
	{regexp.MustCompile(`<(?:RSAKeyValue|Modulus)>`), fromXML},
	{regexp.MustCompile(`^\s*["']?eyJ[\w-]+\.[\w-]+\.[\w-]*["']?\s*$`), isJWT},
	{regexp.MustCompile(`^\s*["']?eyJ[\w-]+(?:\.[\w-]*){4}["']?\s*$`), isJWE},
}

// bySight returns the message for text if it is in one of the formats, else "".
func bySight(text string) string {
	for _, format := range formats {
		if format.mark.MatchString(text) {
			return format.message
		}
	}
	return ""
}

// binary returns the message for text if one of its first bytes shows that it is binary, else "". It
// treats a byte that is not UTF-8 like U+FFFD, because JSON replaces such bytes with that
// character.
func binary(text string) string {
	head := []rune(text)
	head = head[:min(len(head), 256)]
	begin := string(head[:min(len(head), 16)])
	strange := func(r rune) bool { return r == '\ufffd' || r < ' ' && !strings.ContainsRune("\t\n\r", r) }
	switch {
	case !strings.ContainsFunc(string(head), strange):
		return ""
	case strings.HasPrefix(begin, "\ufffd\ufffd\ufffd\ufffd\x00\x00\x00"): // FEEDFEED, or CECECECE
		return fromJKS
	case strings.HasPrefix(begin, "\a\x02\x00\x00"):
		return fromBlob
	case strings.HasPrefix(begin, "openssh-key-v1"):
		return fromOpenSSH
	case strings.HasPrefix(begin, "\x00\x00\x00\assh-"):
		return fromSSH
	case begin[0] == 0x30 && strings.Contains(begin, "\x02\x01\x03"):
		return fromPKCS12
	case begin[0] == 0x30:
		return fromDER
	}
	return "it is binary, in no format that the engine knows: " + wanted
}
