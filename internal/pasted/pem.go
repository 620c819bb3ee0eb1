package pasted

import (
	"errors"
	"regexp"
	"slices"
	"strings"
)

// Block is one PEM block.
type Block struct {
	Label     string // such as PRIVATE KEY
	Bytes     []byte // nil if Encrypted, or if the text between BEGIN and END is empty or not base64
	Encrypted bool   // by its RFC 1421 headers
}

// dashes matches a hyphen, or a dash that word processors put in its place.
const dashes = `[-\x{2010}-\x{2015}\x{2212}]`

var (
	marker = regexp.MustCompile(`-----(BEGIN|END) ([A-Z0-9][A-Z0-9 .#]*)-----`)
	almost = regexp.MustCompile(`(?i)(?:` + dashes + `{1,5}|^|\n) *(BEGIN|END) +((?:(?:RSA|EC|DSA|ANY|ENCRYPTED|` +
		`OPENSSH|TRUSTED|X509|PRIVATE|PUBLIC) +)*(?:KEY|CERTIFICATE)) *(?:` + dashes + `{1,5}|\n|$)`)
)

// Blocks returns all PEM blocks in text, and ignores the text around them. text comes
// from Clean. Blocks accepts more than encoding/pem: the lines of a block may be indented,
// quoted, empty, joined or of any length. It returns an error if only the BEGIN or only
// the END line of a block is there, if their labels differ, or if a line looks like a
// damaged BEGIN or END line of a key or certificate.
func Blocks(text string) ([]Block, error) {
	markers := marker.FindAllStringSubmatchIndex(text, -1)
	for _, at := range almost.FindAllStringSubmatchIndex(text, -1) {
		if !slices.ContainsFunc(markers, func(m []int) bool { return m[2] == at[2] }) {
			return nil, damage(text[at[2]:at[3]], text[at[4]:at[5]])
		}
	}
	var blocks []Block
	for i := 0; i < len(markers); i += 2 {
		begin := markers[i]
		switch {
		case text[begin[2]:begin[3]] == "END":
			return nil, errors.New("the BEGIN line is missing: copy the whole block, from -----BEGIN to -----END")
		case i+1 == len(markers) || text[markers[i+1][2]:markers[i+1][3]] == "BEGIN":
			return nil, errors.New("the END line is missing, so the block is cut short: copy it whole, from -----BEGIN to " +
				"-----END")
		}
		end := markers[i+1]
		if text[begin[4]:begin[5]] != text[end[4]:end[5]] {
			return nil, errors.New("the labels of the BEGIN and the END line differ: " +
				"they are parts of two blocks, or one was edited")
		}
		block := Block{Label: text[begin[4]:begin[5]]}
		block.Bytes, block.Encrypted = body(text[begin[1]:end[0]])
		blocks = append(blocks, block)
	}
	return blocks, nil
}

// damage returns an error that says what is wrong with a BEGIN or END line.
func damage(keyword, label string) error {
	upper := strings.ToUpper(keyword)
	if keyword != upper || label != strings.ToUpper(label) {
		return errors.New("the " + upper + " line has to be in capitals: -----" + upper + " …-----")
	}
	return errors.New("the dashes of the " + upper + " line are not five hyphens before and five after, " +
		"or there is a blank too many: -----" + upper + " …-----")
}

// joint matches the code that joins two lines of a string literal: a quote, perhaps + or
// a dot, a line end, perhaps + or a dot, and a quote.
var joint = regexp.MustCompile(`["']\s*[+.]?\s*\n\s*[+.]?\s*["']`)

// separators turns the characters that damaged texts have instead of a line end into line
// ends, and =3D, which mail writes for =, into =.
var separators = strings.NewReplacer(",", "\n", ";", "\n", "|", "\n", "^M", "\n", "=3D", "=")

// body decodes the text between BEGIN and END. raw is nil if the text is encrypted, empty
// or not base64.
func body(text string) (raw []byte, encrypted bool) {
	if strings.Contains(text, "Proc-Type:") {
		return nil, true
	}
	var code strings.Builder
	text = separators.Replace(joint.ReplaceAllString(strings.Trim(text, "-"), "\n"))
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line)+" ", "// ")
		if !strings.Contains(line, ":") { // a line with a colon is a header
			code.WriteString(strings.TrimFunc(line, isNoBase64))
		}
	}
	if raw, is := Base64(code.String()); is {
		return raw, false
	}
	return nil, false
}

// isNoBase64 reports whether r cannot occur in base64 or base64url.
func isNoBase64(r rune) bool {
	return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("+/=-_", r)
}
