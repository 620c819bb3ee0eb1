package keyring

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ID is a key ID: the kid under which Redox knows the public key.
type ID string

var validID = regexp.MustCompile(`^[A-Za-z0-9_.:@~=+-]{1,128}$`)

// reserved are texts that cannot be key IDs: endpoints below keys/ have these names, and . and ..
// mean another path.
var reserved = map[ID]bool{"generate": true, "import": true, "rotate": true, ".": true, "..": true}

// ParseID returns s as a key ID, or an error if it cannot be one.
func ParseID(s string) (ID, error) {
	id := ID(s)
	switch {
	case !validID.MatchString(s):
		return "", fmt.Errorf("a key ID has 1 to 128 of the characters A-Z a-z 0-9 _ . : @ ~ = + -%s", badCharacter(s))
	case reserved[id]:
		return "", fmt.Errorf("%q is reserved and cannot be a key ID", s)
	}
	return id, nil
}

// badCharacter returns a text that names the first character of s that a key ID cannot have, "" if
// there is none.
func badCharacter(s string) string {
	for _, r := range s {
		switch {
		case validID.MatchString(string(r)):
		case r == ' ':
			return ", and this has a blank"
		case r > ' ' && r < 0x7f:
			return fmt.Sprintf(", and this has the character %c", r)
		default:
			return fmt.Sprintf(", and this has the character %U", r)
		}
	}
	return ""
}

// State says what a key is used for now.
type State string

// A key is usually first pending, then active, then retiring, and then it is deleted.
// The first key of a ring is active at once. The JWK Set has the keys of all three
// states. The active key signs; a pending key signs its proofs, and a retiring key may
// sign if Redox does not know the active one.
const (
	Pending  State = "pending"
	Active   State = "active"
	Retiring State = "retiring"
)

// Origin says where a private key was made.
type Origin string

// The engine made a generated key. An imported key was made elsewhere, and there may be
// copies of it.
const (
	Generated Origin = "generated"
	Imported  Origin = "imported"
)

// Key is one RSA key pair as it is stored. The public half is stored beside the
// private half, so that publishing need not parse a private key.
type Key struct {
	ID          ID        `json:"id"`
	State       State     `json:"state"`
	Origin      Origin    `json:"origin"`
	CreatedAt   time.Time `json:"created_at"`
	ActivatedAt time.Time `json:"activated_at,omitzero"`
	RetiredAt   time.Time `json:"retired_at,omitzero"`

	// Accepted is the key's acceptance, see [Key.Accept]. It is empty if none is stored.
	Accepted string `json:"accepted,omitzero"`

	// Only a pending key has these two. If Rotating is true, the key becomes active as soon as Redox
	// accepts it. PublishedAt is when the key was published; zero if it was not, or if the engine
	// cannot know.
	Rotating    bool      `json:"rotating,omitzero"`
	PublishedAt time.Time `json:"published_at,omitzero"`

	// Proofs records the worker's attempts to find out whether Redox accepts the key.
	Proofs Attempts `json:"proofs,omitzero"`

	Bits  int    `json:"bits"`
	N     string `json:"n"`           // modulus, base64url as in a JWK
	E     string `json:"e"`           // public exponent, base64url as in a JWK
	PKCS8 []byte `json:"private_key"` // DER
}

// Generate makes a new key of the given size in bits. now becomes its CreatedAt. Its ID is the RFC
// 7638 thumbprint of its public half. The caller checks the size.
func Generate(bits int, now time.Time) (*Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, fmt.Errorf("generating an RSA key of %d bits: %w", bits, err)
	}
	return newKey(private, "", Generated, now)
}

// newKey returns a key whose private half is private. If id is empty, the ID is the RFC 7638
// thumbprint of the public half.
func newKey(private *rsa.PrivateKey, id ID, origin Origin, now time.Time) (*Key, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encoding the private key: %w", err)
	}
	public := jose.JSONWebKey{Key: &private.PublicKey}
	if id == "" {
		sum, err := public.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("computing the key's thumbprint: %w", err)
		}
		id = ID(base64.RawURLEncoding.EncodeToString(sum))
	}
	var numbers struct{ N, E string }
	raw, err := public.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(raw, &numbers)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	return &Key{
		ID: id, Origin: origin, CreatedAt: now.UTC(), Bits: private.N.BitLen(),
		N: numbers.N, E: numbers.E, PKCS8: der,
	}, nil
}

// Private returns the private half, parsed.
func (k *Key) Private() (*rsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(k.PKCS8)
	if err != nil {
		return nil, fmt.Errorf("the stored private key %s cannot be read", k.ID)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the stored private key %s is not an RSA key", k.ID)
	}
	return private, nil
}

// JWK is a public RSA key in the form of RFC 7517, for signatures with RS384.
type JWK struct {
	KeyType   string `json:"kty"`
	ID        ID     `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	N         string `json:"n"`
	E         string `json:"e"`
}

// JWK returns the public half as a JWK.
func (k *Key) JWK() JWK {
	return JWK{KeyType: "RSA", ID: k.ID, Use: "sig", Algorithm: "RS384", N: k.N, E: k.E}
}

// PublicPEM returns the public half as a PEM block of type PUBLIC KEY.
func (k *Key) PublicPEM() (string, error) {
	raw, err := json.Marshal(k.JWK())
	if err != nil {
		return "", fmt.Errorf("encoding the public half of key %s: %w", k.ID, err)
	}
	var public jose.JSONWebKey
	if err := public.UnmarshalJSON(raw); err != nil {
		return "", fmt.Errorf("decoding the public half of key %s: %w", k.ID, err)
	}
	der, err := x509.MarshalPKIXPublicKey(public.Key)
	if err != nil {
		return "", fmt.Errorf("encoding the public half of key %s: %w", k.ID, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// samePair reports whether both are the same RSA key, even if their IDs differ.
func (k *Key) samePair(other *Key) bool { return k.N == other.N && k.E == other.E }
