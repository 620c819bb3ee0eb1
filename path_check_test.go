package redox

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

func TestCheck(t *testing.T) {
	m := newMount(t)
	keyID := m.ready("", nil)
	m.sandbox.SetClockOffset(-8 * time.Second)
	m.backend.now = func() time.Time {
		// The clock goes on by 1.234567 s per issued token, as if Redox took that long
		// to answer.
		return m.now.Add(time.Duration(len(m.sandbox.Tokens())) * 1234567 * time.Microsecond)
	}
	resp, err := m.request(context.Background(), logical.ReadOperation, "check", nil)
	if err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	skew, err := time.ParseDuration(resp.Data["clock_skew"].(string))
	if err != nil || skew < 8*time.Second || skew > 10*time.Second {
		t.Errorf("clock_skew %v", resp.Data["clock_skew"])
	}
	if !strings.Contains(fmt.Sprint(resp.Warnings), "the clock here is ahead of Redox's by ") {
		t.Errorf("warnings %v", resp.Warnings)
	}
	delete(resp.Data, "clock_skew")
	want := map[string]any{
		"client_id": clientID, "key_id": keyID, "token_url": m.sandbox.TokenURL(), "expires_in": 300.0, "took": "1.235s",
		"rotation": "off: there is no rotation_period", "publication": "by hand: paste jwks into Redox's dashboard and " +
			"press Save Changes",
	}
	if diff := cmp.Diff(want, resp.Data); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text, _ := json.Marshal(resp.Data); strings.Contains(string(text), m.sandbox.Tokens()[0]) {
		t.Error("check shows the token")
	}
	m.sandbox.SetFault(redoxtest.FaultBlank, 1)
	m.fails(http.StatusBadRequest, logical.ReadOperation, "check", nil, "no reason when a claim is wrong")
	m.sandbox.SetClockOffset(0)
	if resp, err := m.request(context.Background(), logical.ReadOperation, "check", nil); err != nil ||
		len(resp.Warnings) != 0 {
		t.Errorf("with right clocks: %v, %v", resp, err)
	}
}
