package redox

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// checkInput refuses what the framework would let through or complain of by
// quoting it: unknown fields on a write, fields that belong in the path, and
// values of the wrong type.
func (b *backend) checkInput(req *logical.Request) error {
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	writes := req.Operation != logical.ReadOperation && req.Operation != logical.ListOperation
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		schema := path.Fields[name]
		switch {
		case name == fieldClient, name == fieldKeyID && strings.Contains(path.Pattern, "?P<"+fieldKeyID+">"):
			return invalid("%s belongs in the path, not among the fields", name)
		case schema == nil && writes:
			return invalid("unknown field %q: this path takes %s", quotable(name, 64), fieldNames(path))
		case schema == nil:
			continue // the framework warns of it
		}
		if err := checkType(schema.Type, req.Data[name]); err != nil {
			return invalid("%s %s", name, err)
		}
	}
	return nil
}

func fieldNames(path *framework.Path) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(path.Fields)) {
		if !strings.Contains(path.Pattern, "?P<"+name+">") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "no fields"
	}
	return strings.Join(names, ", ")
}

func checkType(t framework.FieldType, raw any) error {
	if raw == nil {
		return nil
	}
	var err error
	switch t {
	case framework.TypeString:
		_, err = asString(raw)
	case framework.TypeBool:
		_, err = asBool(raw)
	case framework.TypeInt:
		_, err = asInt(raw)
	case framework.TypeDurationSecond:
		_, err = asDuration(raw)
	}
	return err
}

// The readers of raw values. Their errors name the rule and never the value,
// which may be a secret in the wrong field.

func asString(raw any) (string, error) {
	s, ok := raw.(string)
	if !ok {
		return "", fmt.Errorf("must be a string")
	}
	return s, nil
}

func asBool(raw any) (bool, error) {
	switch v := raw.(type) {
	case bool:
		return v, nil
	case string:
		switch v {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, fmt.Errorf("must be true or false")
}

func asInt(raw any) (int64, error) {
	switch v := raw.(type) {
	case int:
		return int64(v), nil
	case int64:
		return v, nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, nil
		}
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("must be a whole number")
}

func asDuration(raw any) (time.Duration, error) {
	d, err := parseDuration(raw)
	switch {
	case err != nil || d%time.Second != 0:
		return 0, fmt.Errorf("must be a whole number of seconds, or a duration such as 30s or 5m")
	case d < 0:
		return 0, fmt.Errorf("must not be negative")
	}
	return d, nil
}

func parseDuration(raw any) (time.Duration, error) {
	if s, ok := raw.(string); ok {
		if d, err := time.ParseDuration(s); err == nil {
			return d, nil
		}
	}
	n, err := asInt(raw)
	if err == nil && (n > math.MaxInt64/int64(time.Second) || n < math.MinInt64/int64(time.Second)) {
		err = strconv.ErrRange
	}
	return time.Duration(n) * time.Second, err
}
