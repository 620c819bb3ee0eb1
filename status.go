package redox

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// What a person is told about a ring stands here. paths is where the client's
// paths begin: redox/ or redox/clients/acme/. A config may be nil.

// rotationStatus says in a sentence what comes next for the ring, and when each
// replaced key is deleted.
func rotationStatus(paths string, c *config, ring *keyring.Ring) string {
	text := nextRotation(paths, c, ring)
	for _, k := range ring.In(keyring.Retiring) {
		if at := publishedUntil(c, k); at != "" {
			text += "; key " + string(k.ID) + " is deleted at " + at
		}
	}
	return text
}

func nextRotation(paths string, c *config, ring *keyring.Ring) string {
	k := ring.Pending()
	if c == nil {
		c = &config{}
	}
	due := ring.Due(c.policy())
	switch {
	case k != nil && k.Rotating:
		return "under way: " + waitsFor(paths, c, k)
	case k != nil && due.IsZero():
		return "key " + string(k.ID) + " waits for a write to " + paths + "keys/" + string(k.ID) + "/activate, or to " +
			paths + "keys/rotate"
	case k != nil:
		return "key " + string(k.ID) + " waits for a write to " + paths + "keys/rotate, and no longer than " + timestamp(due)
	case due.IsZero():
		return "off: there is no rotation_period"
	}
	return "the next begins at " + timestamp(due)
}

// waitsFor says what a rotating key waits for, and who has to do it.
func waitsFor(paths string, c *config, k *keyring.Key) string {
	p := c.policy()
	var text string
	switch {
	case p.Publishing == keyring.Manual:
		text = pasteKeys(paths) + "; key " + string(k.ID) + " then signs by itself"
	case !k.Published(p):
		text = "the engine publishes key " + string(k.ID) + " at Redox (publication tells how that goes) and proves it " +
			p.Window.String() + " later"
	default:
		where := paths + "jwks"
		if p.Publishing == keyring.PlatformAPI {
			where = "Redox"
		}
		text = "key " + string(k.ID) + " is published at " + where + " since " + timestamp(k.PublishedAt) + " and is " +
			"proved from " + k.ProvableFrom(p).Format(time.RFC3339)
	}
	if k.Proofs.Failure != "" {
		text += "; the last proof, at " + timestamp(k.Proofs.LastAt) + ", failed: " + k.Proofs.Failure +
			"; the next is at " + timestamp(k.Proofs.NextAt)
	}
	return text
}

func pasteKeys(paths string) string {
	return "give Redox the public half (vault read -field=jwks " + paths + "keys) in the dashboard and press Save Changes"
}

// publicationStatus says how Redox learns the ring's public keys, and whether it
// has.
func publicationStatus(paths string, c *config, ring *keyring.Ring) string {
	p := ring.Publication
	switch {
	case c == nil || c.policy().Publishing == keyring.Manual:
		return "by hand: paste jwks into Redox's dashboard and press Save Changes"
	case c.PublicJWKS:
		return "Redox fetches " + paths + "jwks"
	case p == nil || p.LastAt.IsZero():
		return "about to begin"
	case p.Failure != "" && p.NextAt.IsZero():
		return "not up to date: " + p.Failure + "; tried at " + timestamp(p.LastAt) + ", and about to be tried again"
	case p.Failure != "":
		return "not up to date: " + p.Failure + "; tried at " + timestamp(p.LastAt) + ", the next time is " +
			timestamp(p.NextAt)
	case p.NextAt.IsZero():
		return "about to be updated"
	}
	return "up to date: Redox listed every key at " + timestamp(p.ReadAt)
}

// afterAdding says what to do with a key that was added.
func afterAdding(paths string, c *config, k *keyring.Key) string {
	activate := paths + "keys/" + string(k.ID) + "/activate"
	switch {
	case k.State == keyring.Pending && c != nil && c.policy().Publishing != keyring.Manual:
		return "write to " + paths + "keys/rotate, and the key signs when Redox knows it; or, when you know that it " +
			"does, to " + activate
	case k.State == keyring.Pending:
		return pasteKeys(paths) + ", then write to " + activate
	case k.State == keyring.Active:
		return pasteKeys(paths) + ", write client_id to " + paths + "config, then read " + paths + "check"
	}
	return "nothing: the key is in the ring already, as " + string(k.State)
}

// showKey names each public field by hand, so that nothing else can slip out.
// Without a config, nil, nothing is deleted by itself.
func showKey(k *keyring.Key, c *config) map[string]any {
	return map[string]any{
		"state":           string(k.State),
		"origin":          string(k.Origin),
		"key_bits":        k.Bits,
		"created_at":      k.CreatedAt.Format(time.RFC3339),
		"activated_at":    timestamp(k.ActivatedAt),
		"retired_at":      timestamp(k.RetiredAt),
		"published_until": publishedUntil(c, k),
	}
}

// showKeyWithID is showKey, with its ID.
func showKeyWithID(k *keyring.Key, c *config) map[string]any {
	data := showKey(k, c)
	data[fieldKeyID] = string(k.ID)
	return data
}

// keyFields is the schema of showKeyWithID, and more.
func keyFields(more schemas) schemas {
	fields := schemas{
		fieldKeyID:     shown(framework.TypeString, "Key ID (kid), by default the RFC 7638 thumbprint"),
		"state":        shown(framework.TypeString, "pending, active or retiring"),
		"origin":       shown(framework.TypeString, "generated (never was outside Vault) or imported"),
		"key_bits":     shown(framework.TypeInt, "Size of the modulus in bits"),
		"created_at":   shown(framework.TypeString, "When it was generated or imported, RFC 3339"),
		"activated_at": shown(framework.TypeString, "When it began to sign, empty for never"),
		"retired_at":   shown(framework.TypeString, "When it was replaced, empty for not yet"),
		"published_until": shown(framework.TypeString, "Until when a retiring key stays published, and then is deleted; "+
			"empty for as long as nobody deletes it"),
	}
	for name, schema := range more {
		fields[name] = schema
	}
	return fields
}

// publishedUntil returns when a replaced key is deleted by itself, empty for never.
func publishedUntil(c *config, k *keyring.Key) string {
	if c == nil || k.State != keyring.Retiring {
		return ""
	}
	return timestamp(k.RetiredAt.Add(seconds(c.RetireAfter)))
}

// timestamp is empty for what has not happened.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

func keyIDs(keys []*keyring.Key) []string {
	list := make([]string, 0, len(keys))
	for _, k := range keys {
		list = append(list, string(k.ID))
	}
	return list
}
