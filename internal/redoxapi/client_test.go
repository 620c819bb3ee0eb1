package redoxapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stage is how far an exchange gets before the server misbehaves.
type stage struct {
	secure bool // the client speaks TLS
	steps  []step
}

func (s stage) url(server *hostileServer) string {
	if s.secure {
		return server.https()
	}
	return server.http()
}

// stages returns stages by name. canaryJSON has 25 bytes, 19 in hexadecimal.
func stages() map[string]stage {
	plain := func(steps ...step) stage { return stage{steps: append([]step{readRequest}, steps...)} }
	header := func(header string) step { return reply("HTTP/1.1 200 OK\r\n" + header + "\r\n\r\n") }
	return map[string]stage{
		"at the accept":            {},
		"before the TLS handshake": {secure: true},
		"in the TLS handshake":     {secure: true, steps: []step{reply("\x16\x03\x03\x40\x00\x02")}},
		"before the answer":        plain(),
		"in the status line":       plain(reply("HTTP/1.1 20")),
		"before the headers":       plain(reply("HTTP/1.1 200 OK\r\n")),
		"in a header":              plain(reply("HTTP/1.1 200 OK\r\nX-" + canary + ": " + canary)),
		"in an interim answer":     plain(reply("HTTP/1.1 103 Early Hints\r\nX: " + canary)),
		"after an interim answer":  plain(reply("HTTP/1.1 103 Early Hints\r\nX: " + canary + "\r\n\r\n")),
		"before the body":          plain(header("Content-Length: 25")),
		"in the body":              plain(header("Content-Length: 25"), reply(canaryJSON[:20])),
		"one byte before the end":  plain(header("Content-Length: 26"), reply(canaryJSON)),
		"in the size of a chunk":   plain(header("Transfer-Encoding: chunked"), reply("1")),
		"in a chunk":               plain(header("Transfer-Encoding: chunked"), reply("19\r\n"+canaryJSON[:20])),
		"before the last chunk":    plain(header("Transfer-Encoding: chunked"), reply("19\r\n"+canaryJSON+"\r\n")),
		"in the trailer":           plain(header("Transfer-Encoding: chunked"), reply("19\r\n"+canaryJSON+"\r\n0\r\nX: ")),
		"in the gzip header":       plain(header("Content-Encoding: gzip\r\nContent-Length: 99"), reply("\x1f\x8b\x08\x00")),
		"in the body of an error":  plain(reply("HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{\"error\":\"x")),
	}
}

// If a server stalls at any stage, or drips its answer, the exchange times out, and leaves no
// goroutine behind.
func TestServersThatStall(t *testing.T) {
	t.Parallel()
	all := stages()
	for name, s := range all {
		all[name] = stage{s.secure, append(s.steps, stall)}
	}
	maps.Copy(all, map[string]stage{
		"without reading":    {false, []step{stallUnread}},
		"but drips headers":  {false, []step{readRequest, reply("HTTP/1.1 200 OK\r\n"), drip("X: y\r\n")}},
		"but drips interims": {false, []step{readRequest, drip("HTTP/1.1 103 Early Hints\r\n\r\n")}},
		"but drips its body": {false, []step{readRequest, reply("HTTP/1.1 200 OK\r\n\r\n"), drip(canary)}},
		"but drips in chunks": {false, []step{readRequest, reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
			drip("1\r\n \r\n")}},
	})
	for name, stage := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHostileServer(t, stage.steps...)
			_, err := withstand(t, newClient(t, ""), s, stage.url(s), impatient)
			checkError(t, err, TimedOut, "no answer from "+s.address+" in time; directly: the environment of the Vault")
		})
	}
}

// If a server closes or resets the connection, the error is Unreachable and names the server.
func TestServersThatHangUp(t *testing.T) {
	t.Parallel()
	for name, stage := range stages() {
		for how, last := range map[string]step{" cut": hangUp, " reset": reset} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				s := newHostileServer(t, append(stage.steps, last)...)
				_, err := withstand(t, newClient(t, ""), s, stage.url(s), patient)
				checkError(t, err, Unreachable, s.address)
				if !strings.Contains(err.Error(), "; directly: the environment of the Vault server names no proxy") {
					t.Error(err)
				}
			})
		}
	}
}

// An answer that switches protocols is an error. The client does not read its body: that would not
// end at the deadline.
func TestServersThatSwitchProtocols(t *testing.T) {
	t.Parallel()
	for _, then := range []step{stall, stallUnread, hangUp, reset, flood(canary)} {
		s := newHostileServer(t, readRequest,
			reply("HTTP/1.1 101 Switch\r\nConnection: Upgrade\r\nUpgrade: "+canary+"\r\n\r\n"), then)
		_, err := withstand(t, newClient(t, ""), s, s.http(), patient)
		checkError(t, err, NotRedox, "the answer is HTTP 101"+notAsked)
	}
}

// If a host drops packets, as a firewall does, the exchange times out, and Dropped is set. Here the
// kernel drops them, because the listener's queue for new connections is full.
func TestServersThatDoNotAccept(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux is known to drop connections that do not fit into the queue")
	}
	listener := listen(t)
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	controlErr := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	if errors.Join(controlErr, err) != nil {
		t.Fatal(controlErr, err)
	}
	address := listener.Addr().String()
	for accepted := 0; ; accepted++ {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		cancel()
		if err != nil {
			break // the queue is full
		}
		t.Cleanup(func() { _ = conn.Close() })
		if accepted == 16 {
			t.Skip("the kernel goes on accepting connections")
		}
	}
	for _, scheme := range []string{"http://", "https://"} {
		_, err := withstand(t, newClient(t, ""), nil, scheme+address, impatient)
		checkError(t, err, TimedOut, "no connection to "+address+" in time; directly: ")
		var up *UpstreamError
		if !errors.As(err, &up) || !up.Dropped {
			t.Errorf("%#v", err)
		}
	}
}

// A request that ends before its connection is ready frees its place in MaxConns. Once the server
// works again, the next request is answered.
func TestServersThatRecover(t *testing.T) {
	t.Parallel()
	certificate, ca := certify(t, x509.Certificate{NotAfter: time.Now().Add(time.Hour), IPAddresses: loopback})
	var well atomic.Bool
	s := newHostileServer(t, func(p *peer) error {
		if !well.Load() {
			return stallUnread(p)
		}
		return handshake(&tls.Config{Certificates: []tls.Certificate{certificate}})(p)
	}, readRequest, reply(ok(`{"access_token":"t"}`)))
	c, err := New(Options{CAPEM: ca, MaxConns: 1, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, err = withstand(t, c, s, s.https(), impatient)
	checkError(t, err, TimedOut, "in time")
	well.Store(true)
	if _, err := withstand(t, c, s, s.https(), 5*time.Second); err != nil {
		t.Error(err)
	}
}

// fewBytes is the most that a server may have sent when the client stops reading, in bytes. It
// leaves room for what the kernel buffers, and is less than the 10 MiB of headers that net/http
// reads by default.
const fewBytes = 8 << 20

// If a server sends 1 GiB, the client stops reading before the server has sent more than fewBytes.
// A body of more than 1 MiB, counted after decompression, is an error.
func TestServersThatFlood(t *testing.T) {
	t.Parallel()
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, test := range map[string]struct {
		head, flood string
		kind        Kind
		want        string
	}{
		"a body of 1 GiB": {"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", canary,
			Unusable, tooLarge},
		"a token of 1 GiB": {"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{\"access_token\":\"", canary,
			Unusable, tooLarge},
		"a body without length": {"HTTP/1.1 200 OK\r\n\r\n", canary, Unusable, tooLarge},
		"chunks":                {chunked, "8\r\n  c4n4ry\r\n", Unusable, tooLarge},
		"a chunk of 1 GiB":      {chunked + "40000000\r\n", canary, Unusable, tooLarge},
		"an error of 1 GiB":     {"HTTP/1.1 400 Bad Request\r\n\r\n", canary, Unusable, tooLarge},
		"an outage of 1 GiB":    {"HTTP/1.1 503 Service Unavailable\r\n\r\n", canary, Unusable, tooLarge},
		"a redirect of 1 GiB": {"HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\n\r\n", canary,
			Unusable, tooLarge},
		"chunks of one byte": {chunked, "1;" + canary + strings.Repeat("x", 4000) + "\r\n \r\n",
			Unreachable, notHTTP},
		"the size of a chunk": {chunked, "0", Unreachable, notHTTP},
		"a trailer": {chunked + "19\r\n" + canaryJSON + "\r\n0\r\n", "X: " + canary + "\r\n",
			Unreachable, notHTTP},
		"a status line":             {"", "H", Unreachable, notHTTP},
		"a header":                  {"HTTP/1.1 200 OK\r\nX: ", canary, Unreachable, notHTTP},
		"headers":                   {"HTTP/1.1 200 OK\r\n", "X: " + canary + "\r\n", Unreachable, notHTTP},
		"interim answers":           {"", "HTTP/1.1 103 Early Hints\r\n\r\n", Unreachable, notHTTP},
		"interim answers with more": {"", "HTTP/1.1 100 Continue\r\nX: " + canary + "\r\n\r\n", Unreachable, notHTTP},
		"zeros":                     {"", "\x00", Unreachable, notHTTP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHostileServer(t, readRequest, reply(test.head), flood(test.flood))
			_, err := withstand(t, newClient(t, ""), s, s.http(), patient)
			checkError(t, err, test.kind, test.want)
			if sent := s.sent.Load(); sent > fewBytes {
				t.Errorf("the client accepted %d bytes", sent)
			}
		})
	}
	t.Run("a gzip bomb", func(t *testing.T) {
		bomb := zip(t, strings.Repeat(" ", 4<<20)+canaryJSON)
		s := newHostileServer(t, readRequest,
			reply(withHeader(fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d", len(bomb)), bomb)))
		_, err := withstand(t, newClient(t, ""), s, s.http(), patient)
		checkError(t, err, Unusable, tooLarge)
	})
}

// No redirect is followed, neither to another host nor to the same one.
func TestServersThatRedirect(t *testing.T) {
	t.Parallel()
	other := newHostileServer(t, readRequest, reply(ok(canaryJSON)))
	t.Cleanup(func() {
		if n := other.connections.Load(); n != 0 {
			t.Errorf("the other host saw %d connections", n)
		}
	})
	for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308} {
		for name, location := range map[string]string{
			"to another host": other.http(), "to a host without scheme": "//" + other.address + "/",
			"to itself": "/token", "to nowhere": "http://[::1", "without a place": "",
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				t.Parallel()
				const answer = "HTTP/1.1 %d %s\r\nLocation: %s\r\nRefresh: 0; url=%[3]s\r\nContent-Length: 0\r\n\r\n"
				s := newHostileServer(t, readRequest, reply(fmt.Sprintf(answer, status, canary, location)))
				_, err := withstand(t, newClient(t, ""), s, s.http(), patient)
				if name == "to nowhere" && status > 300 && status < 304 {
					checkError(t, err, Unreachable, notHTTP) // net/http parses Location before it calls CheckRedirect
				} else {
					checkError(t, err, NotRedox, fmt.Sprintf("HTTP %d: a redirect, which is never followed with credentials", status))
				}
				if n := s.connections.Load(); n != 1 {
					t.Errorf("%d connections were made", n)
				}
			})
		}
	}
}

// Data that a server sends after an answer is not used as the next answer.
func TestServersThatGoOnTalking(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{
		"garbage": "\x00garbage", "another answer": ok(`{"access_token":"smuggled"}`),
		"an error": bad(`{"error":"smuggled"}`), "a line end": "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			closed := make(chan struct{}, 3)
			s := newHostileServer(t, readRequest, reply(ok(`{"access_token":"t"}`)+more), func(p *peer) error {
				defer func() { closed <- struct{}{} }()
				return stall(p)
			})
			c := newClient(t, "")
			for n := range int64(3) {
				if got, err := c.Exchange(t.Context(), s.http(), assertion, ""); err != nil || got.Value != "t" {
					t.Errorf("%+v, %v", got, err)
				}
				<-closed
				if s.connections.Load() != n+1 {
					t.Errorf("%d connections after %d requests", s.connections.Load(), n+1)
				}
			}
		})
	}
}

// If a server answers before it has read the request, or resets the connection after its answer,
// the client either uses the answer or reports a broken connection.
func TestServersThatAnswerTooSoon(t *testing.T) {
	t.Parallel()
	good := ok(`{"access_token":"t"}`)
	for name, steps := range map[string][]step{
		"and hang up":     {reply(good)},
		"and reset":       {reply(good), reset},
		"and read on":     {reply(strings.Replace(good, "\r\n", "\r\nConnection: close\r\n", 1)), stall},
		"read, and reset": {readRequest, reply(good), reset},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 5 {
				s := newHostileServer(t, steps...)
				got, err := withstand(t, newClient(t, ""), s, s.http(), patient)
				if err != nil {
					checkError(t, err, Unreachable, s.address)
				} else if got.Value != "t" {
					t.Errorf("%+v", got)
				}
			}
		})
	}
}

// If a request stalls on a connection that was idle before, the next request uses
// another connection.
func TestServersThatStallOnAnIdleConnection(t *testing.T) {
	t.Parallel()
	turn := make(chan step, 3)
	turn <- reply(ok(`{"access_token":"one"}`))
	turn <- stall
	turn <- reply(ok(`{"access_token":"two"}`))
	next := func(p *peer) error { return (<-turn)(p) }
	s := newHostileServer(t, readRequest, next, readRequest, next)
	c := newClient(t, "")
	for _, want := range []string{"one", "", "two"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		got, err := c.Exchange(ctx, s.http(), assertion, "")
		cancel()
		if want == "" {
			checkError(t, err, TimedOut, "in time")
		} else if err != nil || got.Value != want {
			t.Errorf("%+v, %v; want %s", got, err, want)
		}
	}
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections, want the one that stalled and another", n)
	}
}

// MaxConns limits the open connections, and MaxIdleConns those without a request.
func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var open, most int
	count := func(by int) (now, highest int) {
		mu.Lock()
		defer mu.Unlock()
		open += by
		most = max(most, open)
		return open, most
	}
	isOpen := func(want int) func() bool {
		return func() bool { now, _ := count(0); return now == want }
	}
	s := newHostileServer(t, func(p *peer) error {
		count(1)
		defer count(-1)
		for {
			if err := readRequest(p); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
			if err := reply(ok(`{"access_token":"t"}`))(p); err != nil {
				return err
			}
		}
	})
	c, err := New(Options{MaxConns: 3, MaxIdleConns: 1, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 9 {
		go func() {
			_, err := c.Exchange(t.Context(), s.http(), assertion, "")
			done <- err
		}()
	}
	for range 9 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	waitFor(t, "one idle connection", isOpen(1))
	if _, highest := count(0); highest != 3 {
		t.Errorf("%d connections at a time, want 3", highest)
	}
	c.CloseIdleConnections()
	waitFor(t, "no connection", isOpen(0))
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for start := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(start) > patient {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Retry-After is used only if it is a whole number of seconds. More than 65535 count as 65535.
func TestReadRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "1": time.Second, "3600": time.Hour, "soon": 0, "-5": 0, "1.5": 0, "Tue, 24 Nov 2099 09:00:00 GMT": 0,
		"86400": 65535 * time.Second, "99999999999999999999": 65535 * time.Second,
	} {
		if got := readRetryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("Retry-After %q: %v, want %v", value, got, want)
		}
	}
}

// The transport takes its proxy from the environment, and limits the time of idle connections and
// TLS handshakes.
func TestNewTransport(t *testing.T) {
	made, err := newTransport(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if reflect.ValueOf(made.Proxy).Pointer() != reflect.ValueOf(http.ProxyFromEnvironment).Pointer() {
		t.Error("proxies do not come from the environment")
	}
	if made.IdleConnTimeout != 90*time.Second || made.TLSHandshakeTimeout != 10*time.Second {
		t.Errorf("idle connections stay for %v, TLS handshakes for %v", made.IdleConnTimeout, made.TLSHandshakeTimeout)
	}
}

// A transport in the options is used.
func TestOptionsTransport(t *testing.T) {
	c, err := New(Options{Transport: transport{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Exchange(t.Context(), "https://redox.example", assertion, ""); err != nil || got.Value != "t" {
		t.Errorf("%+v, %v", got, err)
	}
}

type transport struct{}

func (transport) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"access_token":"t"}`))}, nil
}
