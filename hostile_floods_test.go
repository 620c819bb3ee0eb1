package redox

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// few is more than the kernel takes of what the engine does not read, and less
// than net/http would by itself take of a header, 10 MiB.
const few = 8 << 20

// A server that would go on for ever is left after a MiB.
func TestServersThatFlood(t *testing.T) {
	t.Parallel()
	const large = "larger than 1 MiB: Redox may be in trouble"
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, test := range map[string]struct {
		head, flood string
		want        string
	}{
		"a body of 1 GiB":           {"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", canary, large},
		"a token of 1 GiB":          {"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{\"access_token\":\"", canary, large},
		"a body without length":     {"HTTP/1.1 200 OK\r\n\r\n", canary, large},
		"chunks":                    {chunked, "8\r\n  c4n4ry\r\n", large},
		"a chunk of 1 GiB":          {chunked + "40000000\r\n", canary, large},
		"a refusal of 1 GiB":        {"HTTP/1.1 400 Bad Request\r\n\r\n", canary, large},
		"an outage of 1 GiB":        {"HTTP/1.1 503 Service Unavailable\r\n\r\n", canary, large},
		"a redirect of 1 GiB":       {"HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\n\r\n", canary, large},
		"chunks of one byte":        {chunked, "1;" + canary + strings.Repeat("x", 4000) + "\r\n \r\n", notHTTP},
		"the size of a chunk":       {chunked, "0", notHTTP},
		"a trailer":                 {chunked + "19\r\n{\"access_token\":\"c4n4ry\"}\r\n0\r\n", "X: " + canary + "\r\n", notHTTP},
		"a status line":             {"", "H", notHTTP},
		"a header":                  {"HTTP/1.1 200 OK\r\nX: ", canary, notHTTP},
		"headers":                   {"HTTP/1.1 200 OK\r\n", "X: " + canary + "\r\n", notHTTP},
		"interim answers":           {"", "HTTP/1.1 103 Early Hints\r\n\r\n", notHTTP},
		"interim answers with more": {"", "HTTP/1.1 100 Continue\r\nX: " + canary + "\r\n\r\n", notHTTP},
		"zeros":                     {"", "\x00", notHTTP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVillain(t, hears, says(test.head), floods(test.flood))
			withstand(t, attack{by: v, url: v.url, status: 502, want: []string{test.want}})
			if sent := v.sent.Load(); sent > few {
				t.Errorf("it took %d bytes", sent)
			}
		})
	}
}

// What was compressed to a little is not unpacked to a lot.
func TestServersWithGzipBombs(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write(bytes.Repeat([]byte(" "), 4<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write([]byte(`{"access_token":"` + canary + `"}`)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	v := newVillain(t, hears, says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", bomb.Len())), says(bomb.String()))
	withstand(t, attack{by: v, url: v.url, status: 502, want: []string{"larger than 1 MiB"}})
}

// No redirect is followed: not to another host, nor to the same.
func TestServersThatRedirect(t *testing.T) {
	t.Parallel()
	other := newVillain(t, hears, says(ok200(`{"access_token":"`+canary+`"}`)))
	for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308} {
		for name, location := range map[string]string{
			"to another host": other.url, "to a host without scheme": "//" + other.host() + "/", "to itself": "/token", "to nowhere": "http://[::1", "without a place": "",
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				t.Parallel()
				v := newVillain(t, hears, says(fmt.Sprintf("HTTP/1.1 %d %s\r\nLocation: %s\r\nRefresh: 0; url=%s\r\nContent-Length: 0\r\n\r\n", status, canary, location, location)))
				want := fmt.Sprintf("HTTP %d: a redirect, which is never followed with credentials: check token_url in redox/config", status)
				if name == "to nowhere" && status > 300 && status < 304 {
					want = notHTTP // net/http reads the place before it asks whether to go there
				}
				withstand(t, attack{by: v, url: v.url, status: 502, want: []string{want}})
				if n := v.connections.Load(); n != 1 {
					t.Errorf("%d connections were made", n)
				}
			})
		}
	}
	t.Cleanup(func() {
		if n := other.connections.Load(); n != 0 {
			t.Errorf("the other host saw %d connections", n)
		}
	})
}

// What follows an answer on its connection is not taken for the next one.
func TestServersThatGoOnTalking(t *testing.T) {
	hangsUp := make(chan struct{}, 9)
	seesTheEnd := func(p *peer) error {
		_, err := io.Copy(io.Discard, p.in)
		hangsUp <- struct{}{}
		return err
	}
	for name, more := range map[string]string{
		"garbage": "\x00garbage", "another answer": ok200(`{"access_token":"smuggled"}`), "a refusal": answer11("400 Bad Request", `{"error":"smuggled"}`), "a line end": "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			v := newVillain(t, hears, says(ok200(`{"access_token":"t"}`)+more), seesTheEnd)
			m := newMount(t)
			m.beset("", attack{url: v.url})
			for n := range int64(3) {
				if got := m.read("token")["access_token"]; got != "t" {
					t.Errorf("token %v", got)
				}
				<-hangsUp
				if v.connections.Load() != n+1 {
					t.Errorf("%d connections after %d reads", v.connections.Load(), n+1)
				}
			}
			m.allLeft()
		})
	}
}

// A server that answers without having read the request is either believed or
// has broken the connection, as the reset outruns the answer or does not.
func TestServersThatAnswerTooSoon(t *testing.T) {
	t.Parallel()
	for name, ending := range map[string][]step{
		"and hang up":       {says(ok200(`{"access_token":"t"}`))},
		"and reset":         {says(ok200(`{"access_token":"t"}`)), resets},
		"and listen":        {says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 20\r\n\r\n" + `{"access_token":"t"}`), stalls},
		"heard, then reset": {hears, says(ok200(`{"access_token":"t"}`)), resets},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVillain(t, ending...)
			m := newMount(t)
			m.beset("", attack{url: v.url})
			for range 5 {
				resp, err := m.request(t.Context(), logical.ReadOperation, "token", nil)
				switch status, message := outcome(logical.ReadOperation, resp, err); {
				case status == 200 && resp.Data["access_token"] == "t":
				case status == 502 && strings.Contains(message, v.host()):
				default:
					t.Errorf("HTTP %d: %s", status, message)
				}
			}
			m.allLeft()
		})
	}
}
