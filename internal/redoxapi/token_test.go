package redoxapi

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ask sends an assertion to a server that answers as handler says.
func ask(t *testing.T, handler http.HandlerFunc) (*Token, error) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return newClient(t, "").Exchange(ctx, server.URL+"/token", "the.assertion", "")
}

func newClient(t *testing.T, caPEM string) *Client {
	t.Helper()
	c, err := New(Options{CAPEM: caPEM, Version: "v1.2.3", MaxConns: 4, MaxIdleConns: 4, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func body(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// What Redox is sent, to the letter.
func TestExchangeRequest(t *testing.T) {
	for scope, want := range map[string]url.Values{
		"": {
			"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {"a.b+/=.c"},
		},
		"system/*.read x": {
			"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {"a.b+/=.c"},
			"scope": {"system/*.read x"},
		},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			raw, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			form, err := url.ParseQuery(string(raw))
			if diff := cmp.Diff(want, form); diff != "" || err != nil {
				t.Errorf("form (-want +got), %v:\n%s", err, diff)
			}
			headers := map[string]string{
				"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", "User-Agent": "vault-plugin-secrets-redox/1.2.3",
			}
			for name, value := range headers {
				if r.Header.Get(name) != value {
					t.Errorf("%s: %s, want %s", name, r.Header.Get(name), value)
				}
			}
			if r.Method != http.MethodPost || r.ContentLength != int64(len(raw)) || r.Header.Get("Authorization") != "" || r.ProtoMajor != 1 {
				t.Errorf("%s, length %d, %s", r.Method, r.ContentLength, r.Proto)
			}
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"bearer","expires_in":60,"scope":"granted"}`)
		}))
		got, err := newClient(t, "").Exchange(t.Context(), server.URL, "a.b+/=.c", scope)
		server.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got.Value != "t" || got.Lifetime != time.Minute || got.Assumed || got.Scope != "granted" || !got.Skew.Known {
			t.Errorf("got %+v", got)
		}
	}
}

func TestExchangeLifetimes(t *testing.T) {
	const assumed = -1
	for expires, want := range map[string]time.Duration{
		`300`: 300 * time.Second, `"300"`: 300 * time.Second, `1`: time.Second, `299.9`: 299 * time.Second, `"1e2"`: 100 * time.Second, `86400`: 24 * time.Hour,
		`0`: 0, `0.5`: 0, `-1`: 0, `-1e300`: 0,
		`null`: assumed, `"soon"`: assumed, `""`: assumed, `true`: assumed, `[300]`: assumed, `{}`: assumed,
		`86401`: assumed, `1e300`: assumed, `"NaN"`: assumed, `"Inf"`: assumed, `"-Inf"`: assumed,
	} {
		got, err := ask(t, body(200, `{"access_token":"t","expires_in":`+expires+`}`))
		if err != nil {
			t.Errorf("expires_in %s: %v", expires, err)
			continue
		}
		guessed := want == assumed
		if guessed {
			want = 5 * time.Minute
		}
		if got.Lifetime != want || got.Assumed != guessed {
			t.Errorf("expires_in %s: %v, assumed %v", expires, got.Lifetime, got.Assumed)
		}
	}
}

const canary = "c4n4ry"

type badAnswer struct {
	answer http.HandlerFunc
	kind   Kind
	want   string
}

// Answers that are no token: each is an error of a kind, and none is quoted.
func TestExchangeBadAnswers(t *testing.T) {
	refusesAnswers(t, map[string]badAnswer{
		"no JSON":                {body(200, canary), Unusable, "not the JSON of a token"},
		"empty":                  {body(200, ""), Unusable, "not the JSON of a token"},
		"no content":             {body(204, ""), Unusable, "not the JSON of a token"},
		"array":                  {body(200, `["`+canary+`"]`), Unusable, "not the JSON of a token"},
		"null":                   {body(200, `null`), Unusable, "no usable access_token"},
		"token null":             {body(200, `{"access_token":null}`), Unusable, "no usable access_token"},
		"token empty":            {body(200, `{"access_token":""}`), Unusable, "no usable access_token"},
		"token a number":         {body(200, `{"access_token":7}`), Unusable, "no usable access_token"},
		"token an object":        {body(200, `{"access_token":{"`+canary+`":1}}`), Unusable, "no usable access_token"},
		"token with a line end":  {body(200, `{"access_token":"`+canary+`\r\nX: y"}`), Unusable, "no usable access_token"},
		"token with a blank":     {body(200, `{"access_token":"a `+canary+`"}`), Unusable, "no usable access_token"},
		"token not ASCII":        {body(200, `{"access_token":"`+canary+`é"}`), Unusable, "no usable access_token"},
		"token_type a number":    {body(200, `{"access_token":"t","token_type":7}`), Unusable, "not the JSON of a token"},
		"two values":             {body(200, `{"access_token":"t"} {"access_token":"u"}`), Unusable, "not the JSON of a token"},
		"1 MiB and a bit":        {body(200, strings.Repeat(" ", maxBody+1)), Unusable, "larger than 1 MiB"},
		"an error beyond 1 MiB":  {body(400, strings.Repeat(" ", maxBody+1)), Unusable, "larger than 1 MiB"},
		"400 in HTML":            {body(400, "<html>"+canary), NotRedox, "firewall or proxy"},
		"401 in JSON of another": {body(401, `{"message":"`+canary+`"}`), NotRedox, "firewall or proxy"},
		"404, empty":             {body(404, ""), NotRedox, "firewall or proxy"},
		"407":                    {body(407, canary), NotRedox, "firewall or proxy"},
		"429 in HTML":            {body(429, canary), RateLimited, "HTTP 429"},
		"500":                    {body(500, canary), Unavailable, "HTTP 500"},
		"599 in JSON":            {body(599, `{"error":"`+canary+`"}`), Unavailable, "HTTP 599"},
		"304":                    {body(304, ""), NotRedox, "a redirect"},
		"302 without Location":   {body(302, canary), NotRedox, "a redirect"},
		"300":                    {body(300, canary), NotRedox, "a redirect"},
	})
}

// Servers that break the protocol, or want to fill the memory.
func TestExchangeHostileServers(t *testing.T) {
	bomb := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		for range 64 {
			if _, err := z.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
		_ = z.Close()
	}
	hijack := func(raw string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, raw)
			_ = conn.Close()
		}
	}
	refusesAnswers(t, map[string]badAnswer{
		"a gzip bomb":             {bomb, Unusable, "larger than 1 MiB"},
		"not HTTP":                {hijack(canary + "\r\n\r\n"), Unreachable, "broke before there was an answer"},
		"cut in the header":       {hijack("HTTP/1.1 200 OK\r\nContent-Le"), Unreachable, "broke before there was an answer"},
		"cut in the body":         {hijack("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), Unreachable, "broke before there was an answer"},
		"a header without end":    {hijack("HTTP/1.1 200 OK\r\nX: " + strings.Repeat(canary, 20_000) + "\r\n\r\n"), Unreachable, "broke before there was an answer"},
		"interim answers, no end": {hijack(strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+canary+"\r\n\r\n", 10_000)), Unreachable, "broke before there was an answer"},
	})
}

func refusesAnswers(t *testing.T, tests map[string]badAnswer) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ask(t, test.answer)
			if got != nil {
				t.Errorf("a token came of it: %+v", got)
			}
			var up *UpstreamError
			if !errors.As(err, &up) {
				t.Fatalf("error %v of type %T", err, err)
			}
			if up.Kind != test.kind || !strings.Contains(err.Error(), test.want) {
				t.Errorf("kind %d, %q; want %d, %q", up.Kind, err, test.kind, test.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes the answer: %v", err)
			}
		})
	}
}

// A body of exactly the cap is read.
func TestExchangeLargestAnswer(t *testing.T) {
	text := `{"access_token":"t"}`
	if _, err := ask(t, body(200, text+strings.Repeat(" ", maxBody-len(text)))); err != nil {
		t.Error(err)
	}
}

func TestMeasureSkew(t *testing.T) {
	now := time.Date(2026, 11, 26, 9, 0, 0, 500_000_000, time.UTC)
	for date, want := range map[string]Skew{
		"": {}, "yesterday": {},
		"Thu, 26 Nov 2026 08:00:00 GMT": {Known: true, Ahead: time.Hour},
		"Thu, 26 Nov 2026 09:00:01 GMT": {Known: true},
		"Thu, 26 Nov 2026 09:01:00 GMT": {Known: true, Ahead: -59 * time.Second},
	} {
		if got := measureSkew(http.Header{"Date": {date}}, now); got != want {
			t.Errorf("Date %q: %+v, want %+v", date, got, want)
		}
	}
}

// Only what a reader can use of a good answer is passed on.
func TestExchangeOddAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		scope  string
		fails  string
	}{
		"bearer in any case":   {`{"access_token":"t","token_type":"bEARER","scope":"a b"}`, "a b", ""},
		"another type":         {`{"access_token":"t","token_type":"DPoP"}`, "", "not of type Bearer"},
		"a type with an end":   {`{"access_token":"t","token_type":"Bearer\r\nX: y"}`, "", "not of type Bearer"},
		"a scope with an end":  {`{"access_token":"t","scope":"a\r\nX: y"}`, "", ""},
		"a long scope":         {`{"access_token":"t","scope":"` + strings.Repeat("x", 1025) + `"}`, "", ""},
		"the longest scope":    {`{"access_token":"t","scope":"` + strings.Repeat("x", 1024) + `"}`, strings.Repeat("x", 1024), ""},
		"the longest token":    {`{"access_token":"` + strings.Repeat("x", maxToken) + `"}`, "", ""},
		"a token too long":     {`{"access_token":"` + strings.Repeat("x", maxToken+1) + `"}`, "", "no usable access_token"},
		"a scope not a string": {`{"access_token":"t","scope":["a"]}`, "", "not the JSON of a token"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ask(t, body(200, test.answer))
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if err != nil || got.Scope != test.scope {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
