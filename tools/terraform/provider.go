package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/hashicorp/hcl/v2"
)

// arguments are those of the provider's resources, true where one is required.
func arguments() map[string]map[string]bool {
	return map[string]map[string]bool{
		"vault_mount":            {"path": true, "type": true, "description": false},
		"vault_generic_endpoint": {"path": true, "data_json": true, "disable_read": false, "disable_delete": false, "ignore_absent_fields": false, "write_fields": false},
		"vault_policy":           {"name": true, "policy": true},
		"vault_generic_secret":   {"path": true, "with_lease_start_time": false},
	}
}

// bodySchema is what the block of a resource may have.
func bodySchema(kind string) (*hcl.BodySchema, error) {
	known, found := arguments()[kind]
	if !found {
		return nil, fmt.Errorf("the example needs no %s", kind)
	}
	schema := &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "lifecycle"}}}
	for _, meta := range []string{"count", "for_each", "depends_on"} {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: meta})
	}
	for name, required := range known {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name, Required: required})
	}
	return schema, nil
}

// vault is the server.
type vault struct{ addr, token string }

// request asks Vault, and returns the data of its answer.
func (v vault) request(method, path string, body any) (map[string]any, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.Background(), method, v.addr+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", v.token)
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: HTTP %d, %s %w", method, path, resp.StatusCode, raw, err)
	}
	var answer struct{ Data map[string]any }
	if len(raw) > 0 {
		err = json.Unmarshal(raw, &answer)
	}
	return answer.Data, err
}
