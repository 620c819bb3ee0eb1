package redox

import (
	"bytes"
	"encoding/json"
	"flag"
	"os/exec"
	"testing"
)

var joseVerifier = flag.String("jose", "", "path of tools/jose/verify.mjs, whose npm packages are installed")

// A library in another language, which shares no code with the engine, verifies the
// engine's assertions with the JWK Set that a read of keys shows. It refuses a forged
// assertion.
func TestJose(t *testing.T) {
	if *joseVerifier == "" {
		t.Skip("needs npm: scripts/test all runs it")
	}
	m := newMount(t)
	m.write("keys/generate", map[string]any{"key_bits": 2048})
	m.write("config", map[string]any{"client_id": clientID, "token_url": m.sandbox.TokenURL(),
		"scope": "system/Patient.read"})
	second := m.write("keys/generate", map[string]any{"key_bits": 3072})["key_id"].(string)
	m.publish("")
	m.read("token")
	m.write("keys/"+second+"/activate", nil)
	m.read("token")

	type input struct {
		JWKS       json.RawMessage `json:"jwks"`
		Issuer     string          `json:"issuer"`
		Audience   string          `json:"audience"`
		Assertions []string        `json:"assertions"`
	}
	verify := func(assertions []string) ([]byte, error) {
		t.Helper()
		raw, err := json.Marshal(input{json.RawMessage(m.read("keys")["jwks"].(string)), clientID, m.sandbox.TokenURL(),
			assertions})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "node", *joseVerifier)
		cmd.Stdin = bytes.NewReader(raw)
		return cmd.Output()
	}
	out, err := verify(m.sandbox.Assertions())
	if err != nil {
		t.Fatalf("jose refuses: %v", err)
	}
	var result struct {
		Keys int
		Seen []struct{ Kid, Jti string }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, seen := range result.Seen {
		ids[seen.Jti] = true
	}
	if result.Keys != 2 || len(result.Seen) != 3 || len(ids) != 3 || result.Seen[0].Kid == second ||
		result.Seen[2].Kid != second {
		t.Errorf("jose saw %s", out)
	}
	forged := m.sandbox.Assertions()[0]
	if _, err := verify([]string{forged[:len(forged)-8] + "AAAAAAAA"}); err == nil {
		t.Error("jose takes a forged assertion")
	}
}
