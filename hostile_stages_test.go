package redox

import (
	"context"
	"errors"
	"maps"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stage is how far a villain goes before it turns hostile.
type stage struct {
	secure bool // the token URL is https
	steps  []step
}

func (s stage) url(v *villain) string {
	if s.secure {
		return v.secure()
	}
	return v.url
}

// stages are named as clients may be. The token in them has 25 bytes.
func stages() map[string]stage {
	const token = `{"access_token":"` + canary + `"}`
	plain := func(steps ...step) stage { return stage{steps: steps} }
	secure := func(steps ...step) stage { return stage{steps: steps, secure: true} }
	head := func(header string) step { return says("HTTP/1.1 200 OK\r\n" + header + "\r\n\r\n") }
	return map[string]stage{
		"at-the-accept":            plain(),
		"before-the-TLS-handshake": secure(),
		"in-the-TLS-handshake":     secure(says("\x16\x03\x03\x40\x00\x02")),
		"before-the-answer":        plain(hears),
		"in-the-status-line":       plain(hears, says("HTTP/1.1 20")),
		"before-the-headers":       plain(hears, says("HTTP/1.1 200 OK\r\n")),
		"in-a-header":              plain(hears, says("HTTP/1.1 200 OK\r\nX-"+canary+": "+canary)),
		"in-an-interim-answer":     plain(hears, says("HTTP/1.1 103 Early Hints\r\nX: "+canary)),
		"after-an-interim-answer":  plain(hears, says("HTTP/1.1 103 Early Hints\r\nX: "+canary+"\r\n\r\n")),
		"before-the-body":          plain(hears, head("Content-Length: 25")),
		"in-the-body":              plain(hears, head("Content-Length: 25"), says(token[:20])),
		"one-byte-before-the-end":  plain(hears, head("Content-Length: 26"), says(token)),
		"in-the-size-of-a-chunk":   plain(hears, head("Transfer-Encoding: chunked"), says("1")),
		"in-a-chunk":               plain(hears, head("Transfer-Encoding: chunked"), says("19\r\n"+token[:20])),
		"before-the-last-chunk":    plain(hears, head("Transfer-Encoding: chunked"), says("19\r\n"+token+"\r\n")),
		"in-the-trailer":           plain(hears, head("Transfer-Encoding: chunked"), says("19\r\n"+token+"\r\n0\r\nX: ")),
		"in-the-gzip-header":       plain(hears, head("Content-Encoding: gzip\r\nContent-Length: 99"), says("\x1f\x8b\x08\x00")),
		"in-the-body-of-an-error":  plain(hears, says("HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{\"error\":\""+canary)),
	}
}

// A server that falls silent costs a reader request_timeout and no more,
// wherever it does. All of them at once, as each takes a second.
func TestServersThatStall(t *testing.T) {
	t.Parallel()
	all := stages()
	for name, s := range all {
		all[name] = stage{s.secure, append(s.steps, stalls)}
	}
	maps.Copy(all, map[string]stage{
		"without-reading":  {false, []step{deaf}},
		"but-for-headers":  {false, []step{hears, says("HTTP/1.1 200 OK\r\n"), drips("X: y\r\n")}},
		"but-for-interims": {false, []step{hears, drips("HTTP/1.1 103 Early Hints\r\n\r\n")}},
		"but-for-a-body":   {false, []step{hears, says("HTTP/1.1 200 OK\r\n\r\n"), drips(canary)}},
		"but-for-chunks":   {false, []step{hears, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), drips("1\r\n \r\n")}},
	})
	attacks := map[string]attack{}
	for name, s := range all {
		v := newVillain(t, s.steps...)
		attacks[name] = attack{by: v, url: s.url(v), status: 504, want: []string{
			"no answer from " + v.host() + " in time", "HTTPS_PROXY", "each of 1 attempts had 1s, the share of request_timeout in redox/clients/" + name + "/config",
		}}
	}
	withstandAll(t, attacks)
}

// withstandAll reads from all villains at once, each for a client of its name.
func withstandAll(t *testing.T, attacks map[string]attack) {
	t.Helper()
	m := newMount(t)
	for name, a := range attacks {
		m.beset("clients/"+name+"/", a)
	}
	before := snapshot(t, m.storage)
	var readers sync.WaitGroup
	for name, a := range attacks {
		readers.Go(func() { m.endures("clients/"+name+"/", a) })
	}
	readers.Wait()
	m.unchanged(before)
	m.allLeft()
}

// A server that hangs up, orderly or not, is told apart from one that is slow.
func TestServersThatHangUp(t *testing.T) {
	t.Parallel()
	for name, s := range stages() {
		for how, last := range map[string]step{" cut": ends, " reset": resets} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				v := newVillain(t, append(s.steps, last)...)
				withstand(t, attack{by: v, url: s.url(v), status: 502, want: []string{
					v.host(), "proxy settings come from the environment of the Vault server (HTTPS_PROXY, NO_PROXY)",
				}})
			})
		}
	}
}

// What follows a switch of protocols is no body, and no deadline ends it.
func TestServersThatSwitchProtocols(t *testing.T) {
	t.Parallel()
	for _, then := range []step{stalls, deaf, ends, resets, floods(canary)} {
		v := newVillain(t, hears, says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+canary+"\r\n\r\n"), then)
		withstand(t, attack{by: v, url: v.url, status: 502, want: []string{"the answer is HTTP 101, which was not asked for"}})
	}
}

// A host that drops what it is sent, like a firewall: its queue of connections
// is full, and it never takes one out.
func TestServersThatDoNotAccept(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux is known to drop connections that do not fit into the queue")
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); errors.Join(controlErr, err) != nil {
		t.Fatal(controlErr, err)
	}
	address := listener.Addr().String()
	for taken := 0; ; taken++ {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		cancel()
		if err != nil {
			break // it is full
		}
		t.Cleanup(func() { _ = conn.Close() })
		if taken == 16 {
			t.Skip("the kernel goes on taking connections")
		}
	}
	want := []string{"no answer from " + address + " in time", "HTTPS_PROXY"}
	withstandAll(t, map[string]attack{
		"plain":  {url: "http://" + address, status: 504, want: want},
		"secure": {url: "https://" + address, status: 504, want: want},
	})
}

// A server that stalls takes only its share of request_timeout, and the
// attempt after it is not lost on the same connection, nor on one that was idle.
func TestStallLeavesTimeForAnotherAttempt(t *testing.T) {
	t.Parallel()
	turn := make(chan step, 4)
	turn <- says(ok200(`{"access_token":"one"}`))
	turn <- stalls
	turn <- says(ok200(`{"access_token":"two"}`))
	next := func(p *peer) error { return (<-turn)(p) }
	v := newVillain(t, hears, next, hears, next)
	m := newMount(t)
	m.ready("", map[string]any{"token_url": v.url, "request_timeout": 4, "max_retries": 1})
	for _, want := range []string{"one", "two"} {
		if got := m.read("token")["access_token"]; got != want {
			t.Errorf("token %v, want %s", got, want)
		}
	}
	if n := v.connections.Load(); n != 2 {
		t.Errorf("%d connections, want one that died and another", n)
	}
	m.allLeft()
}
