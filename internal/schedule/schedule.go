// Package schedule carries on the work of many clients: it knows when each is due,
// and runs a worker for each that is. It knows nothing of what a step does, nor of
// storage or keys.
package schedule

import (
	"context"
	"sync"
	"time"
)

const (
	// LookAgain is when a client is looked at again after an error, and how long the
	// schedule sleeps at most: clocks jump, and machines are suspended.
	LookAgain = time.Minute

	// pace is the least time between the beginnings of two steps that Wake did not ask
	// for: they must leave storage to requests.
	pace = 5 * time.Millisecond

	// checkEvery is how often the safety net looks at a client: the one that was not
	// looked at for the longest time, if that is LookAgain or more. It finds changes
	// that nobody reported, such as an entry that somebody repaired by hand.
	checkEvery = 2500 * time.Millisecond

	// listEvery is how often the list of clients is read.
	listEvery = 10 * time.Minute

	// maxWorkers is the most workers at a time. A worker may wait for a server, or for
	// a key to be generated.
	maxWorkers = 128
)

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
	now func() time.Time // of the times that Step returns

	running sync.Mutex // held to start or stop; guards the three below
	stopped bool
	cancel  context.CancelFunc
	done    chan struct{} // closed when all goroutines have ended

	wake chan struct{} // ends the wait of the goroutine that begins workers; holds one signal

	mu      sync.Mutex // guards all below; nothing waits under it
	clients *clients
	listed  bool      // whether the list was read since Start
	listAt  time.Time // when to read it again; by the clock of this process
}

// New returns a schedule that is not started. now is the clock for the times that
// Step returns.
func New(now func() time.Time) *Schedule {
	return &Schedule{now: now, wake: make(chan struct{}, 1), clients: newClients()}
}

func (s *Schedule) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Wake makes the next step of a client begin at once, or when a step that runs has
// ended. The client may be new to the schedule.
func (s *Schedule) Wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients.wake(s.clients.add(name, time.Now()))
	s.signal()
}

// Plan sets when the next step of a client is due; zero means never. It does nothing
// for an unknown client, nor while a step runs, because that step's result will set the
// time.
func (s *Schedule) Plan(name string, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients.known[name]; c != nil && c.stop == nil && !c.due.Equal(due) {
		s.clients.plan(c, due)
		s.signal()
	}
}

// Forget ends the work for a client that was deleted.
func (s *Schedule) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients.known[name]; c != nil {
		s.clients.remove(c)
	}
}

// Workers returns how many clients have a worker.
func (s *Schedule) Workers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients.workers
}

// Unread returns for how many clients no step has begun yet. complete reports whether
// the list of clients was read, and a step has begun for each of them.
func (s *Schedule) Unread() (n int, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients.unread, s.listed && s.clients.unread == 0
}

// Start begins the work, unless Stop was called. If the work is under way already,
// Start makes it compare the due times with the clock.
func (s *Schedule) Start(work Work) {
	s.running.Lock()
	defer s.running.Unlock()
	if s.stopped {
		return
	}
	if s.done != nil {
		s.signal()
		return
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

// Stop ends the work for good and waits until it has ended.
func (s *Schedule) Stop() {
	s.running.Lock()
	defer s.running.Unlock()
	s.stopped = true
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
}

// run begins a worker for each client that is to be looked at, until ctx ends.
func (s *Schedule) run(ctx context.Context, work Work) {
	var all sync.WaitGroup
	defer func() {
		all.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.clients, s.listed, s.listAt = newClients(), false, time.Time{}
	}()
	for ctx.Err() == nil {
		timer := time.NewTimer(s.beginDue(ctx, work, &all))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wake:
		}
		timer.Stop()
	}
}

// beginDue begins the steps that may begin now, and reads the list of clients when it
// is time. It returns after how long to call it again.
func (s *Schedule) beginDue(ctx context.Context, work Work, all *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, wall := time.Now(), s.now()
	if !now.Before(s.listAt) {
		s.listAt = now.Add(listEvery)
		all.Go(func() { s.list(ctx, work, now) })
	}
	for c := s.clients.pick(now, wall); c != nil; c = s.clients.pick(now, wall) {
		own, stop := context.WithCancel(ctx)
		s.clients.begin(c, stop, now)
		all.Go(func() {
			defer stop()
			next, err := work.Step(own, c.name)
			s.end(c, next, err)
		})
	}
	return max(min(s.clients.idle(now, wall), s.listAt.Sub(now)), 0)
}

// end notes how a step of a client ended.
func (s *Schedule) end(c *client, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		next = s.now().Add(LookAgain)
	}
	s.clients.end(c, next)
	s.signal()
}

// list reads the list of clients. It adds the new ones, and forgets those that were
// known before it began and are not in the list. If the list cannot be read or is
// empty, it is read again in a minute: an empty list can mean that another node does
// the work.
func (s *Schedule) list(ctx context.Context, work Work, began time.Time) {
	names, err := work.List(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	if err != nil || len(names) == 0 {
		s.listAt = began.Add(LookAgain)
	}
	if err != nil {
		return
	}
	s.listed = true
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
		s.clients.add(name, began)
	}
	for name, c := range s.clients.known {
		if !there[name] && c.added.Before(began) {
			s.clients.remove(c)
		}
	}
}
