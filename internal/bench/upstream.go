package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// upstream is a stub of the token endpoint. It checks nothing, so it uses little processor
// time.
type upstream struct {
	url    string
	host   string // of url, with its port; /stall never answers there, /refuse refuses
	server *http.Server
	delay  atomic.Int64 // a time.Duration
	conns  atomic.Int64 // opened so far
	closed atomic.Int64 // of them
}

func newUpstream() (*upstream, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{url: "http://" + l.Addr().String() + "/v2/auth/token", host: l.Addr().String()}
	answer := []byte(`{"access_token":"bench-3f6c1c0a7e5d4b7f9a1c","token_type":"Bearer","expires_in":300}`)
	u.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				u.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				u.closed.Add(1)
			case http.StateActive, http.StateIdle:
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the request is not checked
			switch r.URL.Path {
			case "/stall":
				<-r.Context().Done()
				return
			case "/refuse":
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"error":"invalid_request"}`) // the client may have closed the connection
				return
			}
			if d := time.Duration(u.delay.Load()); d > 0 {
				time.Sleep(d)
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(answer) // likewise
		}),
	}
	go func() { _ = u.server.Serve(l) }() // until it is closed
	return u, nil
}

func (u *upstream) close() { _ = u.server.Close() } // nothing can be lost
