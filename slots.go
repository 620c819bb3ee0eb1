package redox

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// A request to Redox holds Vault's locks while it waits, so the number in flight is
// bounded, per client and in the mount. Proofs and checks have slots of their own, as
// they are needed most when all others are taken.
const (
	maxReads          = 64
	maxReadsInMount   = 256
	maxProofs         = 2
	maxProofsInMount  = 16
	slotWait          = time.Second // how long a request waits when all slots are taken
	maxRequestsToHost = maxReads + maxProofsInMount
)

// slots bounds the work of one kind that is under way, per client and in the mount.
// A client's slots belong to its name: they are counted until they are released,
// whatever becomes of its config, keys and connection.
type slots struct {
	kind      string // for messages
	perClient int
	mount     chan struct{}
	wait      time.Duration // how long a request waits when all are taken
	queue     bool          // a request waits for the mount's slot until its ctx ends

	mu      sync.Mutex // guards clients; nothing waits under it
	clients map[string]*clientSlots
}

// clientSlots are the slots of one client. They exist while somebody has one or waits
// for one.
type clientSlots struct {
	taken chan struct{}
	users int
}

func newReadSlots() *slots {
	return newSlots("reads of token", maxReads, maxReadsInMount, slotWait)
}

func newProofSlots() *slots {
	return newSlots("proofs and checks", maxProofs, maxProofsInMount, slotWait)
}

// newGenerateSlots lets one key be generated at a time in the mount, as that keeps a
// processor busy. The clients take turns: each has at most one request here, which
// waits until its turn, and a further request fails at once.
func newGenerateSlots() *slots {
	s := newSlots("key generations", 1, 1, 0)
	s.queue = true
	return s
}

// newSignSlots lets as many assertions be signed at a time as there are processors, so
// that other work gets a processor soon. The clients take turns: one that signs without
// end delays another by a signature or two. A request may wait here while it holds other
// slots, because each signature ends soon.
func newSignSlots() *slots {
	n := runtime.GOMAXPROCS(0)
	return newSlots("signatures", n, n, 0)
}

func newSlots(kind string, perClient, inMount int, wait time.Duration) *slots {
	return &slots{
		kind: kind, perClient: perClient, mount: make(chan struct{}, inMount), wait: wait,
		clients: map[string]*clientSlots{},
	}
}

// acquire takes a slot of the client, then one of the mount; release gives both back.
// While all are taken, a worker waits until ctx ends, and a request for s.wait; with
// s.queue, a request waits for the mount's slot until ctx ends. The error is a
// [*redoxapi.UpstreamError] of the kind Overloaded.
func (s *slots) acquire(ctx context.Context, client string, worker bool) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, gaveUpWaiting()
	}
	forOwn, forMount := ctx, ctx
	if !worker {
		limited, cancel := context.WithTimeout(ctx, s.wait)
		defer cancel()
		if forOwn = limited; !s.queue {
			forMount = limited
		}
	}
	own := s.join(client)
	if !take(forOwn, own.taken) {
		s.leave(client)
		return nil, s.full(ctx, "this client", s.perClient)
	}
	if !take(forMount, s.mount) {
		<-own.taken
		s.leave(client)
		return nil, s.full(ctx, "the mount", cap(s.mount))
	}
	return func() {
		<-s.mount
		<-own.taken
		s.leave(client)
	}, nil
}

// take takes a slot. It waits for one until ctx ends, and takes a free one even if ctx
// has ended. It reports whether it took one.
func take(ctx context.Context, slot chan struct{}) bool {
	select {
	case slot <- struct{}{}:
		return true
	default:
	}
	select {
	case slot <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *slots) full(ctx context.Context, whose string, n int) error {
	if ctx.Err() != nil {
		return gaveUpWaiting()
	}
	return &redoxapi.UpstreamError{
		Kind: redoxapi.Overloaded,
		What: fmt.Sprintf("too many %s at once: %s has %d under way: try again", s.kind, whose, n),
	}
}

func gaveUpWaiting() error {
	return &redoxapi.UpstreamError{
		Kind: redoxapi.Overloaded,
		What: "the request was given up while it waited for its turn: too many requests at once: try again",
	}
}

func (s *slots) join(client string) *clientSlots {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.clients[client]
	if own == nil {
		own = &clientSlots{taken: make(chan struct{}, s.perClient)}
		s.clients[client] = own
	}
	own.users++
	return own
}

func (s *slots) leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own := s.clients[client]; own.users > 1 {
		own.users--
		return
	}
	delete(s.clients, client)
}

// all returns how many slots of each client are taken.
func (s *slots) all() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := make(map[string]int, len(s.clients))
	for client, own := range s.clients {
		n[client] = len(own.taken)
	}
	return n
}
