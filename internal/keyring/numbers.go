package keyring

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"math/big"
)

// numbers are the numbers of an RSA private key as it was given. All but n and e may
// be zero, which means that they were not given. The CRT values are not among them:
// they are always computed from the others.
type numbers struct{ n, e, d, p, q *big.Int }

var one = big.NewInt(1)

// complete checks the numbers, computes those that were not given, and returns the key. Before it
// returns the key, it makes a test signature and verifies it.
func (k numbers) complete() (*rsa.PrivateKey, error) {
	if err := k.checkPublic(); err != nil {
		return nil, err
	}
	p, q, err := k.primes()
	if err != nil {
		return nil, err
	}
	d, err := k.exponent(p, q)
	if err != nil {
		return nil, err
	}
	public := rsa.PublicKey{N: k.n, E: int(k.e.Int64())}
	private := &rsa.PrivateKey{PublicKey: public, D: d, Primes: []*big.Int{p, q}}
	private.Precompute()
	digest := sha512.Sum384([]byte("a key that is imported signs once before it is stored"))
	signature, err := rsa.SignPKCS1v15(nil, private, crypto.SHA384, digest[:])
	if err == nil {
		err = rsa.VerifyPKCS1v15(&public, crypto.SHA384, digest[:], signature)
	}
	if err != nil {
		return nil, ruleError("a test signature made with it is not valid: copy it again, or generate another key")
	}
	return private, nil
}

// checkPublic checks n and e. It also limits d, p and q, so that large ones cannot make the
// following computations slow.
func (k numbers) checkPublic() error {
	switch bits := k.n.BitLen(); {
	case k.n.Sign() <= 0:
		return ruleError("its n is zero or negative: copy it again")
	case bits < MinBits:
		return ruleError("it has %d bits, and a key needs at least %d", bits, MinBits)
	case bits > MaxBits:
		return ruleError("it has %d bits, and a key may have at most %d", bits, MaxBits)
	case k.e.Sign() < 0 || k.e.Bit(0) == 0:
		return ruleError("its public exponent is negative or even: copy it again, or generate another")
	case k.e.Cmp(big.NewInt(65537)) < 0:
		return ruleError("its public exponent is %d, and at least 65537 is needed: generate another key", k.e)
	case k.e.BitLen() > 31:
		return ruleError("its public exponent is not below 2^31: generate another key")
	case k.d.Sign() < 0 || k.p.Sign() < 0 || k.q.Sign() < 0:
		return ruleError("it is not a valid RSA key: d, p or q is negative; copy it again")
	case k.d.BitLen() > bits+64 || k.p.BitLen() > bits || k.q.BitLen() > bits:
		return ruleError("it is not a valid RSA key: d, p or q is larger than n; copy it again")
	}
	return nil
}

// primes returns p and q, and checks that they are primes of equal length whose product is n. If one
// was not given, it is computed from the other; if neither was given, both are computed from d.
func (k numbers) primes() (p, q *big.Int, err error) {
	p, q = k.p, k.q
	switch {
	case p.Sign() == 0 && q.Sign() == 0 && k.d.Sign() == 0:
		return nil, nil, ruleError("it has only n and e: the engine needs the private key")
	case p.Sign() == 0 && q.Sign() == 0:
		if p, q = k.factor(); p == nil {
			return nil, nil, ruleError("it is not a valid RSA key: its d does not belong to its n and e; copy it again")
		}
	case p.Sign() == 0:
		p = new(big.Int).Div(k.n, q)
	case q.Sign() == 0:
		q = new(big.Int).Div(k.n, p)
	}
	switch {
	case new(big.Int).Mul(p, q).Cmp(k.n) != 0:
		return nil, nil, ruleError("it is not a valid RSA key: its primes p and q do not make its n; copy it again")
	case p.BitLen() != q.BitLen() || p.Cmp(q) == 0 || !p.ProbablyPrime(5) || !q.ProbablyPrime(5):
		return nil, nil, ruleError("its n is not the product of two primes of equal length: generate another key")
	}
	return p, q, nil
}

// factor computes p and q from d (NIST SP 800-56B revision 2, appendix C.1), or returns nil if d
// does not belong to n and e. It tries the 62 primes below 300 as bases. A random base finds the
// factors with a probability of at least one half.
func (k numbers) factor() (p, q *big.Int) {
	odd := new(big.Int).Mul(k.d, k.e)
	odd.Sub(odd, one)
	halvings := odd.TrailingZeroBits()
	odd.Rsh(odd, halvings)
	minusOne := new(big.Int).Sub(k.n, one)
	for n := int64(2); n < 300; n++ {
		base := big.NewInt(n)
		if !base.ProbablyPrime(0) {
			continue // only primes are tried
		}
		x := new(big.Int).Exp(base, odd, k.n)
		for i := uint(0); x.Cmp(one) != 0 && x.Cmp(minusOne) != 0; i++ {
			if i == halvings {
				return nil, nil // base^(de-1) is not 1, so d is wrong
			}
			root := x
			x = new(big.Int).Mul(root, root)
			if x.Mod(x, k.n).Cmp(one) == 0 { // root is neither 1 nor -1
				p = new(big.Int).GCD(nil, nil, root.Sub(root, one), k.n)
				return p, new(big.Int).Div(k.n, p)
			}
		}
	}
	return nil, nil
}

// exponent checks d and returns it. If d was not given or is not less than n, it computes d.
func (k numbers) exponent(p, q *big.Int) (*big.Int, error) {
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	product := new(big.Int).Mul(k.d, k.e)
	for _, order := range []*big.Int{p1, q1} {
		if k.d.Sign() != 0 && new(big.Int).Mod(product, order).Cmp(one) != 0 {
			return nil, ruleError("it is not a valid RSA key: its d does not belong to its primes and e; copy it again")
		}
	}
	if k.d.Sign() != 0 && k.d.Cmp(k.n) < 0 {
		return k.d, nil
	}
	d := new(big.Int).ModInverse(k.e, new(big.Int).Mul(p1, q1))
	if d == nil {
		return nil, ruleError("it is not a valid RSA key: no d belongs to its primes and e; generate another key")
	}
	return d, nil
}
