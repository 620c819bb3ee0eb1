package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// keepKeys records the private keys that are stored now: a key that is deleted
// later is still a secret.
func (w *world) keepKeys() error {
	return w.walk("logical/", func(path, value string) error {
		if !strings.HasSuffix(path, "/keyring") {
			return nil
		}
		return addKeys(w.keys, value)
	})
}

// leaks searches for keys, assertions, tokens, the canary and w.others in the recorded answers, the audit
// log, the servers' logs, and storage outside the key rings.
func (w *world) leaks() (found []string, summary string, err error) {
	if err := w.keepKeys(); err != nil {
		return nil, "", err
	}
	texts := maps.Clone(w.texts)
	entries := 0
	err = w.walk("logical/", func(path, value string) error {
		entries++
		if !strings.HasSuffix(path, "/keyring") {
			texts["storage "+path] = value
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	if entries == 0 {
		return nil, "", errors.New("the server shows nothing of its storage")
	}
	files := []string{w.auditLog()}
	for _, node := range w.nodes() {
		files = append(files, node.log)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && len(raw) == 0 {
			err = fmt.Errorf("%s is empty", file)
		}
		if err != nil {
			return nil, "", err
		}
		texts[filepath.Base(file)] = string(raw)
	}
	secrets := w.sandbox.Secrets()
	maps.Copy(secrets, w.keys)
	maps.Copy(secrets, w.others)
	secrets["the proxy's password"] = canary
	summary = fmt.Sprintf("%d secrets, %d texts, %d entries in storage", len(secrets), len(texts), entries)
	return redoxtest.Leaks(texts, secrets), summary, nil
}

func (w *world) scan(t *testing.T) {
	found, summary, err := w.leaks()
	name := filepath.Base(w.dir)
	if err != nil {
		t.Errorf("%s: the scan for leaks failed: %v", name, err)
	}
	for _, leak := range found {
		t.Errorf("%s: leak: %s", name, leak)
	}
	t.Logf("%s: scanned for leaks: %s", name, summary)
}

// The scan finds a token that the path of a request has put into the audit log, and a token or a password in
// an answer that must not have it. It returns an error if it cannot read the audit log or storage.
func TestScanFindsLeaks(t *testing.T) {
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	resp, err := http.PostForm(w.sandbox.TokenURL(), nil) //nolint:noctx // ends at once
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	w.sandbox.SetFault(redoxtest.FaultNoExpires, 1)
	if resp, err = http.PostForm(w.sandbox.TokenURL(), nil); err != nil { //nolint:noctx // likewise
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if found, _, err := w.leaks(); err != nil || len(found) != 0 {
		t.Fatalf("before there is a leak: %v, %v", found, err)
	}
	if _, _, err := w.call(http.MethodGet, "redox/keys/"+w.sandbox.Tokens()[0], ""); err != nil {
		t.Fatal(err)
	}
	token := w.sandbox.Tokens()[0]
	w.record("read redox/config", "the proxy is http://user:"+canary+"@proxy")
	w.record("write redox/config token_url=http://127.0.0.1/v2/auth/token", token)
	w.record("read redox/token", token)
	w.record("read redox/token", token, token)
	found, _, err := w.leaks()
	if want := []string{
		"the proxy's password in answer 0, to read redox/config", "token 0 in .audit.log",
		"token 0 in answer 1, to write redox/config token_url=http://127.0.0.1/v2/auth/token",
		"token 0 in answer 3, to read redox/token",
	}; !slices.Equal(found, want) {
		t.Errorf("found %q, want %q; %v", found, want, err)
	}
	if err := w.enableAudit(); err == nil {
		t.Error("a refusal to enable the audit log is no error")
	}
	if err := os.Remove(w.auditLog()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.leaks(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without an audit log the scan says %v", err)
	}
	w.rootToken = "of nobody"
	if _, _, err := w.leaks(); err == nil || !strings.Contains(err.Error(), "nothing of its storage") {
		t.Errorf("without a right to read storage the scan says %v", err)
	}
}

// walk calls see with each entry of Vault's storage below a prefix, decrypted.
func (w *world) walk(prefix string, see func(path, value string) error) error {
	var list struct{ Data struct{ Keys []string } }
	_, raw, err := w.call("LIST", "sys/raw/"+prefix, "")
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return fmt.Errorf("listing %s: %w: %s", prefix, err, raw)
	}
	for _, key := range list.Data.Keys {
		path := prefix + key
		if strings.HasSuffix(key, "/") {
			if err := w.walk(path, see); err != nil {
				return err
			}
			continue
		}
		var entry struct{ Data struct{ Value string } }
		status, raw, err := w.call(http.MethodGet, "sys/raw/"+path, "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("HTTP %d", status)
		}
		if err == nil {
			err = json.Unmarshal(raw, &entry)
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if err := see(path, entry.Data.Value); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func addKeys(secrets map[string]string, entry string) error {
	var ring struct {
		Data struct {
			Keys []struct {
				ID         string `json:"id"`
				PrivateKey string `json:"private_key"`
			}
		}
	}
	if err := json.Unmarshal([]byte(entry), &ring); err != nil {
		return err
	}
	for _, k := range ring.Data.Keys {
		der, err := base64.StdEncoding.DecodeString(k.PrivateKey)
		if err != nil {
			return err
		}
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return err
		}
		private, isRSA := parsed.(*rsa.PrivateKey)
		if !isRSA {
			return errors.New("not an RSA key")
		}
		more, err := redoxtest.KeySecrets(k.ID, private)
		if err != nil {
			return err
		}
		maps.Copy(secrets, more)
	}
	return nil
}
