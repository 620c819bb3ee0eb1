package redoxapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const platformToken = "a-token-of-the-platform-client"

func askPlatform(t *testing.T, handler http.HandlerFunc) *Platform {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	api, err := newClient(t, "").Platform(server.URL+"/v2/auth/token", platformToken)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// platformThat returns the Platform API of a server that always sends that status and answer.
func platformThat(t *testing.T, status int, answer string) *Platform {
	t.Helper()
	return askPlatform(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	})
}

// The requests are as Redox documents them.
func TestPlatformRequests(t *testing.T) {
	var got string
	api := askPlatform(t, func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = strings.Join([]string{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Accept"),
			r.Header.Get("Content-Type"), string(raw)}, " ")
		_, _ = io.WriteString(w, `{"meta":{"version":"1.0.0","new":[1]},"payload":{"apikey":{"id":"a b/c","name":"n",`+
			`"jwksURL":null,"jwkSet":{"keys":[{"kid":"k"}]},"new":{}}}}`)
	})
	key, err := api.Read(t.Context(), "a b/c")
	if err != nil || key.JWKSURL != "" || len(key.Keys) != 1 || string(key.Keys[0]) != `{"kid":"k"}` {
		t.Errorf("%+v, %v", key, err)
	}
	if want := "GET /platform/v1/apikeys/a%20b%2Fc Bearer " + platformToken + " application/json  "; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	if err := api.Update(t.Context(), "id", []json.RawMessage{[]byte(`{"kid":"<&>","n":1.50}`)}); err != nil {
		t.Error(err)
	}
	if want := "PATCH /platform/v1/apikeys/id Bearer " + platformToken +
		` application/json application/json {"jwkSet":{"keys":[{"kid":"<&>","n":1.50}]}}` + "\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// Each of these answers gives an error of the right type, which does not quote the answer. An empty
// list of keys is no error.
func TestPlatformAnswers(t *testing.T) {
	const words = "words of the server"
	for name, test := range map[string]struct {
		status  int
		answer  string
		want    string
		refused bool
	}{
		"no JSON":    {200, words, "is not the JSON of an API key", false},
		"no payload": {200, `{"words of the server":1}`, "is not the JSON of an API key", false},
		"no API key": {200, `{"payload":{"apikeys":[]}}`, "is not the JSON of an API key", false},
		"no ID":      {200, `{"payload":{"apikey":{}}}`, "without this client ID", false},
		"another ID": {200, `{"payload":{"apikey":{"id":"words of the server"}}}`,
			"without this client ID", false},
		"keys no list": {200, `{"payload":{"apikey":{"id":"id","jwkSet":{"keys":{}}}}}`,
			"is not the JSON of an API key", false},
		"the URL no string": {200, `{"payload":{"apikey":{"id":"id","jwksURL":{}}}}`,
			"is not the JSON of an API key", false},
		"no set": {200, `{"payload":{"apikey":{"id":"id","jwks":{"keys":[]}}}}`,
			"does not show the API key's jwkSet", false},
		"a null for a set": {200, `{"payload":{"apikey":{"id":"id","jwkSet":null}}}`,
			"does not show the API key's jwkSet", false},
		"no keys in the set": {200, `{"payload":{"apikey":{"id":"id","jwkSet":{"keys":null}}}}`,
			"does not show the API key's jwkSet", false},
		"it repeats a token": {200, `{"payload":{"apikey":{"id":"id","jwkSet":{"keys":[{"kid":"` + platformToken + `"}]}}}}`,
			"repeats the access token", false},
		"likewise, refusing": {403, `{"error":"` + platformToken + `"}`, "repeats the access token", false},
		"401": {401, `{"errorDetail":"words of the server"}`,
			"does not accept the platform client's token", true},
		"403": {403, `{"errorDetail":"words of the server"}`, "needs a role", true},
		"404": {404, `{"errorDetail":"words of the server"}`,
			"sees no OAuth API key with client ID id", true},
		"409":         {409, `{"errorDetail":"words of the server"}`, "answered HTTP 409", true},
		"404, a page": {404, words, "not in JSON: a firewall or proxy", true},
		"302":         {302, words, "a redirect, which is never followed", true},
		"429":         {429, words, "answered HTTP 429", false},
		"500":         {500, words, "answered HTTP 500", false},
	} {
		t.Run(name, func(t *testing.T) {
			api := platformThat(t, test.status, test.answer)
			key, err := api.Read(t.Context(), "id")
			var no *PlatformError
			var passing *UpstreamError
			if key != nil || err == nil || errors.As(err, &no) != test.refused || errors.As(err, &passing) == test.refused {
				t.Fatalf("%+v, %v", key, err)
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), words) ||
				strings.Contains(err.Error(), platformToken) {
				t.Errorf("error %q, want %q", err, test.want)
			}
		})
	}
	api := platformThat(t, 200, `{"payload":{"apikey":{"id":"id","jwkSet":{"keys":[]}}}}`)
	if key, err := api.Read(t.Context(), "id"); err != nil || len(key.Keys) != 0 {
		t.Errorf("without any key: %+v, %v", key, err)
	}
	if err := api.Update(t.Context(), "id", []json.RawMessage{[]byte(`{`)}); err == nil ||
		!strings.Contains(err.Error(), "list is not JSON") {
		t.Errorf("no JSON to be sent back: %v", err)
	}
	if err := platformThat(t, 403, "{}").Update(t.Context(), "id", nil); err == nil {
		t.Error("a refused update succeeds")
	}
}
