package schedule

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a schedule in a bubble, and the clients it works for.
type world struct {
	*Schedule
	t *testing.T

	mu      sync.Mutex
	clients []string
	err     error                                                   // of lists
	step    map[string]func(ctx context.Context) (time.Time, error) // nothing to do where there is none
	lists   []time.Duration                                         // when the list was read
	steps   map[string][]time.Duration                              // when a client's step began
	begun   time.Time                                               // zero of both
}

func inWorld(t *testing.T, clients []string, do func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Schedule: New(time.Now), t: t, clients: clients, begun: time.Now()}
		w.step, w.steps = map[string]func(context.Context) (time.Time, error){}, map[string][]time.Duration{}
		defer w.Stop()
		do(w)
	})
}

// work is what the schedule is given.
func (w *world) work() Work {
	return Work{
		List: func(context.Context) ([]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lists = append(w.lists, time.Since(w.begun))
			return slices.Clone(w.clients), w.err
		},
		Step: func(ctx context.Context, client string) (time.Time, error) {
			w.mu.Lock()
			w.steps[client] = append(w.steps[client], time.Since(w.begun))
			step := w.step[client]
			w.mu.Unlock()
			if step == nil {
				return time.Time{}, nil
			}
			return step(ctx)
		},
	}
}

// set changes the world.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// after waits for d, and until nothing goes on.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// saw checks when the list was read and when each client's steps began.
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

// A step runs when it is due, when a minute has passed, and after an error in a
// minute, whatever time was told along with it.
func TestWhenStepsRun(t *testing.T) {
	inWorld(t, []string{"idle", "due", "later", "failing", "past"}, func(w *world) {
		in := func(d time.Duration, err error) func(context.Context) (time.Time, error) {
			return func(context.Context) (time.Time, error) { return time.Now().Add(d), err }
		}
		w.step["due"], w.step["later"], w.step["failing"] = in(40*second, nil), in(time.Hour, nil), in(second, errTest)
		past := false
		w.step["past"] = func(context.Context) (time.Time, error) {
			if past = !past; past {
				return time.Now().Add(-time.Hour), nil
			}
			return time.Time{}, nil
		}
		w.Start(w.work())
		w.after(2*minute + second)
		w.saw([]time.Duration{0, minute, 2 * minute}, map[string][]time.Duration{
			"idle": {0, minute, 2 * minute}, "due": {0, 40 * second, 80 * second, 2 * minute}, "later": {0, minute, 2 * minute},
			"failing": {0, minute, 2 * minute}, "past": {0, 0, minute, minute, 2 * minute, 2 * minute},
		})
	})
}

// One worker runs a client's steps, one after the other, and delays no other.
// However often a client is woken during a step, one more follows.
func TestSlowStep(t *testing.T) {
	inWorld(t, []string{"slow", "quick"}, func(w *world) {
		w.step["slow"] = func(context.Context) (time.Time, error) {
			time.Sleep(100 * second)
			return time.Time{}, nil
		}
		w.Start(w.work())
		w.after(90 * second)
		for range 9 {
			w.Wake("slow")
		}
		if n := w.Workers(); n != 2 {
			t.Errorf("%d workers", n)
		}
		w.after(171 * second)
		everyMinute := []time.Duration{0, minute, 2 * minute, 3 * minute, 4 * minute}
		w.saw(everyMinute, map[string][]time.Duration{"slow": {0, 100 * second, 260 * second}, "quick": everyMinute})
	})
}

// Wake runs a client's next step at once. For a client without a worker the list
// is read, as it is by Relist.
func TestWake(t *testing.T) {
	inWorld(t, []string{"old"}, func(w *world) {
		w.Start(w.work())
		w.after(10 * second)
		w.Wake("old")
		w.after(0)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"old": {0, 10 * second}})
		w.set(func() { w.clients = []string{"old", "new"} })
		w.after(10 * second)
		w.Wake("new")
		w.after(10 * second)
		w.Relist()
		w.after(0)
		w.saw([]time.Duration{0, 20 * second, 30 * second}, map[string][]time.Duration{
			"old": {0, 10 * second}, "new": {20 * second},
		})
	})
}

// A client that goes loses its worker: its step is told to end. When it comes
// back it has another. A list that cannot be read changes nothing.
func TestClientsComeAndGo(t *testing.T) {
	inWorld(t, []string{"stays", "goes"}, func(w *world) {
		ended := 0
		w.step["goes"] = func(ctx context.Context) (time.Time, error) {
			<-ctx.Done()
			ended++
			return time.Time{}, ctx.Err()
		}
		workers := func(want int) {
			t.Helper()
			w.Relist()
			w.after(0)
			if n := w.Workers(); n != want {
				t.Errorf("%d workers, want %d", n, want)
			}
		}
		w.Start(w.work())
		workers(2)
		w.set(func() { w.err, w.clients = errTest, nil })
		workers(2)
		w.set(func() { w.err, w.clients = nil, []string{"stays"} })
		workers(1)
		if ended != 1 {
			t.Errorf("%d steps ended", ended)
		}
		w.set(func() { w.clients = []string{"stays", "goes"} })
		workers(2)
		w.saw(make([]time.Duration, len(w.lists)), map[string][]time.Duration{"stays": {0}, "goes": {0, 0}})
	})
}

// Start while the work is under way does nothing. Stop ends each step and waits
// for it. Afterwards nothing begins, whoever asks for it.
func TestStartAndStop(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(w *world) {
		w.step["a"] = func(ctx context.Context) (time.Time, error) {
			<-ctx.Done()
			time.Sleep(5 * second) // what is to be finished
			return time.Time{}, nil
		}
		for range 3 {
			w.Start(w.work())
			w.after(0)
		}
		start := time.Now()
		w.Stop()
		w.Stop()
		if took := time.Since(start); took != 5*second || w.Workers() != 0 {
			t.Errorf("it stopped after %v with %d workers", took, w.Workers())
		}
		w.Start(w.work())
		w.Wake("a")
		w.Relist()
		w.after(10 * minute)
		w.saw([]time.Duration{0}, map[string][]time.Duration{"a": {0}, "b": {0}})
	})
}

// What was stopped before it began does not begin.
func TestStopBeforeStart(t *testing.T) {
	inWorld(t, []string{"a"}, func(w *world) {
		w.Stop()
		w.Start(w.work())
		w.after(minute)
		w.saw(nil, map[string][]time.Duration{"a": nil})
	})
}

// A list that waits for storage ends with Stop, and nothing that others need is
// held meanwhile.
func TestStopDuringAList(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		work := w.work()
		work.List = func(ctx context.Context) ([]string, error) {
			<-ctx.Done()
			return []string{"a"}, nil
		}
		w.Start(work)
		w.after(0)
		w.Wake("a")
		w.Relist()
		w.Stop()
		w.saw(nil, map[string][]time.Duration{"a": nil})
	})
}
