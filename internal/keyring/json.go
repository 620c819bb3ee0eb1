package keyring

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// readJSON reads a JWK, or the one private key in a JWK Set or in an array of JWKs. It also reads an
// array of strings, which are the lines of a key in any form, such as PEM.
func readJSON(text string) (found, error) {
	raw, err := oneValue(text)
	if err != nil {
		return found{}, err
	}
	var all []jwk
	var single jwk
	var lines []string
	var set struct {
		Keys []jwk `json:"keys"`
	}
	switch {
	case json.Unmarshal(raw, &lines) == nil && len(lines) > 0:
		return find(strings.Join(lines, "\n"), 1)
	case json.Unmarshal(raw, &all) == nil:
	case json.Unmarshal(raw, &single) == nil && single.has("kty"):
		return readJWK(single)
	case single["keys"] != nil && json.Unmarshal(raw, &set) == nil:
		all = set.Keys
	default:
		return found{}, noJWK(raw)
	}
	private := slices.DeleteFunc(slices.Clone(all), func(j jwk) bool { return !j.isPrivate() })
	switch {
	case slices.ContainsFunc(all, func(j jwk) bool { return !j.has("kty") }):
		return found{}, noJWK(raw)
	case len(private) > 1:
		return found{}, severalKeys(len(private))
	case len(private) == 0:
		return found{}, ruleError("the JWK Set has no private key (none with d, p or q): the engine needs the private one")
	}
	return readJWK(private[0])
}

// oneValue returns the first JSON value in text. It ignores text after the value, but returns an
// error if that text may belong to the JSON: if it has a quote, a slash, or an opening brace or
// bracket.
func oneValue(text string) (json.RawMessage, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	var raw json.RawMessage
	err := decoder.Decode(&raw)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		line, column := place(text, int(syntax.Offset)-1)
		return nil, ruleError("the JSON is damaged at line %d, column %d: fix it there, or export the key again", line,
			column)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, ruleError("the JSON is cut short: copy it whole")
	case err != nil:
		return nil, ruleError("the JSON cannot be read: export the key again")
	}
	rest := text[decoder.InputOffset():]
	next := strings.IndexAny(rest, `{["'/`)
	switch line, column := place(text, len(text)-len(rest)+next); {
	case next < 0: // nothing follows, or words
	case rest[next] == '{' || rest[next] == '[':
		return nil, ruleError("it holds more than one JSON value, the next at line %d, column %d: give only the JWK",
			line, column)
	default:
		return nil, ruleError("after the JSON, at line %d, column %d, is more text that may belong to it: give only the JWK",
			line, column)
	}
	return raw, nil
}

// place returns the line and the column of the byte at offset, both counted from 1.
func place(text string, offset int) (line, column int) {
	before := text[:max(0, min(offset, len(text)))]
	return 1 + strings.Count(before, "\n"), len(before) - strings.LastIndex(before, "\n")
}

// noJWK returns the error for JSON that is not a JWK. If a member looks like a private key, the
// error names the member, unless its name may not be shown.
func noJWK(raw json.RawMessage) error {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return ruleError("the JSON cannot be read: export the key again")
	}
	name, isVariable := keyMember(value, "")
	shown := memberName.MatchString(name)
	object, _ := value.(map[string]any)
	isKty := func(name string) bool { return name != "kty" && strings.EqualFold(name, "kty") }
	switch {
	case name == "" && slices.ContainsFunc(slices.Collect(maps.Keys(object)), isKty):
		return ruleError("it has no kty, so it is not a JWK: the names of a JWK's members are in lower case")
	case name == "":
		return ruleError(`it has no kty, so it is not a JWK: the JWK of an RSA key has "kty":"RSA"`)
	case !shown:
		return ruleError("it is JSON but not a JWK: one of its members holds a key: give only that")
	case isVariable:
		return ruleError("it is a Postman environment and not a JWK: its variable %s may be meant "+
			`(jq -r '.values[] | select(.key=="%s").value' environment.json > key.pem)`, name, name)
	}
	return ruleError("it is JSON but not a JWK: its member %s may be meant "+
		`(jq -r '.. | ."%s"? // empty' file.json > key.pem)`, name, name)
}

// memberName matches the names that a message may show. A private key is longer.
var memberName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_. -]{0,31}$`)

// keyMember returns the name of the first member, at any depth of value, that looks like a private
// key, "" if there is none. name is the name of value itself. If the key is the value of a variable
// in a Postman environment, isVariable is true and member is the name of the variable.
func keyMember(value any, name string) (member string, isVariable bool) {
	switch v := value.(type) {
	case string:
		if looksPrivate(v) {
			return name, false
		}
	case []any:
		for _, item := range v {
			if member, isVariable = keyMember(item, name); member != "" {
				return member, isVariable
			}
		}
	case map[string]any:
		if _, isKey := v["kty"]; isKey && (v["d"] != nil || v["p"] != nil) && name != "" {
			return name, false
		}
		if variable, is := v["key"].(string); is {
			if content, _ := v["value"].(string); looksPrivate(content) {
				return variable, true
			}
		}
		for _, inner := range slices.Sorted(maps.Keys(v)) {
			if member, isVariable = keyMember(v[inner], inner); member != "" {
				return member, isVariable
			}
		}
	}
	return "", false
}

// looksPrivate reports whether text looks like a private key: PEM, a JWK, or more than 600
// characters in base64 of PEM or DER.
func looksPrivate(text string) bool {
	text = strings.TrimSpace(text)
	begins := func(prefix string) bool { return len(text) > 600 && strings.HasPrefix(text, prefix) }
	return strings.Contains(text, "PRIVATE KEY-----") || begins("LS0tLS1CRUdJTi") || begins("MII") ||
		strings.Contains(text, `"kty"`) && strings.Contains(text, `"d"`)
}
