package keyring_test

import (
	"crypto"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// Each file in testdata/cases is accepted or refused as expected.tsv says, with the words there in
// the warnings or in the error. The error must be the same if each byte of the file that is not
// UTF-8 is replaced with U+FFFD, as JSON does.
func TestCases(t *testing.T) {
	accepted, refused := 0, 0
	for line := range strings.Lines(file(t, "cases/expected.tsv")) {
		row := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, wanted, print, id, words := row[0], row[2], row[3], row[4], row[5]
		if id == "" {
			id = print
		}
		t.Run(name+" "+row[1], func(t *testing.T) {
			text := file(t, "cases/"+name)
			k, warnings, err := keyring.Parse(text, "", noon)
			said := strings.Join(warnings, " ")
			if wanted == "accept" {
				if accepted++; err != nil {
					t.Fatal(err)
				}
				if got := thumbprintOf(t, k); got != print || string(k.ID) != id {
					t.Errorf("key %s under ID %s, want %s under %s", got, k.ID, print, id)
				}
				if words == "" && said != "" {
					t.Errorf("warned: %s", said)
				}
			} else {
				if refused++; k != nil || !isRule(err) {
					t.Fatalf("key %v, error %v, want a Rule", k, err)
				}
				said = err.Error()
				quotesNothing(t, text, err)
				if _, _, again := keyring.Parse(string([]rune(text)), "", noon); again == nil || again.Error() != said {
					t.Errorf("said %q, and of JSON %v", said, again)
				}
			}
			for word := range strings.SplitSeq(words, "|") {
				if !strings.Contains(said, word) {
					t.Errorf("%q does not say %q", said, word)
				}
			}
		})
	}
	t.Logf("%d were accepted and %d refused", accepted, refused)
	if accepted < 98 || refused < 78 {
		t.Errorf("%d to accept and %d to refuse are too few", accepted, refused)
	}
}

func isRule(err error) bool {
	var rule keyring.Rule
	return errors.As(err, &rule)
}

// thumbprintOf computes the thumbprint of k from its stored private key.
func thumbprintOf(t testing.TB, k *keyring.Key) string {
	t.Helper()
	private, err := k.Private()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := (&jose.JSONWebKey{Key: &private.PublicKey}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}
