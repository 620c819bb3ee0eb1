package redox

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	fieldClientID       = "client_id"
	fieldRegion         = "region"
	fieldTokenURL       = "token_url"
	fieldAudience       = "audience"
	fieldScope          = "scope"
	fieldAssertionTTL   = "assertion_ttl"
	fieldClockLeeway    = "clock_leeway"
	fieldRequestTimeout = "request_timeout"
	fieldMaxRetries     = "max_retries"
	fieldCAPEM          = "ca_pem"
	fieldPublicJWKS     = "public_jwks"
	fieldRotationPeriod = "rotation_period"
	fieldPublishWindow  = "publish_window"
	fieldRetireAfter    = "retire_after"
	fieldReuseTokens    = "reuse_tokens" //nolint:gosec // is a name
	fieldPlatformClient = "platform_client"
	fieldManages        = "manages"
)

const configHelp = `
Says which OAuth API key of Redox this is and how to reach Redox. Only
client_id is needed. A write changes the fields it names and keeps the others;
null restores a field's default. Deleting the config keeps the keys.
`

func (b *backend) pathConfig() []*framework.Path {
	input := map[string]*framework.FieldSchema{
		fieldClientID:       {Type: framework.TypeString, Description: "Client ID of the OAuth API key, as Redox's dashboard shows it on the key's settings page. Required before a token can be read."},
		fieldRegion:         {Type: framework.TypeString, Default: "us", AllowedValues: []any{"us", "ca"}, Description: "Region of the Redox organization: us or ca. Picks the token URL."},
		fieldTokenURL:       {Type: framework.TypeString, Description: "Token URL, overriding region's. https, or http to a loopback address. The region's when absent or empty."},
		fieldAudience:       {Type: framework.TypeString, Description: "Audience (aud) of the client assertion. Its host must be the token URL's, or both Redox's. The token URL when absent or empty."},
		fieldScope:          {Type: framework.TypeString, Description: "Scope to ask for. Redox's current samples send none, nor does the engine when this is absent or empty."},
		fieldAssertionTTL:   {Type: framework.TypeDurationSecond, Default: 300, Description: "Life of a client assertion, 30s to 5m. Redox takes no longer one."},
		fieldClockLeeway:    {Type: framework.TypeDurationSecond, Default: 5, Description: "How far an assertion's issue time is set back, 0s to 10s, for a clock that runs ahead of Redox's."},
		fieldRequestTimeout: {Type: framework.TypeDurationSecond, Default: 10, Description: "Time that a read may spend on Redox, all attempts together, 1s to 30s."},
		fieldMaxRetries:     {Type: framework.TypeInt, Default: 2, Description: "Further attempts after a passing failure, 0 to 5. Each signs a new assertion. A refusal is never repeated."},
		fieldCAPEM:          {Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{EditType: "textarea"}, Description: "Certificates (PEM) of the authorities to trust instead of the system's. The system's when absent or empty."},
		fieldPublicJWKS:     {Type: framework.TypeBool, Default: false, Description: "Serve the public JWK Set at jwks without a Vault token, for Redox to fetch. false when absent."},
		fieldReuseTokens:    {Type: framework.TypeBool, Default: false, Description: "Hand a token out again, from memory, until a fifth of its life is left or a minute if that is less: fewer requests to Redox and quicker reads, but readers share a token. false, for a fresh one on each read, when absent."},
		fieldRotationPeriod: {Type: framework.TypeDurationSecond, Default: 0, Description: "How long a key signs before the next one replaces it, such as 2160h. 0, for never by itself, when absent."},
		fieldPublishWindow:  {Type: framework.TypeDurationSecond, Default: 900, Description: "With public_jwks or platform_client: how long a new key is published before it may sign, 0s to 168h."},
		fieldRetireAfter:    {Type: framework.TypeDurationSecond, Default: 86400, Description: "How long a replaced key stays published before it is deleted, assertion_ttl to 8760h."},
		fieldPlatformClient: {Type: framework.TypeString, Description: "Name of the client that holds a user-level API key (default for the bare paths): with it the engine keeps the public keys at Redox up to date itself. That client's manages must name this one. None when absent or empty."},
		fieldManages:        {Type: framework.TypeCommaStringSlice, Description: "For a client with a user-level API key: the clients whose public keys it may publish, each as name=client ID, all in one list. None when absent or empty."},
	}
	output := ok("The effective settings", map[string]*framework.FieldSchema{
		fieldClientID:       {Type: framework.TypeString, Required: true, Description: "Client ID of the OAuth API key"},
		fieldRegion:         {Type: framework.TypeString, Required: true, Description: "Region of the Redox organization"},
		fieldTokenURL:       {Type: framework.TypeString, Required: true, Description: "Token URL in effect"},
		fieldAudience:       {Type: framework.TypeString, Required: true, Description: "Audience in effect"},
		fieldScope:          {Type: framework.TypeString, Required: true, Description: "Scope asked for, empty for none"},
		fieldAssertionTTL:   {Type: framework.TypeInt64, Required: true, Description: "Life of a client assertion in seconds"},
		fieldClockLeeway:    {Type: framework.TypeInt64, Required: true, Description: "Seconds by which the issue time is set back"},
		fieldRequestTimeout: {Type: framework.TypeInt64, Required: true, Description: "Seconds a read may spend on Redox"},
		fieldMaxRetries:     {Type: framework.TypeInt64, Required: true, Description: "Further attempts after a passing failure"},
		fieldCAPEM:          {Type: framework.TypeString, Required: true, Description: "Authorities trusted instead of the system's, empty for the system's"},
		fieldPublicJWKS:     {Type: framework.TypeBool, Required: true, Description: "Whether jwks is served without a Vault token"},
		fieldReuseTokens:    {Type: framework.TypeBool, Required: true, Description: "Whether a token is handed out more than once"},
		fieldRotationPeriod: {Type: framework.TypeInt64, Required: true, Description: "Seconds a key signs before it is replaced, 0 for until somebody does it"},
		fieldPublishWindow:  {Type: framework.TypeInt64, Required: true, Description: "Seconds a new key is published before it may sign"},
		fieldRetireAfter:    {Type: framework.TypeInt64, Required: true, Description: "Seconds a replaced key stays published"},
		fieldPlatformClient: {Type: framework.TypeString, Required: true, Description: "Client by whose authority the engine publishes the keys, empty for none"},
		fieldManages:        {Type: framework.TypeCommaStringSlice, Required: true, Description: "Clients whose keys this one may publish, as name=client ID"},
	})
	return b.path("config", "config", input, configHelp, map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation:   b.read(b.readConfig, "Read the effective settings.", output),
		logical.UpdateOperation: b.mutate(b.writeConfig, "Change the fields that are given, keep the others.", output),
		logical.PatchOperation:  b.mutate(b.writeConfig, "Change the fields that are given, keep the others; null restores a default.", output),
		logical.DeleteOperation: b.mutate(b.deleteConfig, "Delete the settings and keep the keys.", noContent),
	})
}

func (c *config) response() *logical.Response {
	return &logical.Response{Data: map[string]any{
		fieldClientID:       c.ClientID,
		fieldRegion:         c.Region,
		fieldTokenURL:       c.tokenURL(),
		fieldAudience:       c.audience(),
		fieldScope:          c.Scope,
		fieldAssertionTTL:   c.AssertionTTL,
		fieldClockLeeway:    c.ClockLeeway,
		fieldRequestTimeout: c.RequestTimeout,
		fieldMaxRetries:     c.MaxRetries,
		fieldCAPEM:          c.CAPEM,
		fieldPublicJWKS:     c.PublicJWKS,
		fieldReuseTokens:    c.ReuseTokens,
		fieldRotationPeriod: c.RotationPeriod,
		fieldPublishWindow:  c.PublishWindow,
		fieldRetireAfter:    c.RetireAfter,
		fieldPlatformClient: c.PlatformClient,
		fieldManages:        append([]string{}, c.Manages...),
	}}
}

// readConfig answers 404 where nothing is configured, as nil means to Vault.
func (b *backend) readConfig(ctx context.Context, r *request) (*logical.Response, error) {
	c, err := getConfig(ctx, r)
	if err != nil || c == nil {
		return nil, err
	}
	return c.response(), nil
}

func (b *backend) writeConfig(ctx context.Context, r *request) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := getConfig(ctx, r)
	if err != nil {
		return nil, err
	}
	if c == nil {
		if r.Operation == logical.PatchOperation {
			return nil, absent("there is no config to patch: write " + r.paths + "config")
		}
		def := defaultConfig()
		c = &def
	}
	if err := c.update(r.fields); err != nil {
		return nil, err
	}
	if err := b.retryPublication(ctx, r); err != nil {
		return nil, err
	}
	defer b.tokens.drop(r.client) // whoever writes may want to be rid of it
	if err := b.putConfig(ctx, r, c); err != nil {
		return nil, err
	}
	b.rotation.wake()
	b.log(r).Info("config written", "fields", slices.Sorted(maps.Keys(r.Data)))
	resp := c.response()
	if _, given := r.fields.Raw[fieldRegion]; given && c.TokenURL != "" {
		resp.AddWarning("region has no effect while token_url is set: write token_url=\"\" to use the region's")
	}
	if c.PlatformClient != "" {
		var user userError
		if _, err := authority(ctx, r, c); errors.As(err, &user) {
			resp.AddWarning("the public keys are not published yet: " + err.Error())
		}
	}
	return resp, nil
}

// retryPublication has a publication that failed tried at once: whoever writes
// the config may have mended it, here or at Redox.
func (b *backend) retryPublication(ctx context.Context, r *request) error {
	ring, err := getRing(ctx, r)
	if err != nil || !ring.Retry() {
		return err
	}
	return b.putRing(ctx, r, ring)
}

func (b *backend) deleteConfig(ctx context.Context, r *request) (*logical.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.forget(r.client)
	defer b.metrics.forget(r.client)
	if err := b.deleteConfigEntry(ctx, r); err != nil {
		return nil, err
	}
	b.log(r).Info("config deleted")
	return nil, nil
}
