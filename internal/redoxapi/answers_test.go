package redoxapi

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Parts of the errors that tests expect, and of answers.
const (
	noToken    = "the answer has no usable access_token"
	noJSON     = "the answer is not the JSON of a token"
	notBearer  = "the token is not of type Bearer"
	tooLarge   = "the answer is larger than 1 MiB"
	repeats    = "the answer repeats the client assertion"
	firewall   = "not the JSON of Redox (a firewall or proxy may have answered)"
	notHTTP    = "broke before there was an answer; "
	notAsked   = ", which was not asked for"
	bareError  = `(HTTP 400, error "e", error_description "")`
	docs       = "https://docs.redoxengine.com/"
	permalink  = docs + "permalink/7sEi7MTFssZ1JuHpUYLeYJ" // longer than 40 characters
	canaryJSON = `{"access_token":"` + canary + `"}`
)

// words is longer than any part of an answer that an error may quote.
var words = strings.Repeat("no ", 100_000)

func ok(body string) string { return jsonAnswer("200 OK", body) }

func bad(body string) string { return jsonAnswer("400 Bad Request", body) }

// withHeader returns a 200 answer with these header lines and no others.
func withHeader(header, body string) string {
	return "HTTP/1.1 200 OK\r\n" + header + "\r\n\r\n" + body
}

// errorURI returns a 400 answer whose error_uri is link.
func errorURI(link string) string { return bad(`{"error":"e","error_uri":"` + link + `"}`) }

func zip(t *testing.T, text string) string {
	t.Helper()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(text)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	return zipped.String()
}

var deep = strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)

// badAnswers are answers to a token request that the client must not accept. kind and want are the
// kind of the error and a part of its text.
var badAnswers = map[string]struct {
	answer string
	kind   Kind
	want   string
}{
	// 2xx answers that are not accepted. Answers of any status that are too large or repeat the
	// assertion.
	"HTML": {ok("<html>" + canary),
		Unusable, "the token endpoint answered HTTP 200: " + noJSON + " (a firewall or proxy may have answered)"},
	"text":                        {ok(canary), Unusable, noJSON + " (a firewall or proxy may have answered)"},
	"no content":                  {"HTTP/1.1 204 No Content\r\n\r\n", Unusable, noJSON},
	"an array":                    {ok(`["` + canary + `"]`), Unusable, noJSON},
	"null":                        {ok(`null`), Unusable, noToken},
	"two JSON values":             {ok(canaryJSON + canaryJSON), Unusable, noJSON},
	"deep nesting beside a token": {ok(`{"access_token":"` + canary + `","x":` + deep + `}`), Unusable, noJSON},
	"a token that is empty":       {ok(`{"access_token":""}`), Unusable, noToken},
	"a token that is an object":   {ok(`{"access_token":{"` + canary + `":1}}`), Unusable, noToken},
	"a token, then none":          {ok(`{"access_token":"` + canary + `","access_token":null}`), Unusable, noToken},
	"a token with a blank":        {ok(`{"access_token":"a ` + canary + `"}`), Unusable, noToken},
	"a token with a DEL":          {ok(`{"access_token":"a\u007f` + canary + `"}`), Unusable, noToken},
	"a token that is not ASCII":   {ok(`{"access_token":"` + canary + `é"}`), Unusable, noToken},
	"a token in invalid UTF-8":    {ok("{\"access_token\":\"" + canary + "\xff\"}"), Unusable, noToken},
	"a token with an escaped LF":  {ok(`{"access_token":"` + canary + `\r\nX: y"}`), Unusable, noToken},
	"a token with a bare LF":      {ok("{\"access_token\":\"" + canary + "\n\"}"), Unusable, noJSON},
	"a token of 16 KiB and a byte": {ok(`{"access_token":"` + strings.Repeat("x", maxToken+1) + `"}`),
		Unusable, noToken},
	"a token_type that is a number":  {ok(`{"access_token":"t","token_type":7}`), Unusable, noJSON},
	"a token_type of another kind":   {ok(`{"access_token":"t","token_type":"DPoP"}`), Unusable, notBearer},
	"a token_type with an LF":        {ok(`{"access_token":"t","token_type":"Bearer\r\nX: y"}`), Unusable, notBearer},
	"a token beside an error object": {ok(`{"access_token":"t","error":{"code":1}}`), NotRedox, firewall},
	"1 MiB and a byte":               {ok(strings.Repeat(" ", maxBody+1)), Unusable, tooLarge},
	"400 with 1 MiB and a byte":      {bad(strings.Repeat(" ", maxBody+1)), Unusable, tooLarge},
	"the assertion as the token":     {ok(`{"access_token":"` + assertion + `"}`), Unusable, repeats},
	"the assertion as the scope":     {ok(`{"access_token":"t","scope":"` + assertion + `"}`), Unusable, repeats},
	"its signature as the type":      {ok(`{"access_token":"t","token_type":"` + signature + `"}`), Unusable, repeats},
	"its claims beside a token":      {ok(`{"access_token":"t","` + claims + `":1}`), Unusable, repeats},
	"the assertion with status 299":  {jsonAnswer("299 X", assertion), Unusable, repeats},
	"the assertion with status 300":  {jsonAnswer("300 X", assertion), NotRedox, "HTTP 300: a redirect"},
	"the assertion in HTML with 403": {jsonAnswer("403 Forbidden", assertion), NotRedox, firewall},

	// Statuses other than 2xx, mostly without an error response.
	"400 in HTML":                  {bad("<html>" + canary), NotRedox, "HTTP 400: " + firewall},
	"400 with deep nesting":        {bad(deep), NotRedox, firewall},
	"400 whose error is an object": {bad(`{"error":{"` + canary + `":1}}`), NotRedox, firewall},
	"401 in the JSON of another": {jsonAnswer("401 X", `{"message":"`+canary+`"}`),
		NotRedox, "HTTP 401: " + firewall},
	"404 with nothing":           {jsonAnswer("404 X", ""), NotRedox, "HTTP 404: " + firewall},
	"407":                        {jsonAnswer("407 "+canary, canary), NotRedox, "HTTP 407: " + firewall},
	"428 with an error response": {jsonAnswer("428 X", `{"error":"e"}`), refused, "HTTP 428"},
	"429": {jsonAnswer("429 X", "<html>"+canary),
		RateLimited, "the token endpoint answered HTTP 429"},
	"429 with an error response": {jsonAnswer("429 X", `{"error":"e"}`), RateLimited, "HTTP 429"},
	"429 and a time": {"HTTP/1.1 429 X\r\nRetry-After: 90\r\n\r\n",
		RateLimited, "answered HTTP 429, and asks to wait 1m30s"},
	"499 with an error response": {jsonAnswer("499 X", `{"error":"e"}`), refused, "HTTP 499"},
	"500": {jsonAnswer("500 "+assertion, canary+assertion),
		Unavailable, "the token endpoint answered HTTP 500"},
	"503 and a time": {"HTTP/1.1 503 X\r\nRetry-After: 1\r\n\r\n",
		Unavailable, "HTTP 503, and asks to wait 1s"},
	"599 with an error response": {jsonAnswer("599 X", `{"error":"`+canary+`"}`), Unavailable, "HTTP 599"},
	"999":                        {jsonAnswer("999 "+canary, "{}"), Unavailable, "HTTP 999"},
	"099":                        {jsonAnswer("099 Low", canaryJSON), NotRedox, "the answer is HTTP 99" + notAsked},

	// Error responses. Their text is quoted on one line, cut if it is long, and without anything that
	// may be a credential.
	"an error as documented": {bad(
		`{"error":"invalid_request","error_description":"No assertion","error_uri":"` + permalink + `"}`),
		refused, `Redox refused the token request (HTTP 400, error "invalid_request", error_description "No assertion", ` +
			"error_uri " + permalink + ")"},
	"an error and no more": {jsonAnswer("401 X", `{"error":"e"}`),
		refused, `(HTTP 401, error "e", error_description "")`},
	"an error with 200": {ok(`{"access_token":"` + canary + `","error":"e"}`),
		refused, `(HTTP 200, error "e", error_description "")`},
	"an error without end": {bad(`{"error":"` + words + `","error_description":"` + words + `"}`),
		refused, `error "` + words[:64] + `…", error_description "` + words[:300] + `…"`},
	"an error of many lines": {bad(`{"error":"a\nb","error_description":"` +
		` x\r\ny\u2028\u0085\u202ez\u0000\u007fz\u2029 "}`), refused, `error "a b", error_description "x  y   z  z")`},
	"an error in invalid UTF-8": {bad("{\"error\":\"a\xff\",\"error_description\":\"b\xfe\xff\\u0007\"}"),
		refused, "error \"a\ufffd\", error_description \"b\ufffd\ufffd\")"},
	"a token in the description": {bad(`{"error":"e","error_description":` +
		`"x eyJhbGciOiJSUzM4NCJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl y"}`),
		refused, `error_description "x [removed] y")`},
	"a UUID in the description": {bad(`{"error":"e","error_description":"x e3b0c442-98fc-4c14-9afb-f4c8996fb924"}`),
		refused, `"x e3b0c442-98fc-4c14-9afb-f4c8996fb924")`},
	"links in the description": {bad(`{"error":"e","error_description":"` + permalink +
		` https://evil.example/permalink/7sEi7MTFssZ1JuHpUYLeYJ"}`),
		refused, `"` + permalink + ` https:[removed]")`},
	"the assertion as the error": {bad(`{"error":"` + assertion + `"}`),
		refused, `error "header.[removed].[removed]"`},
	"the assertion in description": {bad(`{"error":"e","error_description":"` + assertion + ` is bad"}`),
		refused, `"header.[removed].[removed] is bad"`},
	"its signature in a link": {errorURI(docs + signature),
		refused, `error_description "", error_uri ` + docs + "[removed])"},
	"a link to Redox": {errorURI("https://redoxengine.com/x"),
		refused, "error_uri https://redoxengine.com/x)"},
	"a link elsewhere": {errorURI("https://evil.example/" + canary), refused, bareError},
	"a link with a token as host": {errorURI("https://" + strings.Repeat(canary, 7) + ".redoxengine.com/"),
		refused, bareError},
	"a link to a name like Redox": {errorURI("https://evilredoxengine.com/"), refused, bareError},
	"a link with a query":         {errorURI(docs + "?t=" + canary), refused, bareError},
	"a link with a fragment":      {errorURI(docs + "#" + canary), refused, bareError},
	"a link with a user":          {errorURI("https://u:" + canary + "@docs.redoxengine.com/"), refused, bareError},
	"a link without TLS":          {errorURI("http://docs.redoxengine.com/"), refused, bareError},
	"a link with a token":         {errorURI(docs + strings.Repeat("x", 40)), refused, bareError},
	"a link of 200 characters":    {errorURI(docs + strings.Repeat("x/", 85) + "x"), refused, "x/x)"},
	"a link of 201 characters":    {errorURI(docs + strings.Repeat("x/", 86)), refused, bareError},
	"a link that is damaged":      {errorURI(docs + "%zz"), refused, bareError},

	// Broken HTTP, or another protocol.
	"two lengths": {withHeader("Content-Length: 25\r\nContent-Length: 26", canaryJSON+" "),
		Unreachable, notHTTP},
	"a list of lengths": {withHeader("Content-Length: 25, 26", canaryJSON+" "), Unreachable, notHTTP},
	"a negative length": {withHeader("Content-Length: -25", canaryJSON), Unreachable, notHTTP},
	"a length beyond 64 bits": {withHeader("Content-Length: 99999999999999999999", canaryJSON),
		Unreachable, notHTTP},
	"a length that is too long":  {withHeader("Content-Length: 26", canaryJSON), Unreachable, notHTTP},
	"a length that is too short": {withHeader("Content-Length: 24", canaryJSON), Unusable, noJSON},
	"the assertion for a length": {withHeader("Content-Length: "+assertion, ""), Unreachable, notHTTP},
	"a bad chunk": {withHeader("Transfer-Encoding: chunked", assertion+"\r\n"+canaryJSON+"\r\n0\r\n\r\n"),
		Unreachable, notHTTP},
	"a chunk beyond 64 bits": {withHeader("Transfer-Encoding: chunked", "fffffffffffffffff\r\n"+canaryJSON),
		Unreachable, notHTTP},
	"a chunk that is too long": {withHeader("Transfer-Encoding: chunked", "18\r\n"+canaryJSON+"\r\n0\r\n\r\n"),
		Unreachable, notHTTP},
	"an unknown encoding":      {withHeader("Transfer-Encoding: "+canary, canaryJSON), Unreachable, notHTTP},
	"gzip that is none":        {withHeader("Content-Encoding: gzip", canaryJSON), Unreachable, notHTTP},
	"a header without a colon": {withHeader(canary, canaryJSON), Unreachable, notHTTP},
	"a header with a NUL":      {withHeader("X: \x00"+canary, canaryJSON), Unreachable, notHTTP},
	"a header that is cut":     {"HTTP/1.1 200 OK\r\nX: " + assertion, Unreachable, notHTTP},
	"the settings of HTTP/2": {"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
		Unreachable, notHTTP},
	"HTTP/0.9":                {canaryJSON, Unreachable, notHTTP},
	"HTTP/x":                  {"HTTP/x 200 OK\r\n\r\n" + canaryJSON, Unreachable, notHTTP},
	"a status of four digits": {"HTTP/1.1 2000 OK\r\n\r\n" + canaryJSON, Unreachable, notHTTP},
	"the words of SSH":        {"SSH-2.0-" + canary + "\r\n", Unreachable, notHTTP},
	"the assertion":           {assertion, Unreachable, notHTTP},
}

// Each bad answer gives an error of the expected kind, and no secret is in its text.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range badAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHostileServer(t, readRequest, reply(test.answer))
			got, err := withstand(t, newClient(t, ""), s, s.http(), patient)
			if got != nil {
				t.Errorf("a token came of it: %+v", got)
			}
			checkError(t, err, test.kind, test.want)
		})
	}
}

// Each of these answers gives a token. A scope that cannot be used is left out. If expires_in
// cannot be used, five minutes are assumed.
func TestGoodAnswers(t *testing.T) {
	t.Parallel()
	const minute = `{"access_token":"t","expires_in":60}`
	longest := strings.Repeat("x", maxToken)
	of := func(d time.Duration) Token { return Token{Value: "t", Lifetime: d} }
	assumed := Token{Value: "t", Lifetime: 5 * time.Minute, Assumed: true}
	scoped := func(scope string) string { return ok(`{"access_token":"t","expires_in":60,"scope":"` + scope + `"}`) }
	type row struct {
		answer string
		want   Token
	}
	tests := map[string]row{
		"of the wrong content type":      {withHeader("Content-Type: text/html; charset=utf-16", minute), of(time.Minute)},
		"without content type or length": {withHeader("X: y", minute), of(time.Minute)},
		"in HTTP/1.0":                    {"HTTP/1.0 200 OK\r\n\r\n" + minute, of(time.Minute)},
		"in gzip":                        {withHeader("Content-Encoding: gzip", zip(t, minute)), of(time.Minute)},
		"after interim answers": {strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", 20) + ok(minute),
			of(time.Minute)},
		"with the same length twice": {withHeader("Content-Length: 36\r\nContent-Length: 36", minute),
			of(time.Minute)},
		"in chunks, with a length, trailer": {withHeader("Transfer-Encoding: chunked\r\nContent-Length: 3",
			"24;x=y\r\n"+minute+"\r\n0\r\nX: y\r\n\r\n"), of(time.Minute)},
		"with 201": {jsonAnswer("201 Created", minute), of(time.Minute)},
		"of 1 MiB": {ok(minute + strings.Repeat(" ", maxBody-len(minute))), of(time.Minute)},
		"of 16 KiB": {ok(`{"access_token":"` + longest + `"}`),
			Token{Value: longest, Lifetime: 5 * time.Minute, Assumed: true}},
		"of the first and last of ASCII": {ok(`{"access_token":"!~"}`),
			Token{Value: "!~", Lifetime: 5 * time.Minute, Assumed: true}},
		"the last of two": {ok(`{"access_token":"` + canary +
			`","access_token":"t","expires_in":1,"expires_in":60}`), of(time.Minute)},
		"beside a lot": {ok(`{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) +
			`,"\ud800":"` + "\xff" + `","access_token":"t","expires_in":60}`), of(time.Minute)},
		"of type bearer in any case": {ok(`{"access_token":"t","token_type":"bEARER","expires_in":60}`),
			of(time.Minute)},
		"with scopes": {scoped("a b"), Token{Value: "t", Lifetime: time.Minute, Scope: "a b"}},
		"with a scope of 1024 bytes": {scoped(longest[:1024]),
			Token{Value: "t", Lifetime: time.Minute, Scope: longest[:1024]}},
		"with a scope of 1025 bytes": {scoped(longest[:1025]), of(time.Minute)},
		"with a scope with an LF":    {scoped(`a\r\nX: y`), of(time.Minute)},
		"without expires_in":         {ok(`{"access_token":"t"}`), assumed},
		"after a byte order mark":    {ok("\xef\xbb\xbf" + minute), of(time.Minute)},
		"with a list of scopes": {ok(`{"access_token":"t","expires_in":60,"scope":["a","b"]}`),
			Token{Value: "t", Lifetime: time.Minute, Scope: "a b"}},
		"with a list that is no scope":  {ok(`{"access_token":"t","expires_in":60,"scope":["a\n",7]}`), of(time.Minute)},
		"with an error that is false":   {ok(`{"access_token":"t","expires_in":60,"error":false}`), of(time.Minute)},
		"with an error that is null":    {ok(`{"access_token":"t","expires_in":60,"error":null}`), of(time.Minute)},
		"with an error that is nothing": {ok(`{"access_token":"t","expires_in":60,"error":""}`), of(time.Minute)},
	}
	for seconds, want := range map[string]time.Duration{
		`300`: 300, `"300"`: 300, `1`: 1, `299.9`: 299, `"1e2"`: 100, `86400`: 86400, `0`: 0, `0.5`: 0, `-1`: 0, `-1e300`: 0,
	} {
		tests["with expires_in "+seconds] = row{ok(`{"access_token":"t","expires_in":` + seconds + `}`),
			of(want * time.Second)}
	}
	for _, seconds := range []string{`null`, `"soon"`, `""`, `true`, `[300]`, `{"` + canary + `":60}`, `86401`, `1e300`,
		`1e400`, `"NaN"`, `"Inf"`, `"-Inf"`} {
		tests["with expires_in "+seconds] = row{ok(`{"access_token":"t","expires_in":` + seconds + `}`), assumed}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHostileServer(t, readRequest, reply(test.answer))
			got, err := withstand(t, newClient(t, ""), s, s.http(), patient)
			if diff := cmp.Diff(&test.want, got); err != nil || diff != "" {
				t.Errorf("%v, (-want +got):\n%s", err, diff)
			}
		})
	}
}
