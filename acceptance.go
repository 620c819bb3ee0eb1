package redox

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// where returns a fingerprint of the client ID, the token URL, the audience and ca_pem.
// A proof that was made with one config is valid for every config with the same fingerprint.
func (c *config) where() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{c.ClientID, c.tokenURL(), c.audience(), c.CAPEM}, "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// identity returns the client ID, the token URL and the audience as one text.
func (c *config) identity() string { return c.ClientID + " " + c.tokenURL() + " " + c.audience() }

// pointsAs reports whether the stored config has the same fingerprint as c, see
// [config.where]. If so, a proof that was made with c is valid.
func (s *state) pointsAs(c *config) bool {
	return s.Config != nil && s.Config.where() == c.where()
}

// acceptance says that Redox accepted a key, and with which settings; see
// [keyring.Key.Accept].
type acceptance struct {
	id       keyring.ID // empty: no key
	n, where string     // the key's modulus; the fingerprint of the settings
}

// noteIn calls [keyring.Key.Accept] for the key, if it is in the ring.
func (a acceptance) noteIn(ring *keyring.Ring) {
	if k := ring.Get(a.id); k != nil && k.N == a.n {
		k.Accept(a.where)
	}
}

// accepted tells the client's worker to store that Redox accepted k with the config c. It
// does nothing if k has an acceptance already, with any config.
func (e *engine) accepted(name string, c *config, k *keyring.Key) {
	if k.Accepted == "" {
		e.rechecks.add(name, recheck{accepted: acceptance{k.ID, k.N, c.where()}})
		e.schedule.Wake(name)
	}
}
