package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a schedule in a synctest bubble, and its clients.
type world struct {
	*Schedule
	t *testing.T

	mu    sync.Mutex
	names []string
	err   error                                                   // of reads of the list
	step  map[string]func(ctx context.Context) (time.Time, error) // a client without one has nothing to do
	lists []time.Duration                                         // when the list was read
	steps map[string][]time.Duration                              // when a client's step began
	begun time.Time                                               // lists and steps count from it
}

func inWorld(t *testing.T, clients []string, do func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Schedule: New(time.Now), t: t, names: clients, begun: time.Now()}
		w.step, w.steps = map[string]func(context.Context) (time.Time, error){}, map[string][]time.Duration{}
		defer w.Stop()
		do(w)
	})
}

// work returns the work of the schedule.
func (w *world) work() Work {
	return Work{
		List: func(context.Context) ([]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lists = append(w.lists, time.Since(w.begun))
			return slices.Clone(w.names), w.err
		},
		Step: func(ctx context.Context, client string) (time.Time, error) {
			w.mu.Lock()
			w.steps[client] = append(w.steps[client], time.Since(w.begun).Round(time.Second))
			step := w.step[client]
			w.mu.Unlock()
			if step == nil {
				return time.Time{}, nil
			}
			return step(ctx)
		},
	}
}

// set runs change while it holds the lock.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// after waits for d, and then until all other goroutines are blocked.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// count returns how many steps began.
func (w *world) count() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, steps := range w.steps {
		n += len(steps)
	}
	return n
}

// saw checks when the list was read, and when the steps of the clients in steps began.
func (w *world) saw(lists []time.Duration, steps map[string][]time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.lists, lists) {
		w.t.Errorf("the list was read at %v, want %v", w.lists, lists)
	}
	for client, want := range steps {
		if !slices.Equal(w.steps[client], want) {
			w.t.Errorf("steps of %s began at %v, want %v", client, w.steps[client], want)
		}
	}
}

var errTest = errors.New("it fails")

const second, minute = time.Second, time.Minute

// A step runs when it is due. After a step that fails, the next one runs a minute later, whatever
// time the failed step returns.
func TestWhenStepsRun(t *testing.T) {
	inWorld(t, []string{"due", "failing", "past"}, func(w *world) {
		in := func(d time.Duration, err error) func(context.Context) (time.Time, error) {
			return func(context.Context) (time.Time, error) { return time.Now().Add(d), err }
		}
		w.step["due"], w.step["failing"] = in(40*second, nil), in(second, errTest)
		past := false
		w.step["past"] = func(context.Context) (time.Time, error) {
			if past = !past; past {
				return time.Now().Add(-time.Hour), nil
			}
			return time.Now().Add(time.Hour), nil
		}
		w.Start(w.work())
		w.after(minute + 30*second)
		w.saw([]time.Duration{0}, map[string][]time.Duration{
			"due": {0, 40 * second, 80 * second}, "failing": {0, 60 * second}, "past": {0, 0, 60 * second, 60 * second},
		})
	})
}

// Once all clients have had a step, the safety net begins more of them, although no time is set:
// one every 2.5 s at most, and for the same client one a minute at most.
func TestSafetyNet(t *testing.T) {
	for n, most := range map[int]int{1: 10, 24: 240, 100: 240, 1000: 240} {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprint(i)
		}
		inWorld(t, names, func(w *world) {
			w.Start(w.work())
			w.after(10 * second)
			first := w.count()
			w.after(minute)
			before := w.count()
			w.after(10 * minute)
			if looked := w.count() - before; first != n || looked > most || looked < most-1 {
				t.Errorf("of %d clients %d were looked at first, and in ten minutes %d, want %d", n, first, looked, most)
			}
			w.set(func() {
				for name, steps := range w.steps {
					if n >= 240 && len(steps) > 2 {
						t.Errorf("of %d clients %s was looked at %d times", n, name, len(steps))
					}
				}
			})
		})
	}
}

// The first steps of all clients begin at a fixed pace. A client that is woken does not wait for
// its turn. Unread returns for how many clients no step has begun, and whether the list was read
// and there is no such client.
func TestFirstLook(t *testing.T) {
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	inWorld(t, names, func(w *world) {
		if _, complete := w.Unread(); complete {
			t.Error("before it has begun it is complete")
		}
		w.Start(w.work())
		w.after(25 * second)
		if unread, complete := w.Unread(); complete || unread < 4_900 || unread > 5_100 {
			t.Errorf("after half the time %d clients are unread; complete %v", unread, complete)
		}
		w.set(func() { w.steps = map[string][]time.Duration{} })
		w.Wake("new")
		w.Wake("9999")
		w.Wake("0")
		w.after(0)
		w.saw([]time.Duration{0}, map[string][]time.Duration{
			"new": {25 * second}, "9999": {25 * second}, "0": {25 * second},
		})
		w.after(26 * second)
		if unread, complete := w.Unread(); !complete || unread != 0 {
			t.Errorf("at the end %d clients are unread; complete %v", unread, complete)
		}
	})
}

// If many steps are due at the same time, they begin at a fixed pace, and at most maxWorkers of
// them run at once. A client that is woken gets the next free worker.
func TestManyDue(t *testing.T) {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	inWorld(t, append(names, "woken"), func(w *world) {
		due := time.Now().Add(time.Hour)
		for _, name := range names {
			w.step[name] = func(context.Context) (time.Time, error) {
				if time.Now().Before(due) {
					return due, nil
				}
				time.Sleep(minute)
				return time.Time{}, nil
			}
		}
		w.Start(w.work())
		w.after(time.Hour - second)
		before := w.count()
		w.after(2 * second)
		if n, workers := w.count()-before, w.Workers(); n > 201 || n < 120 || workers > maxWorkers {
			t.Errorf("in a second %d of the due steps began, and %d run", n, workers)
		}
		w.set(func() { w.steps["woken"] = nil })
		w.Wake("woken")
		w.after(minute)
		w.saw(w.lists, map[string][]time.Duration{"woken": {time.Hour + minute}})
		w.after(10 * minute)
		if n := w.count() - before; n < 1000 {
			t.Errorf("%d of the due steps ran", n)
		}
	})
}

// The steps of a client run one after the other, and a slow step does not delay other
// clients. However often a client is woken during a step, only one more step follows.
func TestSlowStep(t *testing.T) {
	inWorld(t, []string{"slow", "quick"}, func(w *world) {
		w.step["slow"] = func(context.Context) (time.Time, error) {
			time.Sleep(100 * second)
			return time.Time{}, nil
		}
		w.step["quick"] = func(context.Context) (time.Time, error) { return time.Now().Add(30 * second), nil }
		w.Start(w.work())
		w.after(80 * second)
		for range 9 {
			w.Wake("slow")
		}
		if n := w.Workers(); n != 1 {
			t.Errorf("%d workers", n)
		}
		w.after(45 * second)
		w.saw([]time.Duration{0}, map[string][]time.Duration{
			"slow": {0, 100 * second}, "quick": {0, 30 * second, 60 * second, 90 * second, 120 * second},
		})
	})
}

// Wake makes a client's next step begin at once, even if the client is new.
func TestWake(t *testing.T) {
	inWorld(t, []string{"old"}, func(w *world) {
		w.Start(w.work())
		w.after(10 * second)
		w.Wake("old")
		w.Wake("new")
		w.after(0)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"old": {0, 10 * second}, "new": {10 * second}})
	})
}

// Plan sets the time of a client's next step. It does nothing while a step of that client runs, or
// if the client is unknown.
func TestPlan(t *testing.T) {
	inWorld(t, []string{"a", "running"}, func(w *world) {
		w.step["a"] = func(context.Context) (time.Time, error) { return time.Now().Add(time.Hour), nil }
		w.step["running"] = func(context.Context) (time.Time, error) {
			time.Sleep(20 * second)
			return time.Now().Add(time.Hour), nil
		}
		w.Start(w.work())
		w.after(10 * second)
		for _, name := range []string{"a", "running", "unknown"} {
			w.Plan(name, time.Now().Add(5*second))
		}
		w.after(30 * second)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"a": {0, 15 * second}, "running": {0}, "unknown": nil})
		w.Plan("a", time.Now().Add(5*second))
		w.Plan("a", time.Time{}) // sets no time
		w.after(10 * second)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"a": {0, 15 * second}})
	})
}

// If the wall clock jumps past the time of a step, that step runs within a minute, or at once if
// Start is called. If it jumps back, the safety net begins the step long before it is due. There are
// so many clients that it comes to that client only minutes later.
func TestClockJumps(t *testing.T) {
	for _, told := range []bool{false, true} {
		names := make([]string, 100)
		for i := range names {
			names[i] = fmt.Sprint(i)
		}
		inWorld(t, append(names, "a"), func(w *world) {
			var ahead time.Duration
			wall := func() time.Time {
				w.mu.Lock()
				defer w.mu.Unlock()
				return time.Now().Add(ahead)
			}
			w.now = wall
			w.step["a"] = func(context.Context) (time.Time, error) { return wall().Add(24 * time.Hour), nil }
			w.Start(w.work())
			w.after(5 * second)
			w.Wake("a") // so the safety net comes to all others first
			w.after(5 * second)
			w.set(func() { ahead = 365 * 24 * time.Hour })
			want := minute
			if told {
				w.Start(w.work())
				want = 10 * second
			}
			w.after(minute)
			w.saw([]time.Duration{0}, map[string][]time.Duration{"a": {0, 5 * second, want}})
			w.set(func() { ahead = 0 }) // now the next step is due in more than a year
			w.after(5 * minute)
			w.saw([]time.Duration{0}, map[string][]time.Duration{"a": {0, 5 * second, want, minute + 100*checkEvery}})
		})
	}
}

// A client that is no longer listed is forgotten, and its step is cancelled. When it is listed
// again, it has steps again. A list that cannot be read changes nothing. A client that was added
// after a read of the list began is not forgotten because of that read.
func TestClientsComeAndGo(t *testing.T) {
	inWorld(t, []string{"stays", "goes"}, func(w *world) {
		ended := 0
		w.step["goes"] = func(ctx context.Context) (time.Time, error) {
			<-ctx.Done()
			ended++
			return time.Time{}, ctx.Err()
		}
		known := func(after time.Duration, want ...string) {
			t.Helper()
			w.after(after)
			w.Schedule.mu.Lock()
			defer w.Schedule.mu.Unlock()
			if got := slices.Sorted(maps.Keys(w.clients.known)); !slices.Equal(got, want) {
				t.Errorf("it knows %v, want %v", got, want)
			}
		}
		w.Start(w.work())
		known(second, "goes", "stays")
		w.set(func() { w.err, w.names = errTest, nil })
		known(listEvery, "goes", "stays")
		w.set(func() { w.err, w.names = nil, []string{"stays"} })
		known(minute, "stays")
		if n, _ := w.Unread(); ended != 1 || n != 0 || w.Workers() != 0 {
			t.Errorf("%d steps ended, %d unread, %d workers", ended, n, w.Workers())
		}
		w.set(func() { w.names = []string{"stays", "goes"} })
		known(listEvery, "goes", "stays")
		w.Forget("goes")
		w.Forget("unknown")
		known(second, "stays")
		if ended != 2 {
			t.Errorf("%d steps ended", ended)
		}
	})
	inWorld(t, nil, func(w *world) {
		work := w.work()
		work.List = func(context.Context) ([]string, error) {
			time.Sleep(10 * second)
			return []string{"old"}, nil
		}
		w.Start(work)
		w.after(5 * second)
		w.Wake("young")
		w.after(10 * second)
		w.saw(nil, map[string][]time.Duration{"young": {5 * second}, "old": {10 * second}})
		if w.clients.known["young"] == nil {
			t.Error("a client that is younger than the list is forgotten")
		}
	})
}

// A forgotten client has no further step, whether a time was set or it was woken during its step.
// Unread does not count it.
func TestForget(t *testing.T) {
	inWorld(t, []string{"due", "woken", "other"}, func(w *world) {
		w.step["due"] = func(context.Context) (time.Time, error) { return time.Now().Add(10 * second), nil }
		w.step["woken"] = func(context.Context) (time.Time, error) {
			time.Sleep(5 * second)
			return time.Time{}, nil
		}
		w.Start(w.work())
		w.after(second)
		w.Wake("woken")
		w.Forget("due")
		w.Forget("woken")
		w.after(30 * second)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"due": {0}, "woken": {0}, "other": {0}})
	})
	inWorld(t, []string{"a"}, func(w *world) {
		w.Wake("unread") // before it starts
		w.Forget("unread")
		if n, _ := w.Unread(); n != 0 {
			t.Errorf("%d clients are unread", n)
		}
	})
}

// A list that is empty, or cannot be read, is read again a minute later.
func TestListAgain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.Start(w.work())
		w.after(second)
		w.set(func() { w.err = errTest })
		w.after(minute)
		w.set(func() { w.err, w.names = nil, []string{"a"} })
		w.after(30 * minute)
		w.saw([]time.Duration{0, minute, 2 * minute, 12 * minute, 22 * minute}, nil)
	})
}

// Start begins nothing new while the work is under way. Stop cancels each step and waits for its
// end. After Stop, neither Start nor Wake begins anything.
func TestStartAndStop(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(w *world) {
		w.step["a"] = func(ctx context.Context) (time.Time, error) {
			<-ctx.Done()
			time.Sleep(5 * second) // must end before Stop returns
			return time.Time{}, nil
		}
		for range 3 {
			w.Start(w.work())
			w.after(second)
		}
		start := time.Now()
		w.Stop()
		w.Stop()
		if took := time.Since(start); took != 5*second || w.Workers() != 0 {
			t.Errorf("it stopped after %v with %d workers", took, w.Workers())
		}
		w.Start(w.work())
		w.Wake("a")
		w.after(10 * minute)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"a": {0}, "b": {0}})
	})
}

// A schedule that is stopped before its first Start never begins.
func TestStopBeforeStart(t *testing.T) {
	inWorld(t, []string{"a"}, func(w *world) {
		w.Stop()
		w.Start(w.work())
		w.after(minute)
		w.saw(nil, map[string][]time.Duration{"a": nil})
	})
}

// A read of the list that waits for storage delays no client. Stop cancels it.
func TestSlowList(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		work := w.work()
		work.List = func(ctx context.Context) ([]string, error) {
			<-ctx.Done()
			return []string{"a"}, nil
		}
		w.Start(work)
		w.after(second)
		w.Wake("b")
		w.after(0)
		w.Stop()
		w.saw(nil, map[string][]time.Duration{"a": nil, "b": {second}})
	})
}
