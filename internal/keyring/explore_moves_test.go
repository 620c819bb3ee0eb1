package keyring

import (
	"encoding/json"
	"fmt"
)

// kind is what happens in a move.
type kind int

const (
	add       kind = iota // somebody generates or imports a key
	addBack               // somebody imports a deleted key again
	importKey             // somebody imports a key of the ring again, or another one with the same ID or modulus
	activate              // somebody activates a key, which was proved
	force                 // the same without a proof
	remove                // somebody deletes a key
	removeForced
	rotate     // somebody asks for a rotation
	publishing // the config changes: how the keys are published
	settings   // the config changes: Period and Window
	lead       // the config changes: where token requests and updates of the list go
	accepted   // a read got a token with a key, and the worker stores that
	look       // the worker looks, and stops before its step
	recheck    // the same, after Redox did not know a key
	retry      // the same, after a write of the config
	step       // the worker looks, and does the next step
	pass       // one tick of time passes
	moment     // ten seconds have passed since the last attempt to publish
	clockBack  // the clock is set back to before all stored times
	kinds      // number of kinds
)

var kindNames = [kinds]string{"add", "import a deleted key", "import again", "activate",
	"activate with force", "delete", "delete with force", "rotate", "publishing", "settings", "config leads elsewhere",
	"accepted", "look", "recheck", "retry", "step", "time passes", "ten seconds pass", "the clock goes back"}

// move is one thing that can happen.
type move struct {
	kind kind
	key  int // which key of the ring, or which way to publish
	how  int // the outcome of a step, where a key was accepted, or how an imported key differs
}

func (m move) String() string {
	switch m.kind {
	case importKey, activate, force, remove, removeForced, accepted:
		return fmt.Sprint(kindNames[m.kind], " ", m.key, " ", m.how)
	case publishing:
		return fmt.Sprint("publishing becomes ", ways[m.key])
	case step:
		return fmt.Sprintf("step with outcome %d (if it publishes: %+v)", m.how, replies[m.how])
	}
	return kindNames[m.kind]
}

// The outcomes of a token request.
const (
	accepts = iota
	refuses
	silent
	outcomes
)

// reply is how Redox answers when the engine publishes: the list that it shows first, and what
// becomes of the update.
type reply struct {
	end int // what becomes of the update

	// The list as the engine reads it first. It always has the ring's other keys.
	pending, first bool // whether it has the pending key, and the ring's first key
	gone           int  // it has none of the deleted keys, the first one, or all
}

// What becomes of an update, or why there is none.
const (
	stored        = iota
	lost          // Redox took it and lists what it listed before
	readRefused   // the list cannot be read, or has another key with the ID of one of ours
	readSilent    // no answer to the read
	updateRefused // the list was read, and the update refused
	updateSilent
)

const (
	noGone = iota
	firstGone
	allGone
)

// replies are the replies that make a difference for a ring. TestExploreLists tries more lists.
var replies = []reply{
	{stored, true, true, allGone}, // the list is as the engine believes, unless the pending key is not published
	{stored, false, true, allGone},
	{lost, true, true, firstGone},
	{lost, true, true, allGone},
	{lost, true, false, noGone},
	{lost, true, false, allGone},
	{lost, false, true, noGone},
	{lost, false, true, allGone},
	{end: readRefused},
	{end: readSilent},
	{updateRefused, false, true, noGone},
	{updateSilent, false, true, noGone},
}

// applies reports whether, for this ring, the reply differs from all others.
func (y reply) applies(r *Ring) bool {
	if y.end == readRefused || y.end == readSilent {
		return true
	}
	if !y.pending && r.Pending() == nil || y.gone == firstGone && len(r.Gone) < 2 {
		return false
	}
	return y.gone == noGone || len(r.Gone) > 0 || y.end == stored
}

// list returns the list that the engine reads before it sends the update.
func (y reply) list(r *Ring) []json.RawMessage {
	list := []json.RawMessage{raw(foreign)}
	for i, k := range r.Keys {
		if (k.State == Pending && y.pending) || (k.State != Pending && (i > 0 || y.first)) {
			list = append(list, raw(k.public()))
		}
	}
	for i, gone := range r.Gone {
		if y.gone == allGone || y.gone == firstGone && i == 0 {
			list = append(list, raw(gone))
		}
	}
	return list
}

var foreign = Public{ID: "x", N: "n-x", E: "AQAB"}

// event is a move that was made.
type event struct {
	move
	step      Step
	err       error  // of a person's request
	applies   bool   // false if the move cannot be made here
	added     ID     // the key that the move added to the ring
	first     bool   // the added key is the ring's only one
	removed   ID     // the key that the move removed from the ring
	activated ID     // the key that the move made active
	rotating  ID     // the pending key that Rotate marked
	proved    ID     // the key with which a step requested a token
	outcome   int    // of that request
	accepted  ID     // the key that Redox accepted
	where     string // with these settings
	published *reply
	listed    []json.RawMessage // what Redox lists at the end
	sent      []ID              // the keys that Redox's list lacked at first
	bad       string            // what went wrong during the move
}

// make makes the move m in the world w. If m.isLook(), the caller has settled w before.
func (w *world) make(m move) (e event) {
	e.move, e.applies = m, true
	r := &w.ring
	if len(r.Keys) == 0 && m.kind != add && m.kind != publishing && m.kind != settings && m.kind != lead {
		e.applies = false
		return e
	}
	switch m.kind {
	case add:
		w.add(w.newKey(), &e)
	case addBack:
		if e.applies = len(r.Gone) > 0; e.applies {
			k := w.newKey()
			k.ID, k.N = r.Gone[0].ID, r.Gone[0].N
			w.add(k, &e)
		}
	case importKey, activate, force, remove, removeForced, accepted:
		if e.applies = m.key < len(r.Keys); e.applies {
			w.touch(m, &e)
		}
	case rotate:
		w.rotate(&e)
	case publishing:
		e.applies = w.way != m.key
		w.way = m.key
	case settings:
		w.settings = (w.settings + 1) % len(explored)
	case lead:
		w.where = other(w.where)
	case look:
	case recheck, retry:
		w.again(m.kind, &e)
	case step:
		w.step(m.how, &e)
	case pass:
		w.now = w.now.Add(tick)
	case moment:
		p := r.Publication
		if e.applies = p != nil && w.pause(&p.Attempts) > 1; e.applies {
			p.LastAt = p.LastAt.Add(-recheckAgain)
		}
	case clockBack:
		w.setBack(&e)
	}
	if len(r.Keys) == 0 {
		w.ring = Ring{} // the engine deletes the stored entry
	}
	return e
}

func (w *world) add(k *Key, e *event) {
	e.first = len(w.ring.Keys) == 0
	in, isNew, err := w.ring.Add(k, w.now)
	if isNew != (err == nil) || isNew != (in == k) {
		e.bad = fmt.Sprint("the ring has the new key already, and ", err)
	}
	if e.err = err; err != nil {
		return
	}
	if e.added = k.ID; e.first {
		e.activated = k.ID
	}
}

// touch makes a move that concerns the key at place m.key: a person's request, or an acceptance by
// Redox.
func (w *world) touch(m move, e *event) {
	k := w.ring.Keys[m.key]
	switch m.kind {
	case importKey:
		again := &Key{ID: k.ID, N: k.N, E: k.E}
		switch {
		case m.how == 0:
		case m.key < len(w.ring.Keys)-1: // the last key is enough, and shows that Add compares all
			e.applies = false
			return
		case m.how == 1:
			again.ID = "another"
		case m.how == 2:
			again.N = "another"
		}
		in, isNew, err := w.ring.Add(again, w.now)
		if e.err = err; isNew || (err == nil) != (in == k) {
			e.bad = "the same key was added"
		}
	case activate, force:
		was := k.State
		if m.kind == activate && was != Active {
			e.accepted, e.where = k.ID, w.where
			k.Accept(w.where)
		}
		if e.err = w.ring.Activate(k.ID, w.now); e.err == nil && was != Active {
			e.activated = k.ID
		}
	case remove, removeForced:
		if e.applies = m.kind == remove || k.State == Active; !e.applies {
			return // force would make no difference
		}
		if e.err = w.ring.Remove(k.ID, m.kind == removeForced); e.err == nil {
			e.removed = k.ID
		}
	case accepted:
		if e.applies = k.State != Pending; e.applies {
			e.accepted, e.where = k.ID, w.where
			if m.how == 1 {
				e.where = other(w.where)
			}
			k.Accept(e.where)
		}
	}
}

// rotate does what keys/rotate does.
func (w *world) rotate(e *event) {
	if w.ring.Pending() == nil {
		if w.add(w.newKey(), e); e.err != nil {
			return
		}
	}
	k, err := w.ring.Rotate()
	if e.err = err; err == nil {
		e.rotating = k.ID
		w.ring.Settle(w.policy(), w.now)
	}
}

// step does the next step of the worker. how is the outcome of a token request, or the place of a
// reply in replies.
func (w *world) step(how int, e *event) {
	r := &w.ring
	e.step = r.Next(w.policy(), w.now)
	switch e.step.Action {
	case Wait:
		e.applies = false
		return
	case Add:
		if e.applies = how == 0; !e.applies {
			return
		}
		w.add(w.newKey(), e)
		if k, err := r.Rotate(); e.err == nil && err == nil {
			e.rotating = k.ID
		} else {
			e.bad = fmt.Sprint("the rotation does not begin: ", e.err, err)
		}
	case Drop:
		if e.applies = how == 0; !e.applies {
			return
		}
		r.Drop(e.step.Key.ID)
		e.removed = e.step.Key.ID
	case Prove, Accept:
		if e.applies = how < outcomes; !e.applies {
			return
		}
		w.prove(how, e)
	case Publish:
		if e.applies = replies[how].applies(r); !e.applies {
			return
		}
		w.publish(&replies[how], e)
	}
	r.Settle(w.policy(), w.now)
}

// again calls Recheck or Retry, and checks what it returns.
func (w *world) again(why kind, e *event) {
	p := w.ring.Publication
	if e.applies = p != nil; !e.applies {
		return
	}
	planned, changed := !p.NextAt.IsZero(), false
	if why == recheck {
		changed = w.ring.Recheck(w.now)
	} else {
		changed = w.ring.Retry()
	}
	if changed != (planned && p.NextAt.IsZero()) {
		e.bad = fmt.Sprint(kindNames[why], " says that it changed the ring: ", changed)
	}
}

// setBack sets the clock back to before all stored times, and settles the world.
func (w *world) setBack(e *event) {
	w.now = w.now.Add(-1000 * tick)
	before := newWorld()
	w.copyTo(before)
	if changed := w.settle(); changed == sameRing(&before.ring, &w.ring) {
		e.bad = fmt.Sprint("setting the clock right says that it changed the ring: ", changed)
	}
}

func (w *world) prove(how int, e *event) {
	k := w.ring.Get(e.step.Key.ID)
	e.proved, e.outcome = k.ID, how
	switch how {
	case refuses:
		k.Proofs.Refused("no", w.now)
	case silent:
		k.Proofs.Unanswered("silence", w.now)
	case accepts:
		e.accepted, e.where = k.ID, w.where
		if k.State != Active {
			e.activated = k.ID
		}
		k.Accept(w.where)
		if err := w.ring.Activate(k.ID, w.now); err != nil {
			e.bad = err.Error()
		}
	}
}

func (w *world) publish(y *reply, e *event) {
	r := &w.ring
	e.published = y
	switch y.end {
	case readRefused:
		r.Publication.Refused("no", w.now)
		return
	case readSilent:
		r.Publication.Unanswered("silence", w.now)
		return
	}
	list := y.list(r)
	merged, added, changed, err := r.Merge(list)
	if err != nil {
		e.bad = err.Error()
		return
	}
	e.sent = added
	r.Sent(added)
	switch {
	case y.end == updateRefused && changed:
		r.Publication.Refused("no", w.now)
		return
	case y.end == updateSilent && changed:
		r.Publication.Unanswered("silence", w.now)
		return
	case y.end == stored && changed:
		list = merged
	}
	e.listed = list
	r.Listed(list, w.now)
}
