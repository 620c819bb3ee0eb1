// Package schedule runs the work of many clients. Each client has a worker of its
// own, because it may have to wait for its own server. One more goroutine keeps the
// list of clients up to date. The package does not know what a step does, nor
// anything about storage or keys.
package schedule

import (
	"context"
	"sync"
	"time"
)

// LookAgain is the longest time between two reads of the list of clients, and between
// two steps of a client. It is needed after an error, and because somebody may set
// the clock.
const LookAgain = time.Minute

// Work holds the functions that the schedule calls. They log their own errors and
// recover from their own panics.
type Work struct {
	// List returns the names of all clients.
	List func(ctx context.Context) ([]string, error)

	// Step does one step for a client. next is when the following step is due, zero
	// if none is planned.
	Step func(ctx context.Context, client string) (next time.Time, err error)
}

// Schedule runs the steps of each client one after the other, and different clients
// at the same time. A step must store its result before it returns: then the schedule
// can be stopped at any point.
type Schedule struct {
	now func() time.Time

	running sync.Mutex // held to start or stop; guards the two below
	cancel  context.CancelFunc
	done    chan struct{} // closed when all goroutines have ended

	mu      sync.Mutex // guards workers; no function waits while it holds mu
	list    wake       // wakes the goroutine that lists the clients
	workers map[string]*worker
}

type worker struct {
	wake wake
	stop context.CancelFunc
}

// wake is a channel that ends a wait early. It holds one signal at most.
type wake chan struct{}

func newWake() wake { return make(wake, 1) }

func (w wake) send() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// wait returns after d, after a signal, or when ctx ends.
func (w wake) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-w:
	}
}

// New returns a schedule that is not started. now is the clock for the times that
// Step returns.
func New(now func() time.Time) *Schedule {
	return &Schedule{now: now, list: newWake(), workers: map[string]*worker{}}
}

// Wake makes the next step of a client run at once. If the client has no worker yet,
// Wake makes the list of clients be read at once.
func (s *Schedule) Wake(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.workers[client]; w != nil {
		w.wake.send()
		return
	}
	s.list.send()
}

// Relist makes the list of clients be read at once, because a client was deleted.
func (s *Schedule) Relist() { s.list.send() }

// Workers returns how many clients have a worker.
func (s *Schedule) Workers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.workers)
}

// Start starts the work. It does nothing if the work runs already.
func (s *Schedule) Start(work Work) {
	s.running.Lock()
	defer s.running.Unlock()
	if s.done != nil {
		select {
		case <-s.done:
		default:
			return
		}
	}
	// Do not use a request's context: the work goes on when that request ends.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.cancel, s.done = cancel, done
	go func() {
		defer close(done)
		s.run(ctx, work)
	}()
}

// Stop ends the work and waits until it has ended.
func (s *Schedule) Stop() {
	s.running.Lock()
	defer s.running.Unlock()
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
}

// run keeps one worker running for each client.
func (s *Schedule) run(ctx context.Context, work Work) {
	var all sync.WaitGroup
	defer all.Wait()
	defer s.keep(nil, nil)
	for ctx.Err() == nil {
		if clients, err := work.List(ctx); err == nil {
			s.keep(clients, func(client string) *worker {
				own, stop := context.WithCancel(ctx)
				w := &worker{wake: newWake(), stop: stop}
				all.Go(func() { s.runClient(own, client, w.wake, work) })
				return w
			})
		}
		s.list.wait(ctx, LookAgain)
	}
}

// keep starts a worker for each client that has none, and stops the workers of
// clients that are not in the list.
func (s *Schedule) keep(clients []string, begin func(client string) *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[string]bool{}
	for _, client := range clients {
		there[client] = true
		if s.workers[client] == nil {
			s.workers[client] = begin(client)
		}
	}
	for client, w := range s.workers {
		if !there[client] {
			w.stop()
			delete(s.workers, client)
		}
	}
}

// runClient runs the steps of one client until ctx ends.
func (s *Schedule) runClient(ctx context.Context, client string, wake wake, work Work) {
	for ctx.Err() == nil {
		wait := LookAgain
		next, err := work.Step(ctx, client)
		if err == nil && !next.IsZero() {
			wait = min(wait, max(next.Sub(s.now()), 0))
		}
		wake.wait(ctx, wait)
	}
}
