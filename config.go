package redox

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// config is a client's settings as they are stored. The table settings below describes each.
type config struct {
	ClientID       string `json:"client_id"`
	Region         string `json:"region"`
	TokenURL       string `json:"token_url"` // empty: the region's
	Audience       string `json:"audience"`  // empty: the token URL
	Scope          string `json:"scope"`
	AssertionTTL   int64  `json:"assertion_ttl"` // this and the next two in seconds
	ClockLeeway    int64  `json:"clock_leeway"`
	RequestTimeout int64  `json:"request_timeout"`
	MaxRetries     int64  `json:"max_retries"`
	CAPEM          string `json:"ca_pem"`
	CAPEMGiven     string `json:"ca_pem_given,omitempty"` // what CAPEM was read from, if that differs and can be shown
	PublicJWKS     bool   `json:"public_jwks"`
	ReuseTokens    bool   `json:"reuse_tokens,omitempty"`
	RotationPeriod int64  `json:"rotation_period"` // this and the next two in seconds
	PublishWindow  int64  `json:"publish_window"`
	RetireAfter    int64  `json:"retire_after"`

	// PlatformClient names the client whose rights the engine uses to update Redox's
	// list of this client's keys. Manages lists the clients whose keys may be published
	// with this client's rights, each as name=client ID.
	PlatformClient string   `json:"platform_client,omitempty"`
	Manages        []string `json:"manages,omitempty"`
}

// setting describes one setting: its schema, default, rule and docs, and how a read shows it.
type setting struct {
	name    string
	kind    framework.FieldType
	initial any   // default, of the type that is stored; nil for its zero value
	allowed []any // the only values, for the schema; rule checks them
	area    bool  // a form shows it as a text area
	help    string
	answer  string // help of the value that a read shows

	stored func(c *config) any // pointer to the stored value
	shown  func(c *config) any // the value that a read shows, if it is not the stored one

	// If bounds is set, the value must be from least to most; bounds says that range in
	// words. Otherwise rule checks the config, unless rule is nil.
	least, most int64
	bounds      string
	rule        func(c *config) error
}

const fieldCAPEM = "ca_pem"

// settings has one row for each field that a write can set. merge checks them in this order.
var settings = []setting{{
	name: "client_id", kind: framework.TypeString, stored: func(c *config) any { return &c.ClientID },
	help: "Client ID of the OAuth API key, as Redox's dashboard shows it on the key's settings page. Required " +
		"before a token can be read.",
	answer: "Client ID of the OAuth API key",
	rule:   func(c *config) error { return checkClientID(c.ClientID) },
}, {
	name: "region", kind: framework.TypeString, initial: "us", allowed: []any{"us", "ca"},
	stored: func(c *config) any { return &c.Region },
	help:   "Region of the Redox organization: us or ca. Picks the token URL.",
	answer: "Region of the Redox organization",
	rule:   func(c *config) error { return unless(tokenURLs[c.Region] != "", "region must be us or ca") },
}, {
	name: "token_url", kind: framework.TypeString, stored: func(c *config) any { return &c.TokenURL },
	help: "Token URL: https, or http to a loopback address. Its host must be Redox's own, or in hosts. The region's " +
		"when absent or empty.",
	answer: "Token URL in effect",
	shown:  func(c *config) any { return c.tokenURL() },
	rule:   func(c *config) error { return checkTokenURL(c.tokenURL()) },
}, {
	name: "audience", kind: framework.TypeString, stored: func(c *config) any { return &c.Audience },
	help: "Audience (aud) of the client assertion. Its host must be that of the token URL, or both must be Redox's. The " +
		"token URL when absent or empty.",
	answer: "Audience in effect",
	shown:  func(c *config) any { return c.audience() },
	rule:   func(c *config) error { return checkAudience(c.tokenURL(), c.audience()) },
}, {
	name: "scope", kind: framework.TypeString, stored: func(c *config) any { return &c.Scope },
	help:   "Scope to ask for. None when absent or empty: Redox's current samples send none.",
	answer: "Scope asked for, empty for none",
	rule:   func(c *config) error { return checkScope(c.Scope) },
}, {
	name: "assertion_ttl", kind: framework.TypeDurationSecond, initial: int64(300),
	help: "Life of a client assertion, 30s to 5m. SMART Backend Services allow 5m at most, and some servers " +
		"refuse a life of exactly 5m; Redox documents no limit of its own.",
	answer: "Life of a client assertion in seconds",
	stored: func(c *config) any { return &c.AssertionTTL },
	least:  30, most: int64(assertion.MaxTTL / time.Second), bounds: "30s to 5m",
}, {
	name: "clock_leeway", kind: framework.TypeDurationSecond, initial: int64(5),
	help:   "How far an assertion's issue time is set back, 0s to 10s, for a clock that runs ahead of Redox's.",
	answer: "Seconds by which the issue time is set back",
	stored: func(c *config) any { return &c.ClockLeeway }, most: 10, bounds: "0s to 10s",
}, {
	name: "request_timeout", kind: framework.TypeDurationSecond, initial: int64(10),
	help: "Time that a read may spend on Redox, all attempts together, 1s to 30s. One attempt may take " +
		"request_timeout / (max_retries + 1), but at least 2s, or all of request_timeout if that is shorter.",
	answer: "Seconds a read may spend on Redox",
	stored: func(c *config) any { return &c.RequestTimeout }, least: 1, most: maxRequestTimeout, bounds: "1s to 30s",
}, {
	name: "max_retries", kind: framework.TypeInt, initial: int64(2), stored: func(c *config) any { return &c.MaxRetries },
	help: "Further attempts after a temporary failure, 0 to 5. Each signs a new assertion. None after a refusal or " +
		"HTTP 429.",
	answer: "Further attempts after a temporary failure",
	most:   5, bounds: "0 to 5",
}, {
	name: fieldCAPEM, kind: framework.TypeString, area: true, stored: func(c *config) any { return &c.CAPEM },
	help:   "Certificates (PEM) of the authorities to trust instead of the system's. The system's when absent or empty.",
	answer: "Authorities trusted instead of the system's, empty for the system's",
	shown:  func(c *config) any { return cmp.Or(c.CAPEMGiven, c.CAPEM) },
	rule:   func(c *config) error { return c.normalizeCA() },
}, {
	name: "public_jwks", kind: framework.TypeBool, initial: false, stored: func(c *config) any { return &c.PublicJWKS },
	help:   "Serve the public JWK Set at jwks without a Vault token, for Redox to fetch. false when absent.",
	answer: "Whether jwks is served without a Vault token",
}, {
	name: "reuse_tokens", kind: framework.TypeBool, initial: false, stored: func(c *config) any { return &c.ReuseTokens },
	help: "Hand out the same token from memory until its last minute (its last fifth, if that is shorter), and while " +
		"Redox cannot be reached until its last second. This means fewer requests to Redox and quicker reads, but " +
		"readers share a token. false when absent: each read gets a fresh token.",
	answer: "Whether a token is handed out more than once",
}, {
	name: "publish_window", kind: framework.TypeDurationSecond, initial: int64(900),
	help: "With public_jwks or platform_client: how long a rotation waits, once the new key is published, before the " +
		"key may sign, 0s to 168h.",
	answer: "Seconds a rotation waits after it published a key; of no effect if keys are pasted",
	stored: func(c *config) any { return &c.PublishWindow }, most: 168 * hour, bounds: "0s to 168h",
}, {
	name: "retire_after", kind: framework.TypeDurationSecond, initial: int64(24 * hour),
	stored: func(c *config) any { return &c.RetireAfter },
	help:   "How long a replaced key stays published before it is deleted, from assertion_ttl to 8760h.",
	answer: "Seconds a replaced key stays published",
	rule:   func(c *config) error { return checkRetireAfter(c.RetireAfter, c.AssertionTTL) },
}, {
	name: "rotation_period", kind: framework.TypeDurationSecond, initial: int64(0),
	help: "How long a key signs before the rotation to the next one begins, such as 2160h, up to 87600h. 0 when " +
		"absent: only on request.",
	answer: "Seconds a key signs before the rotation to the next one begins, 0: only on request",
	stored: func(c *config) any { return &c.RotationPeriod },
	rule:   func(c *config) error { return checkPeriod(c.RotationPeriod, c.PublishWindow, c.RetireAfter) },
}, {
	name: "platform_client", kind: framework.TypeString, stored: func(c *config) any { return &c.PlatformClient },
	help: "Name of a client with a user-level API key (default is the client of the bare paths), with whose rights the " +
		"engine keeps the public keys at Redox up to date. The manages of that client must name this one. None when " +
		"absent or empty.",
	answer: "Client whose rights the engine uses to publish the keys, empty for none",
	rule:   func(c *config) error { return checkPlatformClient(c.PlatformClient, c.PublicJWKS) },
}, {
	name: "manages", kind: framework.TypeCommaStringSlice, stored: func(c *config) any { return &c.Manages },
	help: "For a client with a user-level API key: the clients whose public keys it may publish, each as " +
		"name=client ID, all in one list. None when absent or empty.",
	answer: "Clients whose keys this one may publish, as name=client ID",
	rule:   func(c *config) error { return checkManages(c.Manages) },
}}

// value returns the stored value of the setting.
func (s setting) value(c *config) any {
	switch at := s.stored(c).(type) {
	case *string:
		return *at
	case *int64:
		return *at
	case *bool:
		return *at
	case *[]string:
		return append([]string{}, *at...)
	}
	return nil
}

// set stores value, or the default if value is nil, which stands for JSON's null.
func (s setting) set(c *config, value any) {
	switch at := s.stored(c).(type) {
	case *string:
		setTo(at, value, s.initial)
	case *int64:
		setTo(at, value, s.initial)
	case *bool:
		setTo(at, value, s.initial)
	case *[]string:
		setTo(at, value, s.initial)
	}
}

func (s setting) check(c *config) error {
	if n, is := s.value(c).(int64); is && s.bounds != "" {
		return unless(n >= s.least && n <= s.most, "%s must be %s", s.name, s.bounds)
	}
	if s.rule != nil {
		return s.rule(c)
	}
	return nil
}

func setTo[T any](at *T, value, initial any) {
	typed, is := value.(T)
	if !is {
		typed, _ = initial.(T)
	}
	*at = typed
}

func defaultConfig() config {
	var c config
	for _, s := range settings {
		s.set(&c, nil)
	}
	return c
}

// UnmarshalJSON reads a stored config. A field that an older version did not store gets
// its default.
func (c *config) UnmarshalJSON(raw []byte) error {
	type plain config
	stored := plain(defaultConfig())
	if err := json.Unmarshal(raw, &stored); err != nil {
		return err
	}
	*c = config(stored)
	return nil
}

// merge sets the given fields in c (null sets the default), then checks the whole
// config. The values must have passed checkInput.
func (c *config) merge(given map[string]any) error {
	c.unpin()
	for _, s := range settings {
		if value, is := given[s.name]; is {
			s.set(c, value)
		}
	}
	if _, is := given[fieldCAPEM]; is {
		c.CAPEMGiven = ""
	}
	if c.Region == "" {
		c.Region = "us"
	}
	c.unpin()
	for _, s := range settings {
		if err := s.check(c); err != nil {
			return err
		}
	}
	return nil
}

// show returns the settings in effect.
func (c *config) show() map[string]any {
	data := map[string]any{}
	for _, s := range settings {
		data[s.name] = s.value(c)
		if s.shown != nil {
			data[s.name] = s.shown(c)
		}
	}
	return data
}

// maxRequestTimeout is the most that request_timeout may be, in seconds.
const maxRequestTimeout = 30

// attemptTimeout returns how much of request_timeout one attempt may use: usually a part, so
// that an attempt on a dead connection leaves time for another one.
func (c *config) attemptTimeout() time.Duration {
	return min(max(seconds(c.RequestTimeout)/time.Duration(c.MaxRetries+1), 2*time.Second), seconds(c.RequestTimeout))
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// policy returns the settings that control rotation.
func (c *config) policy() keyring.Policy {
	publishing := keyring.Manual
	switch {
	case c.PublicJWKS:
		publishing = keyring.JWKSURL
	case c.PlatformClient != "":
		publishing = keyring.PlatformAPI
	}
	return keyring.Policy{
		Period: seconds(c.RotationPeriod), Window: seconds(c.PublishWindow),
		RetireAfter: seconds(c.RetireAfter), Publishing: publishing,
	}
}
