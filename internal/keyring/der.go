package keyring

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strconv"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/pasted"
)

const (
	isPublic      = "it is a public key: the engine needs the private one"
	isCertificate = "it is a certificate, a certificate request or a revocation list: " + wanted
	isEncrypted   = "the private key is encrypted with a passphrase: decrypt it first " +
		"(openssl pkey -in key.pem -out plain.pem)"
	isEC = "it is an EC private key: Redox's RS384 needs an RSA key"
)

// labels has, for a part of a PEM block's label, the message about such a block if the engine cannot
// read its content. The first row that matches counts.
var labels = []struct{ part, message string }{
	{"PGP ", "it is a key of PGP: " + wanted},
	{"OPENSSH PRIVATE KEY", fromOpenSSH},
	{"ENCRYPTED PRIVATE KEY", isEncrypted},
	{"EC PRIVATE KEY", isEC},
	{"DSA PRIVATE KEY", "it is a DSA private key: Redox's RS384 needs an RSA key"},
	{"PUBLIC KEY", isPublic},
	{"CERTIFICATE", isCertificate},
	{"X509 CRL", isCertificate},
	{"PKCS7", "it is PKCS#7, which holds certificates and no private key: " + wanted},
	{"CMS", "it is PKCS#7, which holds certificates and no private key: " + wanted},
	{"PARAMETERS", "it holds parameters and no key: " + wanted},
}

// severalKeys returns the error for a text with n private keys, more than one: the engine does not
// choose.
func severalKeys(n int) error {
	count := strconv.Itoa(n)
	if n == 2 {
		count = "two"
	}
	return ruleError("it holds %s private keys: give only the one that you mean", count)
}

func byLabel(label string) (message string) {
	for _, known := range labels {
		if strings.Contains(label, known.part) {
			return known.message
		}
	}
	return ""
}

// readPEM reads the one private key among the PEM blocks of text. A block holds a private key if its
// label says so or if its content is PKCS#1 or PKCS#8. The content alone decides in which of these
// formats it is read.
func readPEM(text string) (found, error) {
	blocks, err := pasted.Blocks(text)
	if err != nil {
		return found{}, Rule(err.Error())
	}
	var private []pasted.Block
	for _, block := range blocks {
		if form := shape(block.Bytes); strings.Contains(block.Label, "PRIVATE KEY") || form == "PKCS#1" || form == "PKCS#8" {
			private = append(private, block)
		}
	}
	switch {
	case len(private) > 1:
		return found{}, severalKeys(len(private))
	case len(blocks) == 0:
		return found{}, ruleError("its BEGIN line is damaged: copy it whole, from -----BEGIN to -----END")
	case len(private) == 0:
		if message := byLabel(blocks[0].Label); message != "" {
			return found{}, Rule(message)
		}
		return found{}, ruleError("it is a PEM block of an unknown type: %s", wanted)
	}
	switch block := private[0]; {
	case block.Encrypted:
		return found{}, Rule(isEncrypted)
	case shape(block.Bytes) == "" && byLabel(block.Label) != "":
		return found{}, Rule(byLabel(block.Label))
	case block.Bytes == nil:
		return found{}, ruleError("there is no base64 between the BEGIN and the END line: copy it again, whole")
	default:
		return readDER(block.Bytes)
	}
}

// shapes lists the DER formats that the engine recognises, by the types of the first elements of the
// outer SEQUENCE: i INTEGER, b BIT STRING, o OCTET STRING, O OBJECT IDENTIFIER, s SEQUENCE. The
// first row that matches counts.
var shapes = []struct{ form, name string }{
	{"iiiiiiiii", pkcs1Form}, {"iso", pkcs8Form}, {"is", "PKCS#12"}, {"iiiiii", "DSA"}, {"ii", "public"}, {"io", "SEC 1"},
	{"so", "encrypted"}, {"sb", "public"}, {"ssb", "certificate"}, {"O", "PKCS#7"},
}

const (
	pkcs1Form = "PKCS#1"
	pkcs8Form = "PKCS#8"
)

// byShape has the message about each DER format that the engine recognises but cannot read.
var byShape = map[string]string{
	"PKCS#12": fromPKCS12, "SEC 1": isEC, "encrypted": isEncrypted, "public": isPublic, "certificate": isCertificate,
	"DSA": byLabel("DSA PRIVATE KEY"), "PKCS#7": byLabel("PKCS7"),
}

// shape returns the name of the format of der, "" for a format that is not in shapes.
func shape(der []byte) string {
	var outer, element asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil || outer.Tag != asn1.TagSequence {
		return ""
	}
	form := ""
	for rest := outer.Bytes; len(rest) > 0 && len(form) < 9; {
		var err error
		if rest, err = asn1.Unmarshal(rest, &element); err != nil {
			break
		}
		form += map[int]string{
			asn1.TagInteger: "i", asn1.TagBitString: "b", asn1.TagOctetString: "o", asn1.TagOID: "O", asn1.TagSequence: "s",
		}[element.Tag] // empty for other tags, such as those of attributes
	}
	for _, known := range shapes {
		if strings.HasPrefix(form, known.form) {
			return known.name
		}
	}
	return ""
}

// readDER reads a private key in PKCS#1 or PKCS#8. If der is in another of the formats in shapes,
// the error says in which.
func readDER(der []byte) (found, error) {
	if err := checkEnd(der); err != nil {
		return found{}, err
	}
	switch name := shape(der); {
	case name == pkcs1Form:
		numbers, err := readPKCS1(der)
		return found{numbers: numbers}, err
	case name == pkcs8Form:
		numbers, err := readPKCS8(der)
		return found{numbers: numbers}, err
	case byShape[name] != "":
		return found{}, Rule(byShape[name])
	}
	return found{}, damaged("PKCS#8 or PKCS#1")
}

func damaged(format string) error {
	return ruleError("it is not a valid %s RSA key: copy it again, or generate another", format)
}

// checkEnd returns an error if der does not begin with a SEQUENCE, or is shorter or longer than the
// SEQUENCE says.
func checkEnd(der []byte) error {
	if len(der) < 4 || der[0] != 0x30 || der[1] == 0x80 { // DER has no indefinite length
		return damaged("PKCS#8 or PKCS#1")
	}
	begin, size := 2, int(der[1])
	if size > 0x80 { // the length is in the next bytes
		begin += size & 0x7f
		if begin > 6 || begin > len(der) {
			return damaged("PKCS#8 or PKCS#1")
		}
		size = 0
		for _, b := range der[2:begin] {
			size = size<<8 | int(b)
		}
	}
	switch total := begin + size; {
	case total > len(der):
		return ruleError("it is cut short: %d of its %d bytes are there: copy it whole", len(der), total)
	case total < len(der):
		return ruleError("%d bytes follow the key and do not belong to it: export it again", len(der)-total)
	}
	return nil
}

// readPKCS8 reads an RSA key in PKCS#8 (RFC 5958). It ignores attributes, and accepts an algorithm
// without parameters.
func readPKCS8(der []byte) (numbers, error) {
	var info struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return numbers{}, damaged(pkcs8Form)
	}
	switch info.Algorithm.Algorithm.String() {
	case "1.2.840.113549.1.1.1":
		if err := checkEnd(info.Key); err != nil {
			return numbers{}, err
		}
		return readPKCS1(info.Key)
	case "1.2.840.10045.2.1":
		return numbers{}, Rule(isEC)
	case "1.3.101.112", "1.3.101.113":
		return numbers{}, ruleError("it is a private key of another kind (Ed25519 or Ed448): Redox's RS384 needs an RSA key")
	}
	return numbers{}, ruleError("it is a private key of another kind (such as RSA-PSS): Redox's RS384 needs a plain " +
		"RSA key")
}

// readPKCS1 reads PKCS#1 (RFC 8017 appendix A.1.2). It accepts zeros in place of d, p and q, as some
// programs write them: [numbers.complete] computes what is missing. It does not use the CRT values.
func readPKCS1(der []byte) (numbers, error) {
	var key struct {
		Version                    int
		N, E, D, P, Q, Dp, Dq, Inv *big.Int
		More                       []struct{ R, D, T *big.Int } `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &key); err != nil {
		return numbers{}, damaged(pkcs1Form)
	}
	if len(key.More) > 0 {
		return numbers{}, ruleError("it has %d primes: RSA keys for JWT have two", 2+len(key.More))
	}
	return numbers{n: key.N, e: key.E, d: key.D, p: key.P, q: key.Q}, nil
}
