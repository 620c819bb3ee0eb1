// Package pasted reads text that people paste. It undoes changes that editors, shells,
// mail, .env files, YAML and JSON make to a text. It finds the PEM blocks in the text, and
// recognises a file name that was given instead of the file's content. It does not parse
// keys or certificates. Its errors quote nothing of the text, but the message of FileName
// may repeat the file name.
package pasted

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// IsUTF16 reports whether text seems to be UTF-16: in ASCII text that was written as
// UTF-16, every second byte is zero. Call it before Clean, which removes zero bytes.
func IsUTF16(text string) bool {
	return strings.Count(text, "\x00") > utf8.RuneCountInString(text)/3
}

// IsJSON reports whether text begins like a JSON object, or like a JSON array of
// objects, arrays or strings. The rest may be damaged.
func IsJSON(text string) bool {
	rest, array := strings.CutPrefix(text, "[")
	rest = strings.TrimSpace(rest)
	return strings.HasPrefix(text, "{") || array && rest != "" && strings.Contains(`{["`, rest[:1])
}

// characters removes invisible characters, and replaces unusual blanks and line ends
// with the usual ones.
var characters = strings.NewReplacer(
	"\ufeff", "", "\u200b", "", "\u200c", "", "\u200d", "", "\u200e", "", "\u200f", "", "\u2060", "", "\u00ad", "",
	"\x00", "",
	"\u00a0", " ", "\u2007", " ", "\u202f", " ", "\u3000", " ",
	"\r\n", "\n", "\r", "\n", "\v", "\n", "\f", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n",
)

// Clean removes invisible characters, blanks at both ends, and layers of wrapping: quotes,
// an assignment, a code fence, tags and escapes. It unwraps text that begins like JSON
// only if the result is valid JSON.
func Clean(text string) string {
	text = strings.TrimSpace(characters.Replace(text))
	for range 8 { // each round removes a layer of wrapping
		before := text
		for _, unwrap := range []func(string) string{unfence, unassign, unquote, unmark, unescape} {
			if IsJSON(text) && json.Valid([]byte(text)) {
				return text
			}
			if plain := strings.TrimSpace(characters.Replace(unwrap(text))); !IsJSON(text) || json.Valid([]byte(plain)) {
				text = plain
			}
		}
		if text == before {
			break
		}
	}
	return text
}

var fence = regexp.MustCompile("(?s)^(?:```|~~~)[^\n]*\n(.*?)(?:```|~~~)$")

// unfence removes a Markdown code fence around the whole text.
func unfence(text string) string { return fence.ReplaceAllString(text, "$1") }

var assignment = regexp.MustCompile(`^(?:export\s+|set\s+|const\s+|\$env:)?` +
	`(?:"[A-Za-z_][\w.-]{0,63}"|'[A-Za-z_][\w.-]{0,63}'|[A-Za-z_][\w.-]{0,63})\s*[:=]\s*(?:[|>][+-]?\s*\n\s*)?`)

// unassign removes NAME= or name: at the beginning, if a quote, {, [ or at least 64
// characters of base64 follow.
func unassign(text string) string {
	rest := text[len(assignment.FindString(text)):]
	if _, isBase64 := Base64(rest); isBase64 && len(rest) >= 64 || strings.IndexAny(rest, "\"'`{[") == 0 {
		return rest
	}
	return text
}

var quotes = [][2]string{
	{`"""`, `"""`}, {"'''", "'''"}, {`"`, `"`}, {"'", "'"}, {"`", "`"}, {`b"`, `"`}, {"b'", "'"}, // b"" is Python
	{"“", "”"}, {"„", "“"}, {"‘", "’"}, {"«", "»"},
}

// unquote removes commas and semicolons at the end, then the quotes around the text.
// The escapes of a JSON string are decoded.
func unquote(text string) string {
	text = strings.TrimRight(text, ";,")
	var decoded string
	if strings.HasPrefix(text, `"`) && json.Unmarshal([]byte(text), &decoded) == nil {
		return decoded
	}
	for _, pair := range quotes {
		if rest, opened := strings.CutPrefix(text, pair[0]); opened {
			if inner, closed := strings.CutSuffix(rest, pair[1]); closed {
				return inner
			}
		}
	}
	return text
}

var (
	tag     = regexp.MustCompile(`</?[A-Za-z][^<>\n]{0,200}>`)
	percent = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// unmark replaces HTML tags with line ends, except in JSON, and decodes HTML entities and
// URL escapes.
func unmark(text string) string {
	if !IsJSON(text) { // a JSON string may contain tags
		text = tag.ReplaceAllString(text, "\n")
	}
	text = html.UnescapeString(text)
	if !percent.MatchString(text) {
		return text
	}
	decode := url.PathUnescape
	if strings.Contains(text, "BEGIN+") || strings.Contains(text, "+%22") { // encoded as a form, where + is a blank
		decode = url.QueryUnescape
	}
	if plain, err := decode(text); err == nil {
		return plain
	}
	return text
}

var escapes = strings.NewReplacer(
	`\\`, `\`, `\r\n`, "\n", `\n`, "\n", `\r`, "\n", "\\\n", "\n", `\t`, " ", `\"`, `"`, `\'`, "'", `\/`, "/",
	`\u003d`, "=", `\u003D`, "=", `\u002b`, "+", `\u002B`, "+",
)

// unescape removes one layer of backslash escapes. If text begins like JSON, it removes
// up to three layers, until the result is valid JSON.
func unescape(text string) string {
	plain := escapes.Replace(text)
	for range 2 {
		if IsJSON(text) && !json.Valid([]byte(plain)) {
			plain = escapes.Replace(plain)
		}
	}
	return plain
}

var toStandard = strings.NewReplacer("-", "+", "_", "/")

// Base64 decodes base64 or base64url, with or without padding, and ignores white space.
// It returns false if it cannot decode text, or text holds no bytes.
func Base64(text string) ([]byte, bool) {
	joined := toStandard.Replace(strings.TrimRight(strings.Join(strings.Fields(text), ""), "="))
	raw, err := base64.RawStdEncoding.DecodeString(joined)
	return raw, err == nil && len(raw) > 0
}

var (
	withSuffix = regexp.MustCompile(`^[^\r\n]*[^\r\n .]\.[A-Za-z][A-Za-z0-9]{0,9}$`)
	withFolder = regexp.MustCompile(`^(?:~|\.{1,2})?[/\\]{1,2}(?:[\w.@ -]{1,40}[/\\])*[\w.@ -]{1,40}$` +
		`|^[A-Za-z]:[/\\][\w.@ /\\-]*$`)
)

// FileName returns a message about the field if text looks like a file name instead of
// the file's content, else "".
func FileName(field, text string) string {
	text = strings.TrimSpace(text)
	meant := "it is a file's name: did you mean " + field + "=@"
	name, marked := strings.CutPrefix(strings.TrimPrefix(strings.Trim(text, `"'`), "file://"), "@")
	switch {
	case len(name) > 128, strings.ContainsFunc(name, unprintable):
		return ""
	case !withSuffix.MatchString(name) && !withFolder.MatchString(name):
		return ""
	case marked:
		return "only the vault command replaces @ and a file's name by the content of the file: " +
			"over the API, send the content itself"
	case strings.HasPrefix(name, "~"):
		return meant + name + "? Write $HOME instead of ~: the shell does not replace ~ there"
	case strings.Contains(name, " "):
		return meant + `"` + name + `"? The quotes are for the blank in it`
	}
	return meant + name + "?"
}

func unprintable(r rune) bool {
	return r < ' ' || r == 0x7f || r == utf8.RuneError || r == '\u2028' || r == '\u2029'
}
