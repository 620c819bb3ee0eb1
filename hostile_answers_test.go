package redox

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	noToken  = "no usable access_token: Redox may be in trouble"
	noJSON   = "the answer is not the JSON of a token: Redox may be in trouble"
	notHTTP  = "broke before there was an answer; proxy settings come from"
	firewall = "not the JSON of Redox (a firewall or proxy may have answered): check token_url in redox/config"
)

type badWord struct {
	answer string // %s is the assertion that was sent
	status int
	want   string
}

// refuses reads a token from a villain for each row.
func refuses(t *testing.T, tests map[string]badWord) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVillain(t, hears, echoes(test.answer))
			message := withstand(t, attack{by: v, url: v.url, status: test.status, want: []string{test.want}})
			if len(message) > 1500 || !utf8.ValidString(message) || strings.ContainsFunc(message, func(r rune) bool { return r < ' ' }) {
				t.Errorf("the message is not fit to be shown: %q", message)
			}
		})
	}
}

// What a token endpoint may say in HTTP that is in order.
func TestAnswersWithoutToken(t *testing.T) {
	t.Parallel()
	nested := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	refuses(t, map[string]badWord{
		"HTML":                           {ok200("<html>" + canary), 502, noJSON},
		"HTML with 400":                  {answer11("400 Bad Request", "<html>"+canary), 502, firewall},
		"HTML with 429":                  {answer11("429 Slow", "<html>"+canary), 429, "10,000 requests in 5 minutes"},
		"HTML with 503":                  {answer11("503 "+canary, "<html>"+canary), 502, "HTTP 503: Redox may be in trouble"},
		"status 999":                     {answer11("999 "+canary, "{}"), 502, "HTTP 999: Redox may be in trouble"},
		"status 099":                     {answer11("099 Low", `{"access_token":"`+canary+`"}`), 502, "the answer is HTTP 99, which was not asked for"},
		"a switch of protocols":          {"HTTP/1.1 101 Switch\r\nConnection: Upgrade\r\nUpgrade: " + canary + "\r\n\r\n" + `{"access_token":"` + canary + `"}`, 502, "the answer is HTTP 101, which was not asked for"},
		"nothing":                        {ok200(""), 502, noJSON},
		"token missing":                  {ok200(`{"token_type":"Bearer","expires_in":300}`), 502, noToken},
		"token empty":                    {ok200(`{"access_token":""}`), 502, noToken},
		"token null":                     {ok200(`{"access_token":null}`), 502, noToken},
		"token a number":                 {ok200(`{"access_token":1e9}`), 502, noToken},
		"token an object":                {ok200(`{"access_token":{"` + canary + `":1}}`), 502, noToken},
		"token an array":                 {ok200(`{"access_token":["` + canary + `"]}`), 502, noToken},
		"token with an escaped line end": {ok200(`{"access_token":"` + canary + `\r\nX: y"}`), 502, noToken},
		"token with a NUL":               {ok200(`{"access_token":"` + canary + `\u0000"}`), 502, noToken},
		"token with a bare line end":     {ok200("{\"access_token\":\"" + canary + "\n\"}"), 502, noJSON},
		"token in invalid UTF-8":         {ok200("{\"access_token\":\"" + canary + "\xff\"}"), 502, noToken},
		"token for no time":              {ok200(`{"access_token":"` + canary + `","expires_in":0}`), 502, "the token had ended before it came"},
		"token for less":                 {ok200(`{"access_token":"` + canary + `","expires_in":"-60"}`), 502, "the token had ended before it came"},
		"token twice, then none":         {ok200(`{"access_token":"` + canary + `","access_token":null}`), 502, noToken},
		"a byte order mark":              {ok200("\xef\xbb\xbf{\"access_token\":\"" + canary + "\"}"), 502, noJSON},
		"UTF-16":                         {ok200("{\x00\"\x00a\x00\"\x00:\x001\x00}\x00"), 502, noJSON},
		"deep nesting":                   {ok200(nested), 502, noJSON},
		"deep nesting beside a token":    {ok200(`{"access_token":"` + canary + `","x":` + nested + `}`), 502, noJSON},
		"deep nesting with 400":          {answer11("400 Bad Request", nested), 502, firewall},
		"refusal with 200":               {ok200(`{"error":"invalid_client"}`), 400, `error "invalid_client"`},
		"refusal beside a token":         {ok200(`{"access_token":"` + canary + `","error":"invalid_client"}`), 400, `error "invalid_client"`},
		"refusal in invalid UTF-8":       {answer11("400 Bad Request", "{\"error\":\"a\xff\",\"error_description\":\"b\xfe\xff\\u0007\"}"), 400, "error \"a\ufffd\""},
		"refusal without end":            {answer11("400 Bad Request", `{"error":"`+strings.Repeat("no ", 100_000)+`"}`), 400, `no n…"`},
		"refusal of long ago":            {"HTTP/1.1 400 Bad\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n" + `{"error":"e"}`, 400, "the clock here is ahead of Redox's by"},
		"refusal of times to come":       {"HTTP/1.1 400 Bad\r\nDate: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n" + `{"error":"e"}`, 400, "the clock here is behind Redox's by"},
		"refusal at no time":             {"HTTP/1.1 400 Bad\r\nDate: " + canary + "\r\n\r\n" + `{"error":"e"}`, 400, "the clock skew could not be measured"},
		"refusal that is an object":      {answer11("400 Bad Request", `{"error":{"`+canary+`":1}}`), 502, firewall},
		"refusal with a foreign link":    {answer11("400 Bad Request", `{"error":"e","error_description":"d","error_uri":"https://evil.example/`+canary+`"}`), 400, `error_description "d")`},
	})
}

// What a token endpoint says of the assertion that it was sent is not shown.
func TestAnswersThatRepeatTheAssertion(t *testing.T) {
	t.Parallel()
	const repeats = "the answer repeats the client assertion"
	body := func(status, text string) string {
		return "HTTP/1.1 " + status + "\r\nX-Echo: %s\r\n\r\n" + text
	}
	refuses(t, map[string]badWord{
		"as the token":            {body("200 OK", `{"access_token":"%s"}`), 502, repeats},
		"as the scope":            {body("200 OK", `{"access_token":"t","scope":"%s"}`), 502, repeats},
		"as the token type":       {body("200 OK", `{"access_token":"t","token_type":"%s"}`), 502, repeats},
		"beside a token":          {body("200 OK", `{"access_token":"t","%s":1}`), 502, repeats},
		"as the error":            {body("400 Bad Request", `{"error":"%s"}`), 400, "[removed]"},
		"as the description":      {body("400 Bad Request", `{"error":"e","error_description":"%s is bad"}`), 400, "[removed]"},
		"in Redox's link":         {body("400 Bad Request", `{"error":"e","error_uri":"https://docs.redoxengine.com/%s"}`), 400, `error_description "")`},
		"in HTML":                 {body("403 Forbidden", "<html>%s"), 502, firewall},
		"in the reason phrase":    {body("500 %s", "%s"), 502, "HTTP 500: Redox"},
		"as where to go":          {"HTTP/1.1 302 Found\r\nLocation: /%s\r\n\r\n", 502, "HTTP 302: a redirect, which is never followed"},
		"in place of HTTP":        {"%s", 502, notHTTP},
		"in a header without end": {"HTTP/1.1 200 OK\r\nX: %s", 502, notHTTP},
		"as a length":             {"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n", 502, notHTTP},
		"as a chunk":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n", 502, notHTTP},
	})
}

// What a token endpoint may say that is not HTTP.
func TestAnswersThatBreakHTTP(t *testing.T) {
	t.Parallel()
	const token = `{"access_token":"` + canary + `"}`
	head := func(header, body string) string { return "HTTP/1.1 200 OK\r\n" + header + "\r\n\r\n" + body }
	refuses(t, map[string]badWord{
		"two lengths":               {head("Content-Length: 25\r\nContent-Length: 26", token+" "), 502, notHTTP},
		"a list of lengths":         {head("Content-Length: 25, 26", token+" "), 502, notHTTP},
		"a negative length":         {head("Content-Length: -25", token), 502, notHTTP},
		"a length beyond 64 bits":   {head("Content-Length: 99999999999999999999", token), 502, notHTTP},
		"a length that is too long": {head("Content-Length: 26", token), 502, notHTTP},
		"a length too short":        {head("Content-Length: 24", token), 502, noJSON},
		"a bad chunk":               {head("Transfer-Encoding: chunked", "zz\r\n"+token+"\r\n0\r\n\r\n"), 502, notHTTP},
		"a chunk beyond 64 bits":    {head("Transfer-Encoding: chunked", "fffffffffffffffff\r\n"+token), 502, notHTTP},
		"a chunk longer than said":  {head("Transfer-Encoding: chunked", "18\r\n"+token+"\r\n0\r\n\r\n"), 502, notHTTP},
		"an unknown encoding":       {head("Transfer-Encoding: "+canary, token), 502, notHTTP},
		"gzip that is none":         {head("Content-Encoding: gzip", token), 502, notHTTP},
		"a header without a colon":  {head(canary, token), 502, notHTTP},
		"a header with a NUL":       {head("X: \x00"+canary, token), 502, notHTTP},
		"the settings of HTTP/2":    {"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", 502, notHTTP},
		"HTTP/0.9":                  {token, 502, notHTTP},
		"HTTP/x":                    {"HTTP/x 200 OK\r\n\r\n" + token, 502, notHTTP},
		"a status of four digits":   {"HTTP/1.1 2000 OK\r\n\r\n" + token, 502, notHTTP},
		"another protocol":          {"SSH-2.0-" + canary + "\r\n", 502, notHTTP},
	})
}

// A token is judged by the content of the answer, not by its wrapping.
func TestAnswersWithToken(t *testing.T) {
	t.Parallel()
	const token = `{"access_token":"t","expires_in":60}`
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(token)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	head := func(header, body string) string { return "HTTP/1.1 200 OK\r\n" + header + "\r\n\r\n" + body }
	expires := func(value string) string { return ok200(`{"access_token":"t","expires_in":` + value + `}`) }
	for name, test := range map[string]struct {
		answer  string
		expires float64 // 0 where five minutes are assumed
	}{
		"of the wrong content type":         {head("Content-Type: text/html; charset=utf-16", token), 60},
		"without content type or length":    {head("X: y", token), 60},
		"in HTTP/1.0":                       {"HTTP/1.0 200 OK\r\n\r\n" + token, 60},
		"in gzip":                           {head("Content-Encoding: gzip", zipped.String()), 60},
		"after interim answers":             {strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", 20) + ok200(token), 60},
		"with the same length twice":        {head("Content-Length: 36\r\nContent-Length: 36", token), 60},
		"in chunks, with a length, trailer": {head("Transfer-Encoding: chunked\r\nContent-Length: 3", "24;x=y\r\n"+token+"\r\n0\r\nX: y\r\n\r\n"), 60},
		"with 201":                          {answer11("201 Created", token), 60},
		"the last of two":                   {ok200(`{"access_token":"` + canary + `","access_token":"t","expires_in":1,"expires_in":60}`), 60},
		"beside a lot":                      {ok200(`{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,"\ud800":"` + "\xff" + `","access_token":"t","expires_in":60}`), 60},
		"for a string":                      {expires(`"60"`), 60},
		"for a float":                       {expires(`60.9`), 60},
		"for ever so long":                  {expires(`1e300`), 0},
		"for more than a float holds":       {expires(`1e400`), 0},
		"for null":                          {expires(`null`), 0},
		"for an object":                     {expires(`{"` + canary + `":60}`), 0},
		"for who knows how long":            {ok200(`{"access_token":"t"}`), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			v := newVillain(t, hears, says(test.answer))
			m.beset("", attack{url: v.url})
			before := snapshot(t, m.storage)
			resp, err := m.request(context.Background(), logical.ReadOperation, "token", nil)
			if err != nil || resp.IsError() {
				t.Fatal(resp, err)
			}
			assumed := test.expires == 0
			if assumed {
				test.expires = 300
			}
			if resp.Data["access_token"] != "t" || resp.Data["expires_in"] != test.expires || (len(resp.Warnings) == 1) != assumed {
				t.Errorf("token %v for %v s, warnings %v", resp.Data["access_token"], resp.Data["expires_in"], resp.Warnings)
			}
			if shown := fmt.Sprint(resp, m.log); strings.Contains(shown, canary) {
				t.Errorf("what else was said is shown: %s", shown)
			}
			m.unchanged(before)
			m.allLeft()
		})
	}
}
