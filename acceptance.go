package redox

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// where returns a fingerprint of the settings by which Redox accepts a key or not:
// a proof of a key holds for a config of the same.
func (c *config) where() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{c.ClientID, c.tokenURL(), c.audience(), c.CAPEM}, "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// pointsAs reports whether a proof of a key that was made with the config c still
// holds.
func (s *state) pointsAs(c *config) bool {
	return s.Config != nil && s.Config.where() == c.where()
}

// acceptance says where Redox issued a token for a key, see [keyring.Key.Accept].
type acceptance struct {
	id       keyring.ID // empty for no key
	n, where string
}

// noteIn stores the acceptance in the ring, if the key is there.
func (a acceptance) noteIn(ring *keyring.Ring) {
	if k := ring.Get(a.id); k != nil && k.N == a.n {
		k.Accept(a.where)
	}
}

// accepted has the client's worker store that Redox accepted k with the config c,
// unless that is stored.
func (e *engine) accepted(name string, c *config, k *keyring.Key) {
	if k.Accepted == "" {
		e.rechecks.add(name, recheck{accepted: acceptance{k.ID, k.N, c.where()}})
		e.schedule.Wake(name)
	}
}
