package keyring_test

import (
	"crypto/rand"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

func number(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }

// pkcs1 returns a PKCS#1 key as PEM, with these numbers, right or wrong, and with wrong CRT values.
func pkcs1(t testing.TB, n, e, d, p, q *big.Int) string {
	t.Helper()
	bad := big.NewInt(3)
	raw, err := asn1.Marshal(struct {
		Version                    int
		N, E, D, P, Q, Dp, Dq, Inv *big.Int
	}{0, n, e, d, p, q, bad, bad, bad})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: raw}))
}

// If d, p or q is missing, it is computed from the others. A wrong number is refused. The CRT values
// are always computed anew.
func TestNumbers(t *testing.T) {
	key := testKey(t)
	n, e, d, p, q := key.N, big.NewInt(65537), key.D, key.Primes[0], key.Primes[1]
	zero, two := new(big.Int), big.NewInt(2)
	sum := func(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }
	times := func(a, b *big.Int) *big.Int { return new(big.Int).Mul(a, b) }
	minusOne := func(a *big.Int) *big.Int { return new(big.Int).Sub(a, big.NewInt(1)) }
	phi := times(minusOne(p), minusOne(q))
	prime := func(bits int) *big.Int {
		prime, err := rand.Prime(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return prime
	}
	short, long := prime(1016), prime(1032)
	// e divides p-1, so there is no d.
	divides := prime(1010)
	for divides = sum(times(divides, times(two, e)), big.NewInt(1)); !divides.ProbablyPrime(20); divides = sum(divides,
		times(two, e)) {
	}
	other := prime(divides.BitLen())
	for name, test := range map[string]struct {
		n, e, d, p, q *big.Int
		want          string // what the error says; empty: no error
	}{
		"whole":                   {n, e, d, p, q, ""},
		"no d":                    {n, e, zero, p, q, ""},
		"no p":                    {n, e, d, zero, q, ""},
		"no q":                    {n, e, d, p, zero, ""},
		"p alone":                 {n, e, zero, p, zero, ""},
		"d alone":                 {n, e, d, zero, zero, ""},
		"p and q swapped":         {n, e, d, q, p, ""},
		"d plus phi":              {n, e, sum(d, phi), p, q, ""},
		"d plus phi alone":        {n, e, sum(d, phi), zero, zero, ""},
		"nothing private":         {n, e, zero, zero, zero, "it has only n and e"},
		"wrong d":                 {n, e, sum(d, two), p, q, "its d does not belong to its primes and e"},
		"d right for p alone":     {n, e, sum(d, minusOne(p)), p, q, "its d does not belong to its primes and e"},
		"d right for q alone":     {n, e, sum(d, minusOne(q)), p, q, "its d does not belong to its primes and e"},
		"wrong d alone":           {n, e, sum(d, two), zero, zero, "its d does not belong to its n and e"},
		"even d alone":            {n, e, sum(d, big.NewInt(1)), zero, zero, "its d does not belong to its n and e"},
		"wrong n":                 {sum(n, two), e, d, p, q, "its primes p and q do not make its n"},
		"wrong p":                 {n, e, d, sum(p, two), q, "its primes p and q do not make its n"},
		"wrong p alone":           {n, e, d, sum(p, two), zero, "its primes p and q do not make its n"},
		"p is 1":                  {n, e, d, big.NewInt(1), n, "two primes of equal length"},
		"p twice":                 {times(p, p), e, d, p, p, "two primes of equal length"},
		"unequal lengths":         {times(short, long), e, zero, short, long, "two primes of equal length"},
		"p is no prime":           {times(times(prime(512), prime(512)), q), e, zero, zero, q, "two primes of equal length"},
		"q is no prime":           {times(times(prime(512), prime(512)), q), e, zero, q, zero, "two primes of equal length"},
		"e divides p-1":           {times(divides, other), e, zero, divides, other, "no d belongs to its primes and e"},
		"huge d":                  {n, e, times(d, d), p, q, "larger than n"},
		"huge p":                  {n, e, d, times(n, n), q, "larger than n"},
		"huge q":                  {n, e, d, p, times(n, n), "larger than n"},
		"negative d":              {n, e, big.NewInt(-3), p, q, "d, p or q is negative"},
		"negative n":              {big.NewInt(-3), e, d, p, q, "its n is zero or negative"},
		"negative p and q":        {n, e, d, new(big.Int).Neg(p), new(big.Int).Neg(q), "d, p or q is negative"},
		"e is 65535":              {n, big.NewInt(65535), d, p, q, "exponent is 65535, and at least 65537"},
		"e is even":               {n, big.NewInt(65538), d, p, q, "exponent is negative or even"},
		"e is negative":           {n, big.NewInt(-65537), d, p, q, "exponent is negative or even"},
		"e is 2^31-1, of no d":    {n, big.NewInt(1<<31 - 1), d, p, q, "its d does not belong"},
		"e is 2^31+1":             {n, big.NewInt(1<<31 + 1), d, p, q, "exponent is not below 2^31"},
		"three primes":            {times(n, p), e, zero, n, p, "two primes of equal length"},
		"2047 bits":               {new(big.Int).Rsh(n, 1), e, d, p, q, "2047 bits"},
		"no divisor, no d":        {n, e, zero, e, zero, "do not make its n"},
		"e is 1 and d is 1 alone": {n, big.NewInt(1), big.NewInt(1), zero, zero, "exponent is 1, and at least 65537"},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, err := keyring.Parse(pkcs1(t, test.n, test.e, test.d, test.p, test.q), "", noon)
			if test.want != "" {
				if k != nil || !isRule(err) || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("%v, %v, want %q", k, err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			private, err := k.Private()
			if err != nil {
				t.Fatal(err)
			}
			if err := private.Validate(); err != nil || !private.PublicKey.Equal(&key.PublicKey) || private.D.Cmp(n) >= 0 {
				t.Errorf("another key, or one that is not valid: %v", err)
			}
			if private.Precomputed.Dp.Cmp(new(big.Int).Mod(d, minusOne(private.Primes[0]))) != 0 {
				t.Error("the CRT values were not computed anew")
			}
		})
	}
}
