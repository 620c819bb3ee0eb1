package keyring

import (
	"regexp"
	"strings"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/pasted"
)

// These are the sizes of the smallest and the largest key, in bits. Redox documents no limits. RFC
// 7518 section 3.3 requires at least 2048. A signature with more than 4096 is slow.
const (
	MinBits = 2048
	MaxBits = 4096
)

// maxText is the size of the largest text that Parse accepts, in bytes. A bundle of a key and
// certificates has a few thousand.
const maxText = 256 << 10

const wanted = "give an RSA private key as PEM (PKCS#8 or PKCS#1) or as a JWK"

// found is the private key that was found in a text, with its kid and the warnings
// about it.
type found struct {
	numbers
	id       ID // the kid of a JWK, else empty
	warnings []string
}

// Parse finds the one RSA private key in text, completes it and checks it. The key is a JWK, or
// PKCS#8 or PKCS#1 in PEM or as DER in base64. It may be quoted, escaped, indented, in base64, or
// among certificates. Its ID is id if that is not empty, else the JWK's kid, else the thumbprint. The
// warnings are for the person who gave the text.
//
// Errors say what was found, and quote nothing of a private key. Those about the text are of type
// [Rule].
func Parse(text string, id ID, now time.Time) (*Key, []string, error) {
	if len(text) > maxText {
		return nil, nil, ruleError("it has more than %d KiB: %s", maxText>>10, wanted)
	}
	got, err := find(text, 3)
	if err != nil {
		return nil, nil, err
	}
	if id != "" && got.id != "" && id != got.id {
		return nil, nil, ruleError("its kid differs from the field key_id: leave key_id out, or remove kid from the JWK")
	}
	private, err := got.complete()
	if err != nil {
		return nil, nil, err
	}
	if got.id != "" {
		id = got.id
	}
	k, err := newKey(private, id, Imported, now)
	return k, got.warnings, err
}

// find finds the key in text, which may be encoded in base64 up to layers times.
func find(text string, layers int) (found, error) {
	if pasted.IsUTF16(text) {
		return found{}, ruleError("it is in UTF-16, as PowerShell and Notepad write it: " +
			"save it as UTF-8 (iconv -f UTF-16 -t UTF-8 key.pem > utf8.pem)")
	}
	clean := pasted.Clean(text)
	switch {
	case clean == "":
		return found{}, ruleError("it is empty: %s", wanted)
	case pasted.IsJSON(clean):
		return readJSON(clean)
	case strings.Contains(clean, "-----BEGIN "):
		return readPEM(clean)
	case strings.Contains(clean, `"kty"`), strings.Contains(clean, `'kty'`):
		return readJSON(withoutIntroduction(clean))
	}
	if message := bySight(text); message != "" {
		return found{}, Rule(message)
	}
	if _, err := pasted.Blocks(clean); err != nil {
		return found{}, Rule(err.Error())
	}
	if message := pasted.FileName("private_key", text); message != "" {
		return found{}, Rule(message)
	}
	if raw, is := pasted.Base64(clean); is && len(raw) >= 64 && layers > 0 {
		return unwrap(raw, layers)
	}
	if what := binary(text); what != "" {
		return found{}, Rule(what)
	}
	return found{}, ruleError("it is neither PEM nor JSON: %s", wanted)
}

// withoutIntroduction replaces each character before the JSON with a blank, line ends aside, so that
// errors name the right line and column. If // or /* is there, it changes nothing: a file with
// comments is not JSON.
func withoutIntroduction(text string) string {
	for i := range text {
		if text[i] != '{' && text[i] != '[' || !pasted.IsJSON(text[i:]) {
			continue
		}
		if before := text[:i]; !strings.Contains(before, "//") && !strings.Contains(before, "/*") {
			return notLineEnd.ReplaceAllString(before, " ") + text[i:]
		}
		break
	}
	return text
}

var notLineEnd = regexp.MustCompile(`[^\n]`)

// unwrap finds the key in raw, which was decoded from base64. layers is as in find.
func unwrap(raw []byte, layers int) (found, error) {
	what := binary(string(raw))
	switch {
	case what == "" || pasted.IsUTF16(string(raw)):
		return find(string(raw), layers-1)
	case raw[0] == 0x30: // SEQUENCE
		return readDER(raw)
	}
	return found{}, ruleError("it is base64; decoded, %s", what)
}
