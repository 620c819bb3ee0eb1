package redox

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a refusal shows is Redox's own words: capped, on one line, and without
// anything that may be a credential.
func TestExchangeRefusals(t *testing.T) {
	long := strings.Repeat("no ", 200)
	for name, test := range map[string]struct {
		status int
		answer string
		want   refusal
	}{
		"as documented": {400,
			`{"error":"invalid_request","error_description":"Missing client assertion","error_uri":"https://docs.redoxengine.com/permalink/x"}`,
			refusal{Code: "invalid_request", Description: "Missing client assertion", URI: "https://docs.redoxengine.com/permalink/x"}},
		"blank":               {400, `{"error":"invalid_request","error_description":"","error_uri":""}`, refusal{Code: "invalid_request"}},
		"401":                 {401, `{"error":"invalid_client"}`, refusal{Code: "invalid_client"}},
		"an error with a 200": {200, `{"error":"invalid_client","access_token":"t"}`, refusal{Code: "invalid_client"}},
		"long":                {400, `{"error":"` + long + `","error_description":"` + long + `"}`, refusal{Code: long[:64] + "…", Description: long[:300] + "…"}},
		"lines":               {400, `{"error":"a\nb","error_description":"x\r\ny\u2028z\u0000"}`, refusal{Code: "a b", Description: "x  y z"}},
		"a link of Redox's": {400, `{"error":"e","error_description":"see https://docs.redoxengine.com/permalink/7sEi7MTFssZ1JuHpUYLeYJ and https://evil.example/permalink/7sEi7MTFssZ1JuHpUYLeYJ"}`,
			refusal{Code: "e", Description: "see https://docs.redoxengine.com/permalink/7sEi7MTFssZ1JuHpUYLeYJ and https:[removed]"}},
		"a token in it": {400, `{"error":"e","error_description":"bad eyJhbGciOiJSUzM4NCJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJlc2lnbmF0dXJl here"}`,
			refusal{Code: "e", Description: "bad [removed] here"}},
		"foreign link":     {400, `{"error":"e","error_uri":"https://evil.example/"}`, refusal{Code: "e"}},
		"almost Redox's":   {400, `{"error":"e","error_uri":"https://evilredoxengine.com/"}`, refusal{Code: "e"}},
		"link with secret": {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/?t=secret"}`, refusal{Code: "e"}},
		"link with user":   {400, `{"error":"e","error_uri":"https://u:p@docs.redoxengine.com/"}`, refusal{Code: "e"}},
		"link, http":       {400, `{"error":"e","error_uri":"http://docs.redoxengine.com/"}`, refusal{Code: "e"}},
		"link with token":  {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/` + strings.Repeat("x", 40) + `"}`, refusal{Code: "e"}},
		"link, long":       {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/` + strings.Repeat("x/", 100) + `"}`, refusal{Code: "e"}},
		"link, bare":       {400, `{"error":"e","error_uri":"https://redoxengine.com/x"}`, refusal{Code: "e", URI: "https://redoxengine.com/x"}},
		"link, damaged":    {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/%zz"}`, refusal{Code: "e"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(t, body(test.status, test.answer))
			var got *refusal
			if !errors.As(err, &got) {
				t.Fatalf("error %v of type %T", err, err)
			}
			test.want.Status, test.want.Skew = test.status, got.Skew
			if diff := cmp.Diff(&test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !got.Skew.Known {
				t.Error("the skew was not measured")
			}
		})
	}
}

// What a server repeats of the assertion reaches nobody, wherever it stands.
func TestExchangeEcho(t *testing.T) {
	claims, signature := strings.Repeat("claims", 20), strings.Repeat("Sig_-", 60)
	assertion := "header." + claims + "." + signature
	for name, test := range map[string]struct {
		status int
		answer string
	}{
		"as scope":                  {200, `{"access_token":"t","scope":"` + assertion + `"}`},
		"as token":                  {200, `{"access_token":"` + assertion + `"}`},
		"its signature as type":     {200, `{"access_token":"t","token_type":"` + signature + `"}`},
		"in the description":        {400, `{"error":"e","error_description":"x ` + assertion + `"}`},
		"its claims in the error":   {400, `{"error":"` + claims + `"}`},
		"its signature in the link": {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/` + signature + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(body(test.status, test.answer))
			defer server.Close()
			got, err := exchange(t.Context(), newLane(t, "").http, server.URL, assertion, "")
			if got != nil || err == nil {
				t.Fatalf("%+v, %v", got, err)
			}
			if text := err.Error(); strings.Contains(text, claims) || strings.Contains(text, signature) {
				t.Errorf("the error shows the assertion: %s", text)
			}
		})
	}
}
