package keyring

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	exploreKeys     = flag.Int("explore.keys", 2, "TestExplore: the largest number of keys in a ring")
	exploreGone     = flag.Int("explore.gone", 2, "TestExplore: more deleted keys count as this number")
	exploreRefusals = flag.Int("explore.refusals", 1, "TestExplore: more refusals count as this number")
)

// exploration is a search, breadth first, through the states within its limits.
type exploration struct {
	limits
	moves  []move
	states []code
	from   []int32 // the state from which a state was first reached
	by     []move  // the move from there
	seen   map[code]int32
	made   int // the number of moves that were made
}

func newExploration(l limits) *exploration {
	e := &exploration{limits: l, seen: map[code]int32{}}
	for kind := range kinds {
		switch kind {
		case activate, force, remove, removeForced:
			for i := range l.keys {
				e.moves = append(e.moves, move{kind: kind, key: l.kept + i})
			}
		case importKey:
			for i := range 3 * l.keys {
				e.moves = append(e.moves, move{kind: kind, key: l.kept + i/3, how: i % 3})
			}
		case accepted:
			for i := range 2 * l.keys {
				e.moves = append(e.moves, move{kind: kind, key: l.kept + i/2, how: i % 2})
			}
		case publishing:
			for i := range ways {
				e.moves = append(e.moves, move{kind: kind, key: i})
			}
		case step:
			for i := range replies {
				e.moves = append(e.moves, move{kind: kind, how: i})
			}
		default:
			e.moves = append(e.moves, move{kind: kind})
		}
	}
	return e
}

// isLook reports whether the worker looks at the ring before the move.
func (m move) isLook() bool {
	return m.kind == look || m.kind == recheck || m.kind == retry || m.kind == step
}

// reached is a state that a move reached.
type reached struct {
	code code
	from int32
	by   move
}

// explorer makes all moves from some of the states. Only one goroutine uses it at a time.
type explorer struct {
	e                            *exploration
	before, settled, after, want world
	found                        []reached
	made                         int
	broken                       string // the rule that was broken, empty for none
	at                           int32  // the state that is explored now
	by                           move   // the move that is made now
}

// expand makes all moves from the state with that index, until one breaks a rule.
func (x *explorer) expand(index int32) {
	x.at, x.by = index, move{kind: look}
	defer func() {
		if p := recover(); p != nil {
			x.broken = fmt.Sprint("panic: ", p)
		}
	}()
	x.before.decode(x.e.states[index], x.e.limits)
	if p := x.before.ring.Publication; p != nil {
		p.Proved = true         // a change of Publication.To must reset it
		p.ReadAt = x.before.now // a clock that goes back must take it along
	}
	if x.broken = x.looks(); x.broken != "" {
		return
	}
	var next Step
	if len(x.before.ring.Keys) > 0 {
		next = x.settled.ring.Next(x.settled.policy(), x.settled.now)
		x.broken = x.settled.wrongKeys()
		if x.broken != "" {
			return
		}
		if !sameRing(&x.settled.ring, &x.want.ring) {
			x.broken = "asking, or what is refused, changes the ring"
		} else if x.broken = x.settled.wrongStep(next); x.broken == "" {
			x.broken = x.settled.wrongReport()
		}
		if x.broken != "" {
			return
		}
	}
	for _, m := range x.e.moves {
		if m.kind == step && (next.Action == "" || next.Action == Wait) {
			continue
		}
		x.by = m
		if x.broken = x.make(m, next); x.broken != "" {
			return
		}
	}
}

// looks has the worker look at the ring. It returns what was wrong with that, or "".
func (x *explorer) looks() string {
	x.before.copyTo(&x.settled)
	x.before.copyTo(&x.want)
	changed := x.settled.settle()
	x.want.expectSettled()
	switch {
	case !sameRing(&x.settled.ring, &x.want.ring):
		return fmt.Sprintf("a look makes it %s, expected %s", &x.settled, &x.want)
	case changed == sameRing(&x.before.ring, &x.settled.ring):
		return fmt.Sprint("a look says that it changed the ring: ", changed)
	case x.settled.settle():
		return "the second look changes the ring again"
	}
	return ""
}

// make makes one move, and returns the rule that it broke, or "". next is the worker's next step
// before the move, zero if the ring is empty.
func (x *explorer) make(m move, next Step) string {
	base := &x.before
	if m.isLook() {
		base = &x.settled
	}
	base.copyTo(&x.after)
	event := x.after.make(m)
	if !event.applies {
		return ""
	}
	x.made++
	base.copyTo(&x.want)
	if refused := base.refusal(m); refused != (event.err != nil) {
		return fmt.Sprint("refused: ", event.err)
	}
	x.want.expect(&event)
	if event.bad != "" {
		return event.bad
	}
	if text := x.after.differs(&x.want); text != "" {
		return fmt.Sprintf("the ring becomes %s, %s", &x.after, text)
	}
	if text := x.after.wellFormed(); text != "" {
		return text
	}
	if len(x.after.ring.Keys) > x.e.kept+x.e.keys {
		return ""
	}
	c := x.after.encode(x.e.limits)
	if _, known := x.e.seen[c]; !known {
		x.found = append(x.found, reached{c, x.at, m})
	}
	if next.Action == "" || next.Action == Wait || len(x.after.ring.Keys) == 0 {
		return ""
	}
	switch {
	case m.kind == step && event.step.Same(x.after.ring.Next(x.after.policy(), x.after.now)):
		return fmt.Sprintf("step %s comes again after it was done", event.step.Action)
	case m.kind < look: // it may happen while the worker makes the step
		x.after.settle()
		return x.settled.wrongSame(next, &x.after)
	}
	return ""
}

// run explores all states. It returns an error if a rule was broken.
func (e *exploration) run() error {
	first := newWorld().encode(limits{})
	if e.kept > 0 {
		first.world, first.keys[0] = first.world|1, 1<<11
	}
	e.note(first, -1, move{})
	if e.fullList {
		w := newWorld()
		w.way = slices.Index(ways, PlatformAPI)
		w.make(move{kind: add})
		w.settle()
		for _, gone := range []int{almostFull, maxNoted} {
			w.ring.Gone = append(w.gone[:0], deleted[:gone]...)
			e.note(w.encode(e.limits), -1, move{})
		}
	}
	workers := make([]*explorer, runtime.GOMAXPROCS(0))
	for i := range workers {
		workers[i] = &explorer{e: e}
	}
	const batch = 4096
	for done, level := 0, len(e.states); done < len(e.states); {
		until := min(done+batch*len(workers), level) // so that each path is the shortest
		var all sync.WaitGroup
		for i, x := range workers {
			x.found = x.found[:0]
			all.Go(func() {
				for index := done + i; index < until && x.broken == ""; index += len(workers) {
					x.expand(int32(index))
				}
			})
		}
		all.Wait()
		if err := e.broken(workers); err != nil {
			return err
		}
		for _, x := range workers {
			for _, f := range x.found {
				e.note(f.code, f.from, f.by)
			}
		}
		if done = until; done == level {
			level = len(e.states)
		}
	}
	for _, x := range workers {
		e.made += x.made
	}
	return nil
}

// broken returns an error that tells which rule was broken and by which moves, nil if none was. If
// it happened in several states, the error is about the first of them.
func (e *exploration) broken(workers []*explorer) error {
	var first *explorer
	for _, x := range workers {
		if x.broken != "" && (first == nil || x.at < first.at) {
			first = x
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("%s\n%s", first.broken, e.path(first.at, first.by))
}

// note adds a state, unless it is known, and returns its index.
func (e *exploration) note(c code, from int32, by move) int32 {
	if index, known := e.seen[c]; known {
		return index
	}
	index := int32(len(e.states))
	e.seen[c] = index
	e.states, e.from, e.by = append(e.states, c), append(e.from, from), append(e.by, by)
	return index
}

// path returns, as text, the moves that lead to a state, the states on the way, and the move last.
func (e *exploration) path(index int32, last move) string {
	lines := []string{"then " + last.String()}
	var w world
	for ; index >= 0; index = e.from[index] {
		w.decode(e.states[index], e.limits)
		lines = append(lines, fmt.Sprintf("%s\n    %s", e.by[index], &w))
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// well returns the next move if nothing fails, nobody interferes, and Redox's list is as the engine
// believes. If the list is different, the engine's first read of it leads to a state in which the
// list is as believed. That state is explored too.
func (w *world) well() move {
	if len(w.ring.Keys) == 0 {
		return move{kind: pass}
	}
	s := w.ring.Next(w.policy(), w.now)
	switch k := w.ring.only(Pending); {
	case s.Action == Wait:
		return move{kind: pass}
	case s.Action == Publish && k != nil && k.PublishedAt.IsZero():
		return move{kind: step, how: slices.Index(replies, reply{stored, false, true, allGone})}
	}
	return move{kind: step} // each first outcome is the good one
}

// settles makes, from each state, the moves that come if nothing fails. It returns the largest
// number of them until the engine has nothing to do, or an error if it never gets there from some
// state.
func (e *exploration) settles() (most int, err error) {
	const unknown = -1
	explored := len(e.states)
	next, left := make([]int32, 0, explored), make([]int, 0, explored)
	for index := 0; index < len(e.states); index++ {
		var w world
		w.decode(e.states[index], e.limits)
		behind := w.behind()
		m := move{kind: look}
		if !w.settle() {
			m = w.well()
		}
		w.make(m)
		next = append(next, e.note(w.encode(e.limits), int32(index), m))
		if left = append(left, unknown); behind == "" {
			left[index] = 0
		}
	}
	for index := range explored {
		var way []int32
		at := int32(index)
		for ; left[at] == unknown; at = next[at] {
			if way = append(way, at); len(way) > 1000 {
				var w world
				w.decode(e.states[at], e.limits)
				return 0, fmt.Errorf("without a fault it is for ever so: %s\n%s", w.behind(), e.path(at, move{kind: pass}))
			}
		}
		for i, index := range slices.Backward(way) {
			left[index] = left[at] + len(way) - i
		}
		most = max(most, left[index])
	}
	return most, nil
}

// TestExplore explores the states of rings with up to -explore.keys keys, and each move from there.
// The doc comment of type code says which states count as the same.
func TestExplore(t *testing.T) {
	explore(t, limits{keys: *exploreKeys, gone: *exploreGone, refusals: *exploreRefusals})
}

// TestExploreFull does the same with fewer keys, in two searches. The first also begins with a full
// list of deleted keys, and with one that is one short of full. In the second, kept keys take all
// other places of the ring.
func TestExploreFull(t *testing.T) {
	keys := max(1, *exploreKeys-2)
	l := limits{keys: keys, gone: *exploreGone, refusals: *exploreRefusals}
	l.fullList = true
	explore(t, l)
	l.fullList, l.kept = false, MaxKeys-keys
	explore(t, l)
}

func explore(t *testing.T, l limits) {
	t.Helper()
	began := time.Now()
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	e := newExploration(l)
	err := e.run()
	t.Logf("%d states, %d transitions in %v", len(e.states), e.made, time.Since(began).Round(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	explored := len(e.states)
	most, err := e.settles()
	t.Logf("after at most %d moves all is done, also from %d larger rings; %v", most, len(e.states)-explored,
		time.Since(began).Round(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	const bound = 16
	if most > bound {
		t.Errorf("it takes %d moves until all is done, more than %d", most, bound)
	}
}

// From a world and from its normal form, moves of the same kind must lead to the same states. The
// worlds come from random walks, which normalise no world.
func TestExploreNormal(t *testing.T) {
	l := limits{keys: 4, gone: 2, refusals: 2}
	e := newExploration(l)
	var normal, before world
	compared := 0
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 0))
		w := newWorld()
		for range 60 {
			normal.decode(w.encode(l), l)
			if got := normal.encode(l); got != w.encode(l) {
				t.Fatalf("%s becomes %s", w, &normal)
			}
			original, normalised := e.successors(w), e.successors(&normal)
			for kind := range original {
				if compared++; !slices.Equal(original[kind], normalised[kind]) {
					t.Fatalf("seed %d: %s: %s\nleads to %v, and %s\nto %v", seed, kindNames[kind], w, original[kind], &normal,
						normalised[kind])
				}
			}
			m := e.moves[random.IntN(len(e.moves))]
			w.copyTo(&before)
			if m.isLook() {
				w.settle()
			}
			if w.make(m); len(w.ring.Keys) > l.keys {
				before.copyTo(w)
			}
		}
	}
	t.Logf("%d sets of successors are the same", compared)
}

// successors returns the states to which each kind of move leads.
func (e *exploration) successors(w *world) (to [kinds][]code) {
	var after world
	for _, m := range e.moves {
		w.copyTo(&after)
		if m.isLook() {
			after.settle()
		}
		if event := after.make(m); event.applies {
			to[m.kind] = append(to[m.kind], after.encode(e.limits))
		}
	}
	for kind := range to {
		slices.SortFunc(to[kind], func(a, b code) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
	}
	return to
}
