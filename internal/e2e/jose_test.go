package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os/exec"

	"github.com/rogpeppe/go-internal/testscript"
)

var joseVerifier = flag.String("jose", "", "absolute path of tools/jose/verify.mjs, whose npm packages are installed")

// joseCmd verifies every assertion that Redox has received so far with a library
// that shares no code with the engine. The library fetches the JWK Set from Vault,
// without a token. The command prints what was verified: jose <client ID> <path of jwks>.
func joseCmd(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	input, err := json.Marshal(map[string]any{
		"jwksURL": w.vault.addr + "/v1/" + args[1], "issuer": args[0], "audience": w.sandbox.TokenURL(),
		"assertions": w.sandbox.Assertions(),
	})
	ts.Check(err)
	cmd := exec.CommandContext(context.Background(), "node", *joseVerifier)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if neg == (err == nil) {
		ts.Fatalf("jose: %v: %s", err, out)
	}
	_, err = ts.Stdout().Write(out)
	ts.Check(err)
}
