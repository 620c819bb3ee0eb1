package redoxtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

const keysPath = "/platform/v1/environments/sandbox-environment/apikeys"

// manager returns a sandbox, and a function that sends requests to its Platform API, with the
// token of a user who may manage API keys.
func manager(t *testing.T) (*redoxtest.Sandbox, func(method, path, body string) (int, map[string]any)) {
	t.Helper()
	s, _ := start(t, redoxtest.Options{})
	s.RegisterUser(clientID, true)
	return s, func(method, path, body string) (int, map[string]any) {
		t.Helper()
		return platform(t, s, tokenOf(t, s), method, path, body)
	}
}

func tokenOf(t *testing.T, s *redoxtest.Sandbox) string {
	t.Helper()
	status, answer := good(t, s, time.Now()).send(t, s)
	if status != http.StatusOK {
		t.Fatalf("token: HTTP %d %v", status, answer)
	}
	return answer["access_token"].(string)
}

func platform(t *testing.T, s *redoxtest.Sandbox, token, method, path,
	body string) (status int, answer map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return do(t, req)
}

// set returns the JWK Set of the API key in an answer, as JSON, and that API key.
func set(t *testing.T, answer map[string]any) (jwks string, key map[string]any) {
	t.Helper()
	key, _ = answer["payload"].(map[string]any)["apikey"].(map[string]any)
	raw, err := json.Marshal(key["jwkSet"])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), key
}

// The five operations on API keys work, in the formats that Redox documents.
func TestPlatform(t *testing.T) {
	s, ask := manager(t)
	jwk := publicJWK(t, &key(t).PublicKey, "k2")
	status, answer := ask(http.MethodPost, keysPath, `{"name":"mine","jwkSet":{"keys":[`+jwk+`]}}`)
	jwks, created := set(t, answer)
	id, _ := created["id"].(string)
	if status != 200 || id == "" || created["name"] != "mine" || created["jwksURL"] != nil ||
		!strings.Contains(jwks, `"kid":"k2"`) ||
		created["environment"].(map[string]any)["environmentFlag"] != "Development" ||
		answer["meta"].(map[string]any)["version"] != "1.0.0" {
		t.Fatalf("created: HTTP %d %v", status, answer)
	}
	one := "/platform/v1/apikeys/" + id
	if status, answer = ask(http.MethodGet, one, ""); status != 200 {
		t.Errorf("read: HTTP %d %v", status, answer)
	}
	if again, _ := set(t, answer); again != jwks {
		t.Errorf("read %s, created %s", again, jwks)
	}
	// An update changes only the fields that it names, and replaces a JWK Set as a whole.
	status, answer = ask(http.MethodPatch, one, `{"name":"yours","jwksURL":"https://example.com/jwks"}`)
	if again, k := set(t, answer); status != 200 || again != jwks || k["name"] != "yours" ||
		k["jwksURL"] != "https://example.com/jwks" {
		t.Errorf("updated: HTTP %d %v", status, answer)
	}
	status, answer = ask(http.MethodPatch, one, `{"jwkSet":{"keys":[]},"jwksURL":""}`)
	if again, k := set(t, answer); status != 200 || again != `{"keys":[]}` || k["name"] != "yours" || k["jwksURL"] != nil {
		t.Errorf("emptied: HTTP %d %v", status, answer)
	}
	if s.JWKS(id) != `{"keys":[]}` {
		t.Errorf("the dashboard shows %s", s.JWKS(id))
	}
	if status, answer = ask(http.MethodGet, keysPath, ""); status != 200 ||
		len(answer["payload"].(map[string]any)["apikeys"].([]any)) != 1 {
		t.Errorf("listed: HTTP %d %v", status, answer)
	}
	if status, answer = ask(http.MethodDelete, one, ""); status != 200 ||
		answer["payload"].(map[string]any)["message"] == "" {
		t.Errorf("deleted: HTTP %d %v", status, answer)
	}
	for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
		for _, absent := range []string{id, clientID} { // the Platform API does not show a user-level key
			if status, answer = ask(method, "/platform/v1/apikeys/"+absent, "{}"); status != 404 {
				t.Errorf("%s of what is not there: HTTP %d %v", method, status, answer)
			}
		}
	}
	elsewhere := strings.Replace(keysPath, "sandbox", "other", 1)
	for _, bad := range []struct {
		method, path, body string
		status             int
	}{
		{http.MethodPost, keysPath, "{}", 400}, {http.MethodPost, keysPath, "x", 400},
		{http.MethodPost, elsewhere, `{"name":"n"}`, 404}, {http.MethodGet, elsewhere, "", 404},
		{http.MethodPatch, one, `{"jwkSet":{"keys":[{}]}}`, 400},
	} {
		if status, answer = ask(bad.method, bad.path, bad.body); status != bad.status {
			t.Errorf("%s %s: HTTP %d %v", bad.method, bad.body, status, answer)
		}
	}
}

// The Platform API accepts only a valid token of a user-level key whose user may manage
// API keys.
func TestPlatformRefuses(t *testing.T) {
	s, _ := start(t, redoxtest.Options{})
	if err := s.Register("other", []byte(`{"keys":[]}`)); err != nil {
		t.Fatal(err)
	}
	ask := func(token string) int {
		status, _ := platform(t, s, token, http.MethodGet, "/platform/v1/apikeys/other", "")
		return status
	}
	got := fmt.Sprint(ask("nonsense"), ask(tokenOf(t, s)))
	s.RegisterUser(clientID, false)
	got += fmt.Sprint(" ", ask(tokenOf(t, s)))
	if status := put(t, s, "/dashboard/users/"+clientID, ""); status != 204 {
		t.Errorf("dashboard: HTTP %d", status)
	}
	got += fmt.Sprint(" ", ask(tokenOf(t, s)))
	s.SetPlatformFault(redoxtest.FaultUnavailable, 1, 1)
	got += fmt.Sprint(" ", ask(tokenOf(t, s)), ask(tokenOf(t, s)), ask(tokenOf(t, s)))
	if got != "401 403 403 200 200 503 200" {
		t.Errorf("HTTP %s", got)
	}
}

func TestQuirks(t *testing.T) {
	s, ask := manager(t)
	one := func(kid string) string { return `{"keys":[` + publicJWK(t, &key(t).PublicKey, kid) + `]}` }
	if err := s.Register("other", []byte(one("a"))); err != nil {
		t.Fatal(err)
	}
	kids := func() string {
		text := ""
		for _, kid := range []string{"a", "b", "c"} {
			if strings.Contains(s.JWKS("other"), `"kid":"`+kid+`"`) {
				text += kid
			}
		}
		return text
	}
	for _, test := range []struct {
		quirk     redoxtest.Quirk
		kid, want string
	}{{redoxtest.QuirkForgets, "b", "a"}, {redoxtest.QuirkMerges, "b", "ab"}, {"", "c", "c"}} {
		s.SetQuirk(test.quirk)
		if status, answer := ask(http.MethodPatch, "/platform/v1/apikeys/other",
			`{"jwkSet":`+one(test.kid)+`}`); status != 200 {
			t.Errorf("HTTP %d %v", status, answer)
		}
		if got := kids(); got != test.want {
			t.Errorf("quirk %q leaves %s, want %s", test.quirk, got, test.want)
		}
	}
}
