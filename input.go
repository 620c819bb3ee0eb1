package redox

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// checkInput rejects what the framework would accept, or would quote in its error:
// unknown fields on a write, fields that belong in the path, values of the wrong type,
// and a JWK as the body. It converts each value to the type of its field, so that handlers need
// not check the type: string, bool, int64 (for a duration, its seconds), []string, or
// nil for null.
func checkInput(path *framework.Path, req *logical.Request) error {
	if path == nil {
		return nil // the framework reports it
	}
	if isJWKBody(path, req.Data) {
		return invalid("the body is a JWK, and belongs in the field private_key: vault write %s private_key=@key.json",
			inShell(req.MountPoint+req.Path))
	}
	op := req.Operation
	writes := op == logical.UpdateOperation || op == logical.PatchOperation || op == logical.DeleteOperation
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		schema := path.Fields[name]
		switch {
		case name == fieldClient, name == fieldKeyID && strings.Contains(path.Pattern, "?P<"+fieldKeyID+">"):
			return invalid("%s belongs in the path, not among the fields", name)
		case writes && !accepts(req.Operation, schema):
			return invalid("unknown field %q: this path accepts %s", redoxapi.Quotable(name, 64),
				fieldNames(req.Operation, path))
		case schema == nil || req.Data[name] == nil:
			continue // an unknown field of a read: the framework warns about it
		}
		raw := req.Data[name]
		if name == fieldPrivateKey {
			raw = jsonText(raw)
		}
		value, err := typed(schema.Type, raw)
		if err != nil {
			return invalid("%s %s", name, err)
		}
		if text, is := value.(string); is && name != fieldCAPEM && name != fieldPrivateKey {
			value = strings.TrimSpace(text) // a file that is given with @ ends with a line end
		}
		req.Data[name] = value
	}
	return nil
}

// accepts reports whether an operation that writes accepts the field. A delete
// accepts only the fields that can be in a query.
func accepts(op logical.Operation, schema *framework.FieldSchema) bool {
	return schema != nil && (schema.Query || op != logical.DeleteOperation)
}

func fieldNames(op logical.Operation, path *framework.Path) string {
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(path.Fields)) {
		if !strings.Contains(path.Pattern, "?P<"+name+">") && accepts(op, path.Fields[name]) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "no fields"
	}
	return strings.Join(names, ", ")
}

// isJWKBody reports whether the whole body is a JWK or a JWK Set, on a path that accepts
// a private key. The CLI sends such a body for: vault write redox/keys/import @key.json
func isJWKBody(path *framework.Path, body map[string]any) bool {
	isJWK := body["kty"] != nil || body["keys"] != nil
	return isJWK && path.Fields[fieldPrivateKey] != nil && body[fieldPrivateKey] == nil
}

// jsonText returns a JSON object or array, such as a JWK, as text. It returns other
// values unchanged.
func jsonText(raw any) any {
	switch raw.(type) {
	case map[string]any, []any:
		if text, err := json.Marshal(raw); err == nil {
			return string(text)
		}
	}
	return raw
}

// typed converts a raw value to the type of its field. Its errors name the rule and
// never the value, which may be a secret in the wrong field.
func typed(t framework.FieldType, raw any) (any, error) {
	switch t {
	case framework.TypeBool:
		return asBool(raw)
	case framework.TypeInt:
		return asInt(raw)
	case framework.TypeDurationSecond:
		return asSeconds(raw)
	case framework.TypeCommaStringSlice:
		return asList(raw)
	}
	if _, ok := raw.(string); !ok {
		return nil, errors.New("must be a string")
	}
	return raw, nil
}

// asBool reads a boolean, the number 0 or 1, or a string such as "true".
func asBool(raw any) (bool, error) {
	switch v := raw.(type) {
	case bool:
		return v, nil
	case float64:
		if v == 0 || v == 1 {
			return v == 1, nil
		}
	case string:
		if is, err := strconv.ParseBool(strings.TrimSpace(v)); err == nil {
			return is, nil
		}
	}
	return false, errors.New("must be true or false")
}

// asInt reads a whole JSON number, or a string with a whole number: the CLI sends strings.
func asInt(raw any) (int64, error) {
	switch v := raw.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, errors.New("must be a whole number")
}

// asList reads a JSON array of strings, or one string with commas, as the CLI sends
// it.
func asList(raw any) ([]string, error) {
	var list []string
	switch v := raw.(type) {
	case string:
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		return list, nil
	case []any:
		for _, item := range v {
			text, is := item.(string)
			if !is {
				return nil, errors.New("must be a list of strings")
			}
			list = append(list, strings.TrimSpace(text))
		}
		return list, nil
	}
	return nil, errors.New("must be a list of strings, or one string with commas in between")
}

func asSeconds(raw any) (int64, error) {
	n, err := asInt(raw)
	if text, ok := raw.(string); ok && err != nil {
		text = strings.TrimSpace(text)
		var d time.Duration
		if d, err = parseutil.ParseDurationSecond(text); d%time.Second != 0 || text == "" {
			err = strconv.ErrSyntax
		}
		n = int64(d / time.Second)
	}
	switch {
	case err != nil || n > math.MaxInt64/int64(time.Second):
		return 0, errors.New("must be a whole number of seconds, or a duration such as 30s, 15m or 90d")
	case n < 0:
		return 0, errors.New("must not be negative")
	}
	return n, nil
}
