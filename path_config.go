package redox

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const configHelp = `
Names the OAuth API key at Redox, and says how to reach Redox. Only client_id
is required. A write changes the fields it names and keeps the others;
null restores a field's default. Deleting the config keeps the keys.
`

func (e *engine) pathConfig() []*framework.Path {
	input, answer := schemas{}, schemas{}
	for _, s := range settings {
		input[s.name], answer[s.name] = s.schemas()
	}
	output := ok("The effective settings", answer)
	return e.path("config", "config", input, configHelp, ops{
		logical.ReadOperation:   e.read(e.readConfig, "Read the effective settings.", output),
		logical.UpdateOperation: e.mutate(e.writeConfig, "Change the fields that are given, keep the others.", output),
		logical.PatchOperation: e.mutate(e.writeConfig, "Change the fields that are given, keep the others; null "+
			"restores a default.", output),
		logical.DeleteOperation: e.mutate(e.deleteConfig, "Delete the settings and keep the keys.", noContent),
	})
}

// schemas returns the schemas of the setting: one for a write and one for an answer.
func (s setting) schemas() (input, answer *framework.FieldSchema) {
	input = &framework.FieldSchema{Type: s.kind, Default: s.initial, AllowedValues: s.allowed, Description: s.help}
	if s.area {
		input.DisplayAttrs = &framework.DisplayAttributes{EditType: "textarea"}
	}
	answer = &framework.FieldSchema{Type: s.kind, Required: true, Description: s.answer}
	if s.kind == framework.TypeDurationSecond || s.kind == framework.TypeInt {
		answer.Type = framework.TypeInt64
	}
	return input, answer
}

// readConfig returns nil when there is no config: Vault answers 404 then.
func (e *engine) readConfig(ctx context.Context, r *request) (*logical.Response, error) {
	c, err := loadConfig(ctx, r.Storage, r.client)
	if err != nil || c == nil {
		return nil, err
	}
	return &logical.Response{Data: c.show()}, nil
}

func (e *engine) writeConfig(ctx context.Context, r *request) (*logical.Response, error) {
	var before *config
	var now status
	err := e.update(ctx, r, func(s *state) error {
		if s.Config == nil {
			if r.Operation == logical.PatchOperation {
				return notFound("there is no config to patch: write " + r.paths + "config")
			}
			initial := defaultConfig()
			s.Config = &initial
		} else {
			stored := *s.Config
			before = &stored
		}
		now = e.statusOf(r, s)
		if err := s.Config.merge(r.fields.Raw); err != nil {
			return err
		}
		return e.allow(ctx, r, s.Config)
	})
	if err != nil {
		return nil, err
	}
	e.tokens.Drop(r.client) // the writer may want to get rid of the old token
	e.rechecks.add(r.client, recheck{mended: true})
	e.schedule.Wake(r.client)
	e.log.of(r.client, r.ID).Info("config written", "fields", slices.Sorted(maps.Keys(r.Data)))
	c := now.config
	resp := &logical.Response{Data: c.show()}
	if text := now.movedFrom(before); text != "" {
		resp.AddWarning(text)
	}
	if _, given := r.fields.Raw["region"]; given && c.TokenURL != "" {
		resp.AddWarning("region has no effect while token_url is set: write token_url=\"\" to use the region's")
	}
	if c.PlatformClient != "" {
		var user userError
		if _, err := authority(ctx, r, c); errors.As(err, &user) {
			resp.AddWarning("the public keys cannot be published: " + err.Error())
		}
	}
	return resp, nil
}

func (e *engine) deleteConfig(ctx context.Context, r *request) (*logical.Response, error) {
	err := e.entries.removeConfig(ctx, r.Storage, r.client)
	e.forget(r.client)
	if err != nil {
		return nil, err
	}
	e.log.of(r.client, r.ID).Info("config deleted")
	return nil, nil
}
