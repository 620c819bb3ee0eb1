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

// door is the address at which others reach Vault. While it is shut, whoever
// comes is refused at once, as by a host whose Vault has ended.
type door struct {
	addr   string
	target string

	mu       sync.Mutex // guards the two below
	listener net.Listener
	conns    map[net.Conn]bool
}

func newDoor(target string) (*door, error) {
	d := &door{addr: "127.0.0.1:0", target: target, conns: map[net.Conn]bool{}}
	return d, d.open()
}

// open listens again where it did before.
func (d *door) open() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", d.addr)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addr, d.listener = l.Addr().String(), l
	go func() {
		for {
			visitor, err := l.Accept()
			if err != nil {
				return // it is shut
			}
			go d.lead(visitor)
		}
	}()
	return nil
}

// lead carries bytes both ways until either side ends, or the door is shut.
func (d *door) lead(visitor net.Conn) {
	inner, err := new(net.Dialer).DialContext(context.Background(), "tcp", d.target)
	if err != nil {
		_ = visitor.Close()
		return
	}
	ends := [2]net.Conn{visitor, inner}
	d.mu.Lock()
	for _, end := range ends {
		d.conns[end] = true
	}
	d.mu.Unlock()
	var both sync.WaitGroup
	for i, end := range ends {
		both.Go(func() {
			_, _ = io.Copy(end, ends[1-i]) // how a connection ends is its users' affair
			_ = end.Close()
			_ = ends[1-i].Close()
		})
	}
	both.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, end := range ends {
		delete(d.conns, end)
	}
}

// shut refuses whoever comes, and breaks what there is.
func (d *door) shut() error {
	d.mu.Lock()
	err := d.listener.Close()
	for c := range d.conns {
		_ = c.Close() // it may have ended
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return until(5*time.Second, func() error {
		c, err := net.DialTimeout("tcp", d.addr, time.Second) //nolint:noctx // has a limit
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err == nil {
			_ = c.Close()
		}
		return fmt.Errorf("the door is not shut: %w", err)
	})
}
