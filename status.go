package redox

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// status is a client's state, to be described for a person.
type status struct {
	paths  string        // prefix of the client's paths: redox/ or redox/clients/acme/
	config *config       // may be nil
	ring   *keyring.Ring // not empty, except in movedFrom
	now    time.Time
	failed failure // of the last step on this node
}

func (e *engine) statusOf(r *request, s *state) status {
	return status{r.paths, s.Config, s.Ring, e.now(), e.failures.of(r.client)}
}

// rotation says what a rotation waits for, or when the next one begins, and why the last
// step failed, if so. If there is a config, it also says when each retiring key will be
// deleted or why it is kept.
func (s status) rotation() string {
	text := s.nextRotation()
	for _, k := range s.ring.In(keyring.Retiring) {
		if at := publishedUntil(s.config, s.ring, k); at != "" {
			text += "; key " + string(k.ID) + " is deleted at " + at
		}
	}
	for _, k := range s.ring.In(keyring.Retiring) {
		if s.config != nil && s.ring.Keeps(k) {
			text += "; " + s.keeps(k)
		}
	}
	if s.failed.text != "" && s.overdue() == "" {
		text += "; " + s.lastFailure()
	}
	return text
}

// keeps says why the engine does not delete the retiring key k, and how a person can
// delete it.
func (s status) keeps(k *keyring.Key) string {
	active := s.ring.Active()
	why := "Redox accepted it with another client_id, token_url, audience or ca_pem than key " + string(active.ID) +
		", which signs"
	switch {
	case active.Accepted == "":
		why = "it was not seen yet that Redox accepts key " + string(active.ID) + ", which signs"
	case k.Accepted == "":
		why = "it was never seen that Redox accepted it, so the engine cannot tell whether key " + string(active.ID) +
			" replaces it"
	}
	return "key " + string(k.ID) + " is kept, as " + why + ": if nobody needs it, vault delete " +
		inShell(s.paths+"keys/"+string(k.ID))
}

func (s status) lastFailure() string {
	text := "the last step failed at " + timestamp(s.failed.at) + " and is tried again each minute: " + s.failed.text
	if strings.Contains(s.failed.text, "cannot write to storage during setup") { // in Vault's words
		text += ": Vault could not start the plugin when this node became active, and has refused all writes of the " +
			"mount since: run vault operator step-down, or seal and unseal the node; a reload does not help"
	}
	return text
}

// overdue says why a rotation that should have begun has not begun. It returns an empty
// string if there is no such rotation, or if the rotation is less than five minutes late.
func (s status) overdue() string {
	if s.config == nil {
		return ""
	}
	due := overdueSince(s.ring, s.config.policy(), s.now)
	if due.IsZero() {
		return ""
	}
	why := "the last step on this node, if there was one, did not fail"
	if s.failed.text != "" {
		why = s.lastFailure()
	} else if err := s.ring.CanAdd(); err != nil {
		why = err.Error()
	}
	return "the rotation has been overdue since " + timestamp(due) + ": " + why
}

// movedFrom says what a change of the config means for the active key, which Redox
// accepted with other settings. It returns an empty string if the change means nothing
// for the key. before is the old config, nil if there was none.
func (s status) movedFrom(before *config) string {
	k, c := s.ring.Active(), s.config
	if k == nil || k.Accepted == "" || k.Accepted == c.where() || before != nil && before.where() == c.where() {
		return ""
	}
	var fields []string
	for name, same := range map[string]bool{
		"client_id": before != nil && before.ClientID == c.ClientID,
		"token_url": before != nil && before.tokenURL() == c.tokenURL(),
		"audience":  before != nil && before.audience() == c.audience(),
		"ca_pem":    before != nil && before.CAPEM == c.CAPEM,
	} {
		if !same {
			fields = append(fields, name)
		}
	}
	slices.Sort(fields)
	text := strings.Join(fields, ", ")
	if before == nil {
		text = "client_id, token_url, audience or ca_pem"
	}
	return text + " changed since Redox accepted key " + string(k.ID) + ", which signs: reads of token fail unless " +
		"Redox knows the key with the new settings too. The engine keeps the key until somebody deletes it: write the old " +
		"values back to undo the change"
}

// warnings returns the problems that a person should fix although tokens are still
// issued: a rotation or a publication that makes no progress, and keys that only a person
// may delete and that were replaced at least retire_after ago.
func (s status) warnings() (list []string) {
	if next := s.ring.Pending(); next != nil && next.Proofs.Refusals > 0 && s.rotatesTo(next) {
		list = append(list, "the rotation to key "+string(next.ID)+" makes no progress: "+waitsFor(s.paths, s.config, next))
	}
	if text := s.overdue(); text != "" {
		list = append(list, text)
	} else if s.failed.text != "" {
		list = append(list, "the rotation makes no progress: "+s.lastFailure())
	}
	for _, k := range s.ring.Kept(s.config.policy(), s.now) {
		list = append(list, s.keeps(k))
	}
	if p := s.ring.PublicationBy(s.config.policy()); p != nil && p.Failure != "" {
		list = append(list, "the public keys at Redox are "+s.publication())
	}
	return list
}

// rotatesTo reports whether a rotation to the pending key k is under way.
func (s status) rotatesTo(k *keyring.Key) bool {
	due := s.ring.Due(s.config.policy())
	return k.Rotating || !due.IsZero() && !s.now.Before(due)
}

func (s status) nextRotation() string {
	k, c, paths := s.ring.Pending(), s.config, s.paths
	if c == nil {
		c = &config{}
	}
	due := s.ring.Due(c.policy())
	switch {
	case s.overdue() != "":
		return s.overdue()
	case k != nil && k.Rotating:
		return "under way: " + waitsFor(paths, c, k)
	case k != nil && due.IsZero():
		return "key " + string(k.ID) + " waits for a write to " + paths + "keys/" + string(k.ID) + "/activate, or to " +
			paths + "keys/rotate"
	case k != nil:
		return "key " + string(k.ID) + " waits for a write to " + paths + "keys/rotate; without that, its rotation begins " +
			"at " + timestamp(due)
	case due.IsZero():
		return "off: there is no rotation_period"
	}
	return "the next begins at " + timestamp(due)
}

// waitsFor says what a rotating key waits for, and who has to act.
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
	return "give Redox the public half (vault read -field=jwks " + inShell(paths+"keys") + ") in the dashboard and " +
		"press Save Changes"
}

// publication says how Redox learns the ring's public keys, and with platform_client also
// whether Redox lists them.
func (s status) publication() string {
	p, c := s.ring.Publication, s.config
	switch {
	case c == nil || c.policy().Publishing == keyring.Manual:
		return "by hand: paste jwks into Redox's dashboard and press Save Changes"
	case c.PublicJWKS:
		return "Redox fetches " + s.paths + "jwks"
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

// afterAdding says what to do next with a key that was added.
func afterAdding(paths string, c *config, k *keyring.Key) string {
	activate := paths + "keys/" + string(k.ID) + "/activate"
	switch {
	case k.State == keyring.Pending && c != nil && c.policy().Publishing != keyring.Manual:
		return "write to " + paths + "keys/rotate: the key signs as soon as Redox accepts it; or, if you know that " +
			"Redox has the key, write to " + activate
	case k.State == keyring.Pending:
		return pasteKeys(paths) + ", then write to " + activate
	case k.State == keyring.Active:
		return pasteKeys(paths) + ", write client_id to " + paths + "config, then read " + paths + "check"
	}
	return "nothing: the key is in the ring already, as " + string(k.State)
}

// showKey returns the fields of a key that may be shown. It lists each of them explicitly,
// so that no other field can be shown by mistake. If c is nil, published_until is empty.
func showKey(k *keyring.Key, c *config, ring *keyring.Ring) map[string]any {
	return map[string]any{
		"state":           string(k.State),
		"origin":          string(k.Origin),
		"key_bits":        k.Bits,
		"created_at":      k.CreatedAt.Format(time.RFC3339),
		"activated_at":    timestamp(k.ActivatedAt),
		"retired_at":      timestamp(k.RetiredAt),
		"published_until": publishedUntil(c, ring, k),
	}
}

// showKeyWithID returns the fields of showKey, and the key's ID.
func showKeyWithID(k *keyring.Key, c *config, ring *keyring.Ring) map[string]any {
	data := showKey(k, c, ring)
	data[fieldKeyID] = string(k.ID)
	return data
}

// keyFields returns the schema of showKeyWithID, with the schemas in more added.
func keyFields(more schemas) schemas {
	fields := schemas{
		fieldKeyID:        shown(framework.TypeString, "Key ID (kid), by default the RFC 7638 thumbprint"),
		"state":           shown(framework.TypeString, "pending, active or retiring"),
		"origin":          shown(framework.TypeString, "generated (never was outside Vault) or imported"),
		"key_bits":        shown(framework.TypeInt, "Size of the modulus in bits"),
		"created_at":      shown(framework.TypeString, "When it was generated or imported, RFC 3339"),
		"activated_at":    shown(framework.TypeString, "When it began to sign, empty for never"),
		"retired_at":      shown(framework.TypeString, "When it was replaced, empty for not yet"),
		"published_until": shown(framework.TypeString, "When the engine deletes a retiring key; empty if no time is set"),
	}
	for name, schema := range more {
		fields[name] = schema
	}
	return fields
}

// publishedUntil returns when k will be deleted automatically. It returns an empty string
// if no time is set: k is not retiring, only a person may delete k, or there is no config.
func publishedUntil(c *config, ring *keyring.Ring, k *keyring.Key) string {
	if c == nil || k.State != keyring.Retiring || ring.Keeps(k) {
		return ""
	}
	return timestamp(k.RetiredAt.Add(seconds(c.RetireAfter)))
}

// timestamp returns t in RFC 3339, or an empty string for the zero time.
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
