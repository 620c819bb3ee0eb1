package redox

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// where returns a fingerprint of the client ID, the token URL, the audience and ca_pem.
// A proof of a key is valid for every config with the same fingerprint.
func (c *config) where() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{c.ClientID, c.tokenURL(), c.audience(), c.CAPEM}, "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// identity returns the client ID, the token URL and the audience as one text.
func (c *config) identity() string { return c.ClientID + " " + c.tokenURL() + " " + c.audience() }

// pointsAs reports whether the stored config has the same fingerprint as c, see where. If
// so, a proof that was made with c is valid.
func (s *state) pointsAs(c *config) bool {
	return s.Config != nil && s.Config.where() == c.where()
}

// acceptance names a key for which Redox issued a token, and the settings of that
// request; see [keyring.Key.Accept].
type acceptance struct {
	id       keyring.ID // empty: no key
	n, where string
}

// noteIn stores the acceptance in the ring, if the key is there.
func (a acceptance) noteIn(ring *keyring.Ring) {
	if k := ring.Get(a.id); k != nil && k.N == a.n {
		k.Accept(a.where)
	}
}

// accepted makes the client's worker store that Redox accepted k with the config c. It
// does nothing if an acceptance of k, with whatever config, is already stored.
func (e *engine) accepted(name string, c *config, k *keyring.Key) {
	if k.Accepted == "" {
		e.rechecks.add(name, recheck{accepted: acceptance{k.ID, k.N, c.where()}})
		e.schedule.Wake(name)
	}
}
