package e2e

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"
)

// listenerCmd controls a server on this machine to which nobody may connect:
//
//	listener start      starts it; LISTENER is its host and port
//	listener untouched  fails if somebody has connected
func listenerCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	switch args[0] {
	case "start":
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Defer(func() { _ = l.Close() })
		ts.Setenv("LISTENER", l.Addr().String())
		w.connected = new(atomic.Int64)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				w.connected.Add(1)
				_ = conn.Close()
			}
		}()
	case "untouched":
		if n := w.connected.Load(); n > 0 {
			ts.Fatalf("%d connections to a host that is not allowed", n)
		}
	default:
		ts.Fatalf("listener has no command %s", args[0])
	}
}
