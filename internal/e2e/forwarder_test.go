package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// forwarder forwards TCP connections to Vault. While it is closed, it refuses
// connections, like a host on which Vault does not run.
type forwarder struct {
	addr   string
	target string

	mu       sync.Mutex // guards the two below
	listener net.Listener
	conns    map[net.Conn]bool
}

func newForwarder(target string) (*forwarder, error) {
	f := &forwarder{addr: "127.0.0.1:0", target: target, conns: map[net.Conn]bool{}}
	return f, f.open()
}

// open listens: first on a free port, and after a close on the same port again.
func (f *forwarder) open() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", f.addr)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addr, f.listener = l.Addr().String(), l
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // it is closed
			}
			go f.forward(client)
		}
	}()
	return nil
}

// forward copies bytes in both directions until either side ends, or the forwarder
// is closed.
func (f *forwarder) forward(client net.Conn) {
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", f.target)
	if err != nil {
		_ = client.Close()
		return
	}
	ends := [2]net.Conn{client, server}
	f.mu.Lock()
	for _, end := range ends {
		f.conns[end] = true
	}
	f.mu.Unlock()
	var both sync.WaitGroup
	for i, end := range ends {
		both.Go(func() {
			_, _ = io.Copy(end, ends[1-i]) // how a connection ends does not matter
			_ = end.Close()
			_ = ends[1-i].Close()
		})
	}
	both.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, end := range ends {
		delete(f.conns, end)
	}
}

// close closes the listener and the open connections, and waits until new connections are refused.
func (f *forwarder) close() error {
	f.mu.Lock()
	err := f.listener.Close()
	for c := range f.conns {
		_ = c.Close() // it may have ended
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return until(5*time.Second, func() error {
		c, err := net.DialTimeout("tcp", f.addr, time.Second) //nolint:noctx // DialTimeout has its own limit
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err == nil {
			_ = c.Close()
		}
		return fmt.Errorf("the forwarder still accepts connections: %w", err)
	})
}
