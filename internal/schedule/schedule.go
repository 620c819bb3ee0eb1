// Package schedule runs steps for many clients. It knows when the next step of each client is due,
// and runs each step in a worker, a goroutine of its own. It does not know what a step does.
package schedule

import (
	"context"
	"sync"
	"time"
)

const (
	// LookAgain is how long after a failed step the next one is due, and how long the schedule sleeps
	// at most: clocks jump, and machines are suspended.
	LookAgain = time.Minute

	// pace is the least time between the beginnings of two steps that Wake did not ask for, so that
	// storage has time for requests.
	pace = 5 * time.Millisecond

	// checkEvery is the least time between two steps of the safety net. The safety net begins a step
	// for the client whose last step began first, if that was LookAgain ago or more. So it finds
	// changes that nobody reported, such as an entry that somebody repaired by hand.
	checkEvery = 2500 * time.Millisecond

	// listEvery is the time between two reads of the list of clients. It is LookAgain after a read
	// that failed or found no client.
	listEvery = 10 * time.Minute

	// maxWorkers is the most workers at a time. A worker may have to wait for a server, or for a key
	// to be generated.
	maxWorkers = 128
)

// Work holds the functions that the schedule calls. They must log their own errors and recover from
// their own panics.
type Work struct {
	// List returns the names of all clients.
	List func(ctx context.Context) ([]string, error)

	// Step does one step for a client. next is when the following step is due, zero if no time is set.
	// It is not used if err is not nil.
	Step func(ctx context.Context, client string) (next time.Time, err error)
}

// Schedule runs the steps of each client one after the other, and steps of different clients at the
// same time. It stores nothing, so a step must store its result itself.
type Schedule struct {
	now func() time.Time // the wall clock

	running sync.Mutex // held to start or stop; guards the three below
	stopped bool
	cancel  context.CancelFunc
	done    chan struct{} // closed when all goroutines have ended

	wake chan struct{} // ends the wait of the goroutine that begins workers; holds one signal

	mu      sync.Mutex // guards all below; nothing waits under it
	clients *clients
	listed  bool      // whether the list has been read
	listAt  time.Time // when to read it again; by the clock of this process
}

// New returns a schedule that is not started. now is the wall clock, with which due times are
// compared.
func New(now func() time.Time) *Schedule {
	return &Schedule{now: now, wake: make(chan struct{}, 1), clients: newClients()}
}

func (s *Schedule) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Wake makes the next step of a client begin as soon as its current step, if any, has ended and a
// worker is free. The client may be new to the schedule.
func (s *Schedule) Wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients.wake(s.clients.add(name, time.Now()))
	s.signal()
}

// Plan sets when the next step of a client is due; zero sets no time. It does nothing for an
// unknown client, nor while a step of the client runs, because the result of that step will set the
// time.
func (s *Schedule) Plan(name string, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients.known[name]; c != nil && c.stop == nil && !c.due.Equal(due) {
		s.clients.plan(c, due)
		s.signal()
	}
}

// Forget removes a client, and cancels its step if one runs.
func (s *Schedule) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients.known[name]; c != nil {
		s.clients.remove(c)
	}
}

// Workers returns how many workers run.
func (s *Schedule) Workers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients.workers
}

// Unread returns for how many clients no step has begun yet. complete reports whether there is no
// such client and the list of clients has been read.
func (s *Schedule) Unread() (n int, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients.unread, s.listed && s.clients.unread == 0
}

// Start begins the work, unless Stop was called. If the work has begun already, Start only makes it
// compare the due times with the clock at once.
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
	// Do not use a request's context: the work goes on after that request.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.cancel, s.done = cancel, done
	go func() {
		defer close(done)
		s.run(ctx, work)
	}()
}

// Stop ends the work for good: it cancels all steps and waits until they have ended.
func (s *Schedule) Stop() {
	s.running.Lock()
	defer s.running.Unlock()
	s.stopped = true
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
}

// run begins steps until ctx ends. Then it waits for the steps, and forgets all clients.
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

// beginDue begins the steps that may begin now, and a read of the list of clients when it is time.
// It returns after how long it has to be called again, if nothing changes before.
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

// end notes how a step of a client ended, and when the next one is due.
func (s *Schedule) end(c *client, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		next = s.now().Add(LookAgain)
	}
	s.clients.end(c, next)
	s.signal()
}

// list reads the list of clients. It adds the new ones, and forgets those that were added before
// the read began and are not in the list. If the read fails or the list is empty, the next read is
// LookAgain after this one: a list may be empty because another node does the work.
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
