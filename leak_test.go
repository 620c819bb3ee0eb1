package redox

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// imported returns the key that most tests import. It parses the key only once, because that takes long.
var imported = sync.OnceValues(func() (*keyring.Key, error) {
	raw, err := os.ReadFile("internal/keyring/testdata/pkcs8.pem")
	if err != nil {
		return nil, err
	}
	k, _, err := keyring.Parse(string(raw), "", time.Time{})
	return k, err
})

// secrets returns what scan searches for, by name: the private parts of the imported key and of all
// stored keys, and the assertions and tokens of the sandbox.
func (m *mount) secrets() map[string]string {
	secrets := m.sandbox.Secrets()
	k, err := imported()
	if err != nil {
		m.t.Fatal(err)
	}
	keys := []*keyring.Key{k} // even if it has been deleted since
	for path := range snapshot(m.t, m.storage) {
		if !strings.HasSuffix(path, "/keyring") {
			continue
		}
		ring, err := store.Get[keyring.Ring](context.Background(), m.storage, path)
		if err != nil {
			continue // a test has stored something unreadable
		}
		keys = append(keys, ring.Keys...)
	}
	for _, k := range keys {
		private, err := k.Private()
		if err != nil {
			continue // likewise
		}
		more, err := redoxtest.KeySecrets(string(k.ID), private)
		if err != nil {
			m.t.Fatal(err)
		}
		maps.Copy(secrets, more)
	}
	return secrets
}

// scan fails the test if the log, an error or a response shows a secret. In a response, the field
// access_token does not count.
func (m *mount) scan() {
	where := map[string]string{"log": m.log.String()}
	m.mu.Lock()
	for i, text := range m.said {
		where[fmt.Sprint("answer ", i)] = text
	}
	m.mu.Unlock()
	for _, leak := range redoxtest.Leaks(where, m.secrets()) {
		m.t.Errorf("leak: %s", leak)
	}
}

// The scan finds a leaked secret, also a long part of one. It does not report public keys and
// certificates.
func TestScanFindsLeaks(t *testing.T) {
	m := newMount(t)
	m.setUp()
	token := m.read("token")["access_token"].(string)
	secrets := m.secrets()
	leaks := func(text string) int { return len(redoxtest.Leaks(map[string]string{"somewhere": text}, secrets)) }
	if n := leaks(m.log.String()); n != 0 {
		t.Errorf("%d leaks before there is one", n)
	}
	assertion := m.sandbox.Assertions()[0]
	pem := testdata(t, "pkcs8.pem")
	for what, text := range map[string]string{
		"a token":                  "got " + token + " from Redox",
		"a part of a token":        token[8:58],
		"an assertion":             assertion,
		"an assertion's claims":    strings.Split(assertion, ".")[1],
		"half a signature":         assertion[len(assertion)-100:],
		"a key as PEM":             pem,
		"a key as PEM in a string": fmt.Sprintf("%q", pem),
		"a key as PKCS#1":          testdata(t, "pkcs1.pem"),
		"the keyring as it is":     snapshot(t, m.storage)["clients/default/keyring"],
		"a line of a key":          strings.Split(pem, "\n")[12],
	} {
		if leaks(text) == 0 {
			t.Errorf("%s is not found", what)
		}
	}
	for what, text := range map[string]string{
		"the public key": testdata(t, "public.pem"), "a certificate": testdata(t,
			"certificate.pem"), "the JWK Set": m.read("keys")["jwks"].(string),
	} {
		if leaks(text) != 0 {
			t.Errorf("%s counts as a leak", what)
		}
	}
}
