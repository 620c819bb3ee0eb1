package redoxapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// canary is in servers' answers and in a proxy's password. No error may show it.
const canary = "c4n4ry"

// The assertion that most tests send. No error may show its claims or signature.
var (
	claims    = strings.Repeat("claims-", 20)
	signature = strings.Repeat("Sig_-", 60)
	assertion = "header." + claims + "." + signature
)

// hostileServer is a server that misbehaves. It does the same steps on each connection, and then
// closes the connection.
type hostileServer struct {
	address               string
	ctx                   context.Context // ends with the test
	stop                  context.CancelFunc
	connections, requests atomic.Int64
	sent                  atomic.Int64 // bytes, by flood
}

// peer is the server's end of one connection.
type peer struct {
	net.Conn // with TLS after handshake
	tcp      *net.TCPConn
	in       *bufio.Reader
	server   *hostileServer
}

// step is one thing that a hostile server does on a connection. After an error the connection is
// closed.
type step func(*peer) error

func newHostileServer(t *testing.T, steps ...step) *hostileServer {
	t.Helper()
	listener := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	s := &hostileServer{address: listener.Addr().String(), ctx: ctx, stop: stop}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			serving.Go(func() { s.serve(conn, steps) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		serving.Wait()
	})
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func (s *hostileServer) serve(conn net.Conn, steps []step) {
	defer context.AfterFunc(s.ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	p := &peer{Conn: conn, tcp: conn.(*net.TCPConn), in: bufio.NewReader(conn), server: s}
	for _, do := range steps {
		if do(p) != nil {
			return
		}
	}
}

func (s *hostileServer) http() string  { return "http://" + s.address + "/token" }
func (s *hostileServer) https() string { return "https://" + s.address + "/token" }

func readRequest(p *peer) error {
	req, err := http.ReadRequest(p.in)
	if err != nil {
		return err
	}
	p.server.requests.Add(1)
	_, err = io.Copy(io.Discard, req.Body)
	return err
}

func reply(text string) step {
	return func(p *peer) error {
		_, err := io.WriteString(p, text)
		return err
	}
}

// stall sends nothing, and reads until the client closes the connection.
func stall(p *peer) error {
	_, err := io.Copy(io.Discard, p.in)
	return err
}

// stallUnread waits without reading.
func stallUnread(p *peer) error {
	<-p.server.ctx.Done()
	return nil
}

// drip sends text again and again, one byte every 50 ms, until a write fails.
func drip(text string) step {
	return func(p *peer) error {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % len(text) {
			if err := reply(text[i : i+1])(p); err != nil {
				return err
			}
			<-tick.C
		}
	}
}

// flood sends text again and again, until 1 GiB is sent or a write fails.
func flood(text string) step {
	return func(p *peer) error {
		if err := p.tcp.SetWriteBuffer(64 << 10); err != nil { // so that sent is close to what the client accepted
			return err
		}
		chunk := bytes.Repeat([]byte(text), (64<<10)/len(text))
		for p.server.sent.Load() < 1<<30 {
			n, err := p.Write(chunk)
			p.server.sent.Add(int64(n))
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// hangUp closes the server's half of the connection, without TLS's close_notify. Then it reads
// until the client closes its half: closing with unread data would send a reset.
func hangUp(p *peer) error {
	if err := p.tcp.CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, p.tcp)
	return err
}

func reset(p *peer) error {
	if err := p.tcp.SetLinger(0); err != nil {
		return err
	}
	return p.tcp.Close()
}

// handshake does the TLS handshake, and makes p read and write through TLS.
func handshake(config *tls.Config) step {
	return func(p *peer) error {
		conn := tls.Server(p.Conn, config)
		p.Conn, p.in = conn, bufio.NewReader(conn)
		return conn.HandshakeContext(p.server.ctx)
	}
}

// jsonAnswer returns an HTTP answer with that status, such as "200 OK", and that body.
func jsonAnswer(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		status, len(body), body)
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

// impatient is the usual timeout of tests that must reach it, patient of the others. An exchange
// and its goroutines must end within grace after the timeout: a busy machine needs some time. grace
// is less than 10 s, because an abandoned TLS handshake may go on for 10 s, and the tests must
// notice that.
const (
	impatient = 300 * time.Millisecond
	patient   = 10 * time.Second
	grace     = 8 * time.Second
)

// TestMain discards the log: net/http logs data that a server sends unasked.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// withstand sends the assertion to url. s is the hostile server or proxy that it reaches, nil for
// none. withstand checks that the exchange ends within grace after its timeout, leaves no goroutine
// or connection behind, makes no second request to s, and returns no error that quotes a secret.
func withstand(t *testing.T, c *Client, s *hostileServer, url string, timeout time.Duration) (*Token, error) {
	t.Helper()
	var got *Token
	var err error
	done := make(chan struct{})
	start := time.Now()
	label := t.Name() + " to " + url
	go pprof.Do(context.Background(), pprof.Labels("exchange", label), func(ctx context.Context) {
		defer close(done)
		if !running(t, label) {
			t.Error("the profile does not show the goroutines of an exchange")
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		got, err = c.Exchange(ctx, url, assertion, "")
	})
	select {
	case <-done:
	case <-time.After(timeout + grace):
		t.Fatalf("no result after %v", time.Since(start))
	}
	for running(t, label) {
		if time.Since(start) > timeout+grace {
			t.Fatal("the exchange has ended, and a goroutine of it runs on")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if s != nil && s.requests.Load() > 1 {
		t.Errorf("%d requests were made", s.requests.Load())
	}
	if err != nil {
		checkText(t, err)
	}
	return got, err
}

// running reports whether a goroutine with that label still runs. The two goroutines that net/http
// starts for each connection have the label too.
func running(t *testing.T, label string) bool {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Error(err)
	}
	return strings.Contains(profile.String(), strconv.Quote(label))
}

// checkText checks that an error can be shown: one line of valid UTF-8, not too long,
// and without a secret.
func checkText(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	secrets := map[string]string{"the server's word": canary, "the claims": claims, "the signature": signature}
	for _, leak := range redoxtest.Leaks(map[string]string{"the error": text}, secrets) {
		t.Errorf("%s: %s", leak, text)
	}
	hidden := strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
	if len(text) > 1500 || !utf8.ValidString(text) || hidden {
		t.Errorf("the error cannot be shown: %q", text)
	}
}

// refused is used in test tables as the kind of an [*Error].
const refused Kind = -1

// checkError checks that err is an error of that kind, and that its text contains want.
func checkError(t *testing.T, err error, kind Kind, want string) {
	t.Helper()
	var no *Error
	var up *UpstreamError
	switch {
	case err == nil:
		t.Fatal("it succeeded")
	case errors.As(err, &no) && kind == refused:
	case errors.As(err, &up) && up.Kind == kind:
	default:
		t.Errorf("an error of another kind than %d: %#v", kind, err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("the error is\n  %v\nwant\n  %s", err, want)
	}
}
