package schedule

import (
	"container/heap"
	"container/list"
	"context"
	"slices"
	"time"
)

// clients knows when each client's next step is due, when its last step began, and whether it has a
// worker. Due times are by the wall clock, all other times by the clock of this process, which does
// not jump.
type clients struct {
	known   map[string]*client
	due     dueHeap    // those with a due time; none of them has a worker
	order   *list.List // all; the one whose step began last is at the end
	woken   []*client  // those whose next step is to begin as soon as they have no worker
	workers int
	unread  int       // how many never had a step
	nextAt  time.Time // when the next step that nobody asked for may begin
	checkAt time.Time // when the safety net may begin its next step
}

type client struct {
	name   string
	added  time.Time
	looked time.Time // when its last step began; zero for never
	due    time.Time // zero: no time is set
	at     int       // place in due, -1 for none
	order  *list.Element
	stop   context.CancelFunc // ends its step; nil when it has no worker
	woken  bool
}

func newClients() *clients { return &clients{known: map[string]*client{}, order: list.New()} }

func (s *clients) add(name string, now time.Time) *client {
	c := s.known[name]
	if c == nil {
		c = &client{name: name, added: now, at: -1}
		c.order = s.order.PushFront(c)
		s.known[name] = c
		s.unread++
	}
	return c
}

func (s *clients) remove(c *client) {
	s.plan(c, time.Time{})
	s.asleep(c)
	s.order.Remove(c.order)
	delete(s.known, c.name)
	if c.looked.IsZero() {
		s.unread--
	}
	if c.stop != nil {
		c.stop()
	}
}

// wake makes pick choose c before the clients that are not woken, as soon as c has no worker.
func (s *clients) wake(c *client) {
	if !c.woken {
		c.woken = true
		s.woken = append(s.woken, c)
	}
}

func (s *clients) asleep(c *client) {
	if c.woken {
		c.woken = false
		s.woken = slices.DeleteFunc(s.woken, func(one *client) bool { return one == c })
	}
}

// plan sets when the next step of c is due; zero sets no time.
func (s *clients) plan(c *client, due time.Time) {
	c.due = due
	switch {
	case due.IsZero() && c.at >= 0:
		heap.Remove(&s.due, c.at)
	case due.IsZero():
	case c.at >= 0:
		heap.Fix(&s.due, c.at)
	default:
		heap.Push(&s.due, c)
	}
}

// begin notes that a step of c begins now. stop cancels that step.
func (s *clients) begin(c *client, stop context.CancelFunc, now time.Time) {
	if c.looked.IsZero() {
		s.unread--
	}
	s.plan(c, time.Time{})
	s.asleep(c)
	s.order.MoveToBack(c.order)
	c.looked, c.stop = now, stop
	s.workers++
}

// end notes that a step of c has ended, and when the next one is due.
func (s *clients) end(c *client, due time.Time) {
	s.workers--
	c.stop = nil
	if s.known[c.name] == c { // else it was deleted meanwhile
		s.plan(c, due)
	}
}

// pick returns a client whose step is to begin now, nil for none. A client that was woken comes
// first. Of the others, at most one per pace comes: one that is due by the wall clock, else one
// that never had a step, else one for the safety net.
func (s *clients) pick(now, wall time.Time) *client {
	if s.workers >= maxWorkers {
		return nil
	}
	for _, c := range s.woken {
		if c.stop == nil {
			return c
		}
	}
	if now.Before(s.nextAt) {
		return nil
	}
	oldest := s.oldest()
	var picked *client
	switch {
	case len(s.due) > 0 && !s.due[0].due.After(wall):
		picked = s.due[0]
	case oldest == nil:
		return nil
	case oldest.looked.IsZero():
		picked = oldest
	case now.Before(s.checkAt) || now.Sub(oldest.looked) < LookAgain:
		return nil
	default:
		picked = oldest
		s.checkAt = now.Add(checkEvery)
	}
	s.nextAt = now.Add(pace)
	return picked
}

// idle returns for how long pick, which has just returned nil, need not be called again if nothing
// changes meanwhile; at most LookAgain.
func (s *clients) idle(now, wall time.Time) time.Duration {
	if s.workers >= maxWorkers {
		return LookAgain
	}
	idle := LookAgain
	if len(s.due) > 0 {
		idle = min(idle, s.due[0].due.Sub(wall))
	}
	if oldest := s.oldest(); oldest != nil && oldest.looked.IsZero() {
		idle = 0
	} else if oldest != nil {
		idle = min(idle, max(oldest.looked.Add(LookAgain).Sub(now), s.checkAt.Sub(now)))
	}
	return max(idle, s.nextAt.Sub(now), 0)
}

// oldest returns, of the clients without a worker, one that never had a step, else the one whose
// last step began first; nil for none.
func (s *clients) oldest() *client {
	for at := s.order.Front(); at != nil; at = at.Next() {
		if c, is := at.Value.(*client); is && c.stop == nil {
			return c
		}
	}
	return nil
}

// dueHeap is a heap. The client that is due first is at its head.
type dueHeap []*client

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].at, h[j].at = i, j }

func (h *dueHeap) Push(x any) {
	if c, is := x.(*client); is {
		c.at = len(*h)
		*h = append(*h, c)
	}
}

func (h *dueHeap) Pop() any {
	end := len(*h) - 1
	last := (*h)[end]
	(*h)[end] = nil
	*h = (*h)[:end]
	last.at = -1
	return last
}
