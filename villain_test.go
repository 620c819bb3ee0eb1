package redox

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// villain is a hostile token endpoint. It does the same steps on each
// connection, then closes it, so that whatever outlives a read is the engine's.
type villain struct {
	url                   string
	over                  context.Context // done when the test is
	end                   context.CancelFunc
	connections, requests atomic.Int64
	sent                  atomic.Int64 // bytes
	assertion             atomic.Value // of the last request
}

// peer is one connection to a villain.
type peer struct {
	net.Conn // what it says, in TLS after encrypts
	raw      *net.TCPConn
	in       *bufio.Reader
	v        *villain
}

// step is a part of what a villain does. An error ends the connection.
type step func(*peer) error

func newVillain(t *testing.T, steps ...step) *villain {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over, end := context.WithCancel(context.Background())
	v := &villain{url: "http://" + listener.Addr().String() + "/token", over: over, end: end}
	v.assertion.Store("")
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			v.connections.Add(1)
			busy.Go(func() { v.serve(conn, steps) })
		}
	})
	t.Cleanup(func() {
		end()
		_ = listener.Close()
		busy.Wait()
	})
	return v
}

func (v *villain) serve(conn net.Conn, steps []step) {
	defer context.AfterFunc(v.over, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	p := &peer{Conn: conn, raw: conn.(*net.TCPConn), in: bufio.NewReader(conn), v: v}
	for _, do := range steps {
		if do(p) != nil {
			return
		}
	}
}

// secure is the villain's URL with https, whether it speaks TLS or not.
func (v *villain) secure() string { return strings.Replace(v.url, "http:", "https:", 1) }

func (v *villain) host() string {
	return strings.TrimSuffix(strings.TrimPrefix(v.url, "http://"), "/token")
}

// secrets are the parts of the assertion that the villain was sent.
func (v *villain) secrets() map[string]string {
	_, signed, _ := strings.Cut(v.assertion.Load().(string), ".")
	claims, signature, _ := strings.Cut(signed, ".")
	return map[string]string{"an assertion's claims": claims, "an assertion's signature": signature}
}

func hears(p *peer) error {
	req, err := http.ReadRequest(p.in)
	if err != nil {
		return err
	}
	p.v.requests.Add(1)
	p.v.assertion.Store(req.PostFormValue("client_assertion"))
	return nil
}

func says(text string) step {
	return func(p *peer) error {
		_, err := io.WriteString(p, text)
		return err
	}
}

// echoes says text with the assertion in place of each %s.
func echoes(text string) step {
	return func(p *peer) error {
		return says(strings.ReplaceAll(text, "%s", p.v.assertion.Load().(string)))(p)
	}
}

// stalls waits until the client hangs up.
func stalls(p *peer) error {
	_, err := io.Copy(io.Discard, p.in)
	return err
}

// deaf waits without reading.
func deaf(p *peer) error {
	<-p.v.over.Done()
	return nil
}

// drips says a byte every 100 ms, for ever.
func drips(text string) step {
	return func(p *peer) error {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % len(text) {
			if err := says(text[i : i+1])(p); err != nil {
				return err
			}
			<-tick.C
		}
	}
}

// floods says 1 GiB of text, or what of it the client takes.
func floods(text string) step {
	return func(p *peer) error {
		if err := p.raw.SetWriteBuffer(64 << 10); err != nil { // so that what it sent is what was taken
			return err
		}
		chunk := bytes.Repeat([]byte(text), (64<<10)/len(text))
		for p.v.sent.Load() < 1<<30 {
			n, err := p.Write(chunk)
			p.v.sent.Add(int64(n))
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// ends says that nothing follows, without a word of TLS. The villain reads on,
// as unread data would make a reset of it.
func ends(p *peer) error {
	if err := p.raw.CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, p.raw)
	return err
}

func resets(p *peer) error {
	if err := p.raw.SetLinger(0); err != nil {
		return err
	}
	return p.raw.Close()
}

// encrypts speaks TLS in the steps that follow.
func encrypts(config *tls.Config) step {
	return func(p *peer) error {
		conn := tls.Server(p.Conn, config)
		p.Conn, p.in = conn, bufio.NewReader(conn)
		return conn.HandshakeContext(p.v.over)
	}
}

// ok200 is the answer with this JSON.
func ok200(text string) string { return answer11("200 OK", text) }

func answer11(status, text string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(text), text)
}
