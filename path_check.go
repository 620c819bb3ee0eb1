package redox

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const checkHelp = `
Tests the connection to Redox: requests a real token and throws it away. The
answer says what Redox accepted, how long it took, how far this clock is ahead
of Redox's, and the state of rotation and publication. An error says what to
fix. A warning names a problem that does not stop tokens yet.
`

func (e *engine) pathCheck() []*framework.Path {
	output := ok("Redox issued a token", schemas{
		"client_id":  shown(framework.TypeString, "Client ID that Redox accepted"),
		"key_id":     shown(framework.TypeString, "Key that Redox accepted"),
		"token_url":  shown(framework.TypeString, "Token URL that answered"),
		"expires_in": shown(framework.TypeInt64, "Seconds a token lives"),
		"clock_skew": shown(framework.TypeString, "How far the clock here is ahead of Redox's (negative: behind), or "+
			"unknown"),
		"took": shown(framework.TypeString, "How long it took to get the token, with repeated attempts"),
		"rotation": shown(framework.TypeString, "What a rotation waits for, or when the next one begins, and when "+
			"replaced keys are deleted"),

		"publication": shown(framework.TypeString, "How Redox learns the keys, and with platform_client whether "+
			"Redox lists them all"),
		"foreign_keys": {Type: framework.TypeStringSlice, Description: "With platform_client: keys that Redox lists for " +
			"this API key and that are not in the ring. Remove in the dashboard those that nobody uses."},
	})
	return e.path("check", "check access", nil, checkHelp, ops{
		logical.ReadOperation: e.read(e.readCheck, "Test the connection to Redox with a real token request.", output),
	})
}

func (e *engine) readCheck(ctx context.Context, r *request) (*logical.Response, error) {
	s, err := r.loadComplete(ctx)
	if err != nil {
		return nil, err
	}
	c, ring := s.Config, s.Ring
	k, began := ring.Active(), e.now()
	t, err := e.prove(ctx, r, c, k)
	if err != nil {
		return nil, err
	}
	e.accepted(r.client, c, k)
	status, clock := e.statusOf(r, s), "unknown"
	if t.Skew.Known {
		clock = t.Skew.Ahead.String()
	}
	resp := &logical.Response{Data: map[string]any{
		"client_id":  c.ClientID,
		"key_id":     string(k.ID),
		"token_url":  c.tokenURL(),
		"expires_in": int64(t.Lifetime / time.Second),
		"clock_skew": clock,
		"took":       e.now().Sub(began).Round(time.Millisecond).String(),
		"rotation":   status.rotation(),

		"publication": status.publication(),
	}}
	if p := ring.PublicationBy(c.policy()); p != nil {
		foreign := []string{}
		for _, id := range p.Foreign {
			foreign = append(foreign, string(id))
		}
		resp.Data["foreign_keys"] = foreign
	}
	for _, warning := range status.warnings() {
		resp.AddWarning(warning)
	}
	if c.isOff(t.Skew) {
		resp.AddWarning(t.Skew.String() + ": correct it before Redox refuses the assertions")
	}
	return resp, nil
}
