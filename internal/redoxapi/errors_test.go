package redoxapi

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What an error response shows is Redox's own words: capped, on one line, and without
// anything that may be a credential.
func TestExchangeRefusals(t *testing.T) {
	long := strings.Repeat("no ", 200)
	for name, test := range map[string]struct {
		status int
		answer string
		want   Error
	}{
		"as documented": {400,
			`{"error":"invalid_request","error_description":"Missing client assertion","error_uri":"https://docs.redoxengine.com/permalink/x"}`,
			Error{Code: "invalid_request", Description: "Missing client assertion", URI: "https://docs.redoxengine.com/permalink/x"}},
		"blank":               {400, `{"error":"invalid_request","error_description":"","error_uri":""}`, Error{Code: "invalid_request"}},
		"401":                 {401, `{"error":"invalid_client"}`, Error{Code: "invalid_client"}},
		"an error with a 200": {200, `{"error":"invalid_client","access_token":"t"}`, Error{Code: "invalid_client"}},
		"long":                {400, `{"error":"` + long + `","error_description":"` + long + `"}`, Error{Code: long[:64] + "…", Description: long[:300] + "…"}},
		"lines":               {400, `{"error":"a\nb","error_description":"x\r\ny\u2028z\u0000"}`, Error{Code: "a b", Description: "x  y z"}},
		"a link of Redox's": {400, `{"error":"e","error_description":"see https://docs.redoxengine.com/permalink/7sEi7MTFssZ1JuHpUYLeYJ and https://evil.example/permalink/7sEi7MTFssZ1JuHpUYLeYJ"}`,
			Error{Code: "e", Description: "see https://docs.redoxengine.com/permalink/7sEi7MTFssZ1JuHpUYLeYJ and https:[removed]"}},
		"a token in it": {400, `{"error":"e","error_description":"bad eyJhbGciOiJSUzM4NCJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJlc2lnbmF0dXJl here"}`,
			Error{Code: "e", Description: "bad [removed] here"}},
		"foreign link":     {400, `{"error":"e","error_uri":"https://evil.example/"}`, Error{Code: "e"}},
		"almost Redox's":   {400, `{"error":"e","error_uri":"https://evilredoxengine.com/"}`, Error{Code: "e"}},
		"link with secret": {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/?t=secret"}`, Error{Code: "e"}},
		"link with user":   {400, `{"error":"e","error_uri":"https://u:p@docs.redoxengine.com/"}`, Error{Code: "e"}},
		"link, http":       {400, `{"error":"e","error_uri":"http://docs.redoxengine.com/"}`, Error{Code: "e"}},
		"link with token":  {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/` + strings.Repeat("x", 40) + `"}`, Error{Code: "e"}},
		"link, long":       {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/` + strings.Repeat("x/", 100) + `"}`, Error{Code: "e"}},
		"link, bare":       {400, `{"error":"e","error_uri":"https://redoxengine.com/x"}`, Error{Code: "e", URI: "https://redoxengine.com/x"}},
		"link, damaged":    {400, `{"error":"e","error_uri":"https://docs.redoxengine.com/%zz"}`, Error{Code: "e"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(t, body(test.status, test.answer))
			var got *Error
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
			got, err := newClient(t, "").Exchange(t.Context(), server.URL, assertion, "")
			if got != nil || err == nil {
				t.Fatalf("%+v, %v", got, err)
			}
			if text := err.Error(); strings.Contains(text, claims) || strings.Contains(text, signature) {
				t.Errorf("the error shows the assertion: %s", text)
			}
		})
	}
}
