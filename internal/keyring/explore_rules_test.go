package keyring

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// expect changes w, which is the world before the move, into what the move must make of it.
func (w *world) expect(e *event) {
	r := &w.ring
	if e.err != nil {
		return
	}
	switch e.kind {
	case publishing:
		w.way = e.key
	case settings:
		w.settings = (w.settings + 1) % len(explored)
	case lead:
		w.where = other(w.where)
	case pass:
		w.now = w.now.Add(tick)
	case moment:
		r.Publication.LastAt = r.Publication.LastAt.Add(-recheckAgain)
	case clockBack:
		w.now = w.now.Add(-1000 * tick)
		w.expectSettled()
	case recheck:
		p := r.Publication
		if p != nil && p.Failure == "" && !w.now.Before(p.LastAt.Add(recheckAgain)) {
			p.NextAt = time.Time{}
		}
	case retry:
		if p := r.Publication; p != nil && p.Failure != "" {
			p.NextAt = time.Time{}
		}
	}
	for _, k := range r.Keys {
		w.expectKey(k, e)
	}
	if e.removed != "" {
		w.expectRemoved(e.removed)
	}
	if e.added != "" {
		w.expectAdded(e)
	}
	if e.published != nil {
		w.expectPublished(e)
	}
	if e.kind == rotate || e.kind == step {
		w.expectOnTime()
	}
	if len(r.Keys) == 0 {
		w.ring = Ring{}
	}
}

// expectKey changes k, which was in the ring before the move, to what the move must make of it.
func (w *world) expectKey(k *Key, e *event) {
	if e.accepted == k.ID {
		if k.Accepted == "" { // the first acceptance stays
			k.Accepted = e.where
		}
		if k.State == Active {
			k.Proofs = Attempts{}
		}
	}
	if e.proved == k.ID && e.outcome != accepts {
		w.expectFailed(&k.Proofs, e.outcome == refuses)
	}
	if e.rotating == k.ID {
		k.Rotating = true
	}
	switch {
	case e.activated == "":
	case e.activated == k.ID:
		k.State, k.ActivatedAt, k.RetiredAt = Active, w.now, time.Time{}
		k.Rotating, k.PublishedAt, k.Proofs = false, time.Time{}, Attempts{}
	case k.State == Active:
		k.State, k.RetiredAt, k.Proofs = Retiring, w.now, Attempts{}
	}
}

// expectFailed changes a to what it must be after a failed attempt.
func (w *world) expectFailed(a *Attempts, refused bool) {
	pause := time.Minute
	if refused {
		for range min(a.Refusals, 6) {
			pause *= 2
		}
		a.Refusals++
	}
	*a = Attempts{LastAt: w.now, Failure: "any", Refusals: a.Refusals, NextAt: w.now.Add(min(pause, time.Hour))}
}

func (w *world) expectRemoved(id ID) {
	r := &w.ring
	k := r.Keys[slices.IndexFunc(r.Keys, func(k *Key) bool { return k.ID == id })]
	r.Keys = slices.DeleteFunc(r.Keys, func(k *Key) bool { return k.ID == id })
	if r.Publication != nil {
		r.Gone, r.Publication.NextAt = append(r.Gone, k.public()), time.Time{}
	}
}

func (w *world) expectAdded(e *event) {
	r := &w.ring
	name := names[w.made%len(names)]
	w.made++
	k := &Key{ID: e.added, State: Pending, N: "n-" + name, E: "AQAB", PKCS8: []byte(name), CreatedAt: w.now}
	if e.kind == addBack {
		k.N = r.Gone[0].N
		r.Gone = slices.Delete(r.Gone, 0, 1)
	}
	if e.first {
		k.State, k.ActivatedAt, k.Proofs.NextAt = Active, w.now, w.now
	}
	k.Rotating = e.rotating == k.ID
	r.Keys = append(r.Keys, k)
	if r.Publication != nil {
		r.Publication.NextAt = time.Time{}
	}
}

// expectPublished changes w.ring to what it must be after the engine tried to publish.
func (w *world) expectPublished(e *event) {
	r, p, y := &w.ring, w.ring.Publication, e.published
	pending := r.only(Pending)
	if e.listed == nil {
		if y.end == updateRefused || y.end == updateSilent {
			if pending != nil && !y.pending {
				pending.PublishedAt = time.Time{}
			}
		}
		w.expectFailed(&p.Attempts, y.end == readRefused || y.end == updateRefused)
		return
	}
	complete := y.end == stored
	if pending != nil && !y.pending {
		pending.PublishedAt = time.Time{} // it was missing, and is sent
	}
	if pending != nil && (complete || y.pending) && pending.PublishedAt.IsZero() {
		pending.PublishedAt = w.now
	}
	switch {
	case complete || y.gone == noGone:
		r.Gone = r.Gone[:0]
	case y.gone == firstGone:
		r.Gone = r.Gone[:1]
	}
	p.Foreign = []ID{foreign.ID}
	switch {
	case !complete && (!y.first || pending != nil && !y.pending):
		w.expectFailed(&p.Attempts, false)
	case len(r.Gone) > 0:
		w.expectFailed(&p.Attempts, true)
	default:
		p.ReadAt, p.Attempts = w.now, Attempts{LastAt: w.now, NextAt: w.now.Add(time.Hour)}
	}
}

// expectSettled changes w.ring to what a look of the worker must make of it.
func (w *world) expectSettled() {
	r := &w.ring
	if len(r.Keys) == 0 {
		return
	}
	w.expectOnTime()
	if p := r.Publication; p != nil && p.To != w.where {
		r.Publication = &Publication{To: w.where}
		if k := r.only(Pending); k != nil {
			k.PublishedAt = time.Time{}
		}
	}
}

// expectOnTime changes w.ring to what Settle must make of it.
func (w *world) expectOnTime() {
	r, way := &w.ring, ways[w.way]
	k := r.only(Pending)
	if k == nil {
		k = &Key{}
	}
	switch {
	case r.Publication == nil && way == PlatformAPI:
		r.Publication, k.PublishedAt = &Publication{}, time.Time{}
	case r.Publication != nil && way != PlatformAPI:
		r.Publication, k.PublishedAt = nil, time.Time{}
	}
	switch {
	case way == Manual:
		k.PublishedAt = time.Time{}
	case way == JWKSURL && k.PublishedAt.IsZero():
		k.PublishedAt = w.now
	}
	for _, k := range r.Keys {
		for _, t := range []*time.Time{&k.CreatedAt, &k.PublishedAt, &k.ActivatedAt, &k.RetiredAt, &k.Proofs.LastAt} {
			w.notLater(t, 0)
		}
		w.notLater(&k.Proofs.NextAt, time.Hour)
	}
	if p := r.Publication; p != nil {
		w.notLater(&p.ReadAt, 0)
		w.notLater(&p.LastAt, 0)
		w.notLater(&p.NextAt, time.Hour)
	}
}

func (w *world) notLater(t *time.Time, than time.Duration) {
	if most := w.now.Add(than); t.After(most) {
		*t = most
	}
}

// only returns the key in the given state, nil if there is none. It panics if there are several.
func (r *Ring) only(state State) (found *Key) {
	for _, k := range r.Keys {
		if k.State == state {
			if found != nil {
				panic("two keys are " + state)
			}
			found = k
		}
	}
	return found
}

// differs describes want if the ring of w is not that of want, else it returns "". The texts of
// failures may differ: differs first copies those of w to want.
func (w *world) differs(want *world) string {
	fit := func(want, got *Attempts) {
		if want.Failure != "" && got.Failure != "" {
			want.Failure = got.Failure
		}
	}
	for i, k := range w.ring.Keys {
		if i < len(want.ring.Keys) {
			fit(&want.ring.Keys[i].Proofs, &k.Proofs)
		}
	}
	if p, q := want.ring.Publication, w.ring.Publication; p != nil && q != nil {
		fit(&p.Attempts, &q.Attempts)
	}
	if sameRing(&want.ring, &w.ring) {
		return ""
	}
	return fmt.Sprintf("expected %s", want)
}

// refusal reports whether a person's request must be refused.
func (w *world) refusal(m move) bool {
	r := &w.ring
	pending := r.only(Pending)
	listFull := r.Publication != nil && len(r.Gone) >= maxNoted
	full := pending != nil || len(r.Keys) >= MaxKeys || listFull && len(r.Keys) > 0
	switch m.kind {
	case add, addBack:
		return full
	case rotate:
		return pending == nil && full || pending != nil && pending.Rotating
	case remove, removeForced:
		return r.Keys[m.key].State == Active && (len(r.Keys) > 1 || m.kind == remove) || listFull
	case importKey:
		return m.how > 0
	}
	return false
}

// wellFormed returns what is wrong with w.ring if it breaks a rule that holds for every ring, else
// "".
func (w *world) wellFormed() string {
	r := &w.ring
	count := map[State]int{}
	for i, k := range r.Keys {
		count[k.State]++
		for _, other := range r.Keys[:i] {
			if other.ID == k.ID || other.N == k.N {
				return "two keys have one ID or one number"
			}
		}
		switch {
		case k.State != Pending && (k.Rotating || !k.PublishedAt.IsZero()):
			return "a key that is not pending rotates or has a window"
		case k.State == Retiring && k.Proofs != Attempts{} || k.State == Active && k.Accepted != "" && k.Proofs != Attempts{}:
			return "a key that needs no proof has attempts"
		case k.State == Pending && k.Accepted != "":
			return "a pending key has an acceptance"
		}
	}
	switch {
	case count[Active] != min(1, len(r.Keys)):
		return fmt.Sprint(count[Active], " keys are active")
	case count[Pending] > 1:
		return fmt.Sprint(count[Pending], " keys are pending")
	case len(r.Keys) > MaxKeys:
		return "the ring is too large"
	}
	return ""
}

// replaced reports whether the engine must delete k: it has been retiring for RetireAfter, and the
// active key was accepted with the same settings as k.
func (w *world) replaced(k *Key) bool {
	active := w.ring.only(Active)
	return w.pastTime(k) && k.Accepted != "" && active.Accepted == k.Accepted
}

func (w *world) pastTime(k *Key) bool {
	return k.State == Retiring && w.now.Sub(k.RetiredAt) >= w.policy().RetireAfter
}

// overdue reports whether an automatic rotation is due.
func (w *world) overdue() bool {
	period, k := w.policy().Period, w.ring.only(Active)
	return k != nil && period > 0 && w.now.Sub(k.ActivatedAt) >= period
}

// depends reports whether another key depends on the acceptance of the active key: keys rotate
// automatically, or a key is retiring.
func (w *world) depends() bool {
	retires := func(k *Key) bool { return k.State == Retiring }
	return w.policy().Period > 0 || slices.ContainsFunc(w.ring.Keys, retires)
}

// due returns the steps other than Drop that the worker may make in the settled world w. The value
// is the key of the step, nil if the step has none.
func (w *world) due() map[Action]*Key {
	r, p := &w.ring, w.policy()
	steps := map[Action]*Key{}
	come := func(t time.Time) bool { return !w.now.Before(t) }
	if r.Publication != nil && come(r.Publication.NextAt) {
		steps[Publish] = nil
	}
	active, pending := r.only(Active), r.only(Pending)
	needed := !active.Proofs.NextAt.IsZero() || w.depends()
	if active.Accepted == "" && needed && come(active.Proofs.NextAt) {
		steps[Accept] = active
	}
	switch {
	case pending == nil && w.overdue() && !w.refusal(move{kind: add}):
		steps[Add] = nil
	case pending != nil && (pending.Rotating || w.overdue()) && come(pending.Proofs.NextAt):
		published := !pending.PublishedAt.IsZero() && come(pending.PublishedAt.Add(p.Window))
		if published || p.Publishing == Manual {
			steps[Prove] = pending
		}
	}
	return steps
}

// wrongStep says why s may not be the next step of the settled world w. It returns "" if s may be.
func (w *world) wrongStep(s Step) string {
	if slices.ContainsFunc(w.ring.Keys, w.replaced) != (s.Action == Drop) {
		return "a key past its time waits for something else, or another would be lost"
	}
	due := w.due()
	key, may := due[s.Action]
	switch {
	case s.Action == Drop && w.replaced(s.Key):
		return ""
	case s.Action == Wait && len(due) == 0:
		return w.wrongWait(s.At)
	case s.Action == Wait:
		return fmt.Sprintf("the worker waits, and may %v", slices.Sorted(maps.Keys(due)))
	case !may || key != s.Key:
		return fmt.Sprintf("it is too early for step %s, or it is with another key", s.Action)
	}
	return ""
}

// wrongWait says why the worker may not wait until that time, or without end if it is zero: the time
// has come, a step is due before, or a later wait is for a time that has come. It returns "" if the
// worker may.
func (w *world) wrongWait(until time.Time) string {
	if !until.IsZero() && !until.After(w.now) {
		return "the worker waits for a time that has come"
	}
	for ticks := range oldActive + 1 {
		at := w.now.Add(time.Duration(ticks) * tick)
		s := w.ring.Next(w.policy(), at)
		switch {
		case (until.IsZero() || at.Before(until)) && s.Action != Wait:
			return fmt.Sprintf("the worker sleeps until %v, and in %d ticks it must %s", until.Sub(w.now), ticks, s.Action)
		case !at.Before(until) && s.Action == Wait && !s.At.IsZero() && !s.At.After(at):
			return "the worker waits for a time that has come by then"
		}
	}
	return ""
}

// wrongReport says what is wrong in the results of the methods that only report on the ring. It
// returns "" if nothing is.
func (w *world) wrongReport() string {
	r, p := &w.ring, w.policy()
	active, pending := r.only(Active), r.only(Pending)
	if r.Active() != active || r.Pending() != pending {
		return "another key is active or pending"
	}
	var due time.Time
	if p.Period > 0 && active != nil {
		due = active.ActivatedAt.Add(p.Period)
	}
	if !r.Due(p).Equal(due) || w.overdue() && r.Due(p).After(w.now) {
		return fmt.Sprint("the next rotation is said to begin at ", r.Due(p))
	}
	for _, where := range places[1:] {
		newest := r.NewestAccepted(where)
		for _, k := range r.Keys {
			if k.State == Retiring && k.Accepted == where && (newest == nil || newest.RetiredAt.Before(k.RetiredAt)) {
				return fmt.Sprint("the newest key accepted ", where, " is said to be ", newest)
			}
		}
		if newest != nil && (newest.State != Retiring || newest.Accepted != where) {
			return "the newest accepted key is none"
		}
	}
	kept := r.Kept(p, w.now)
	for _, k := range r.Keys {
		if slices.Contains(kept, k) != (w.pastTime(k) && !w.replaced(k)) {
			return fmt.Sprintf("it is said wrongly whether %s is kept", k.ID)
		}
	}
	if refused := r.CanAdd() != nil; refused != w.refusal(move{kind: add}) {
		return fmt.Sprint("it is said that a key can be added: ", !refused)
	}
	if pending == nil {
		return ""
	}
	from, known := pending.Proofs.NextAt, p.Publishing == Manual || !pending.PublishedAt.IsZero()
	if window := pending.PublishedAt.Add(p.Window); p.Publishing != Manual && window.After(from) {
		from = window
	}
	if pending.Published(p) != known || !pending.ProvableFrom(p).Equal(from) {
		return "it is said wrongly when the pending key can be proved"
	}
	return ""
}

// wrongKeys makes calls that must be refused or do nothing, most of them with a key that the ring
// does not have. It says which was not refused, or returns "". The caller checks that the ring has
// not changed.
func (w *world) wrongKeys() string {
	r := &w.ring
	const none = ID("none")
	if r.Get(none) != nil || r.Activate(none, w.now) == nil || r.Remove(none, true) == nil {
		return "there is a key that nobody added"
	}
	r.Drop(none)
	for _, k := range []*Key{r.only(Active), r.only(Pending)} {
		if k != nil {
			r.Drop(k.ID)
		}
	}
	r.Sent([]ID{none})
	if r.Publication == nil && (r.Recheck(w.now) || r.Retry()) {
		return "a list is read that nobody keeps"
	}
	return ""
}

// sameUpdate reports whether two rings need the same update of the same list.
func sameUpdate(a, b *Ring) bool {
	public := func(k, other *Key) bool { return k.ID == other.ID && k.N == other.N }
	return a.Publication.To == b.Publication.To && slices.EqualFunc(a.Keys, b.Keys, public) && slices.Equal(a.Gone, b.Gone)
}

// wrongSame says what is wrong in the result of Step.Same for two steps: decided, which is the next
// step of the world w, and the next step of the world now. Both worlds are settled. It returns "" if
// nothing is wrong.
func (w *world) wrongSame(decided Step, now *world) string {
	s := now.ring.Next(now.policy(), now.now)
	same := decided.Action == s.Action
	switch {
	case !same:
	case decided.Key != nil:
		same = decided.Key.ID == s.Key.ID && decided.Key.N == s.Key.N
	case decided.Action == Publish:
		same = sameUpdate(&w.ring, &now.ring)
	}
	if decided.Action != Wait && decided.Same(s) != same {
		return fmt.Sprintf("step %s counts as the same step: %v", decided.Action, !same)
	}
	return ""
}

// behind says what the engine still has to do in w. It returns "" if that is nothing.
func (w *world) behind() string {
	r, p := &w.ring, w.policy()
	if len(r.Keys) == 0 {
		return ""
	}
	pending, record := r.only(Pending), r.Publication
	switch {
	case slices.ContainsFunc(r.Keys, w.replaced):
		return "a key is past its time"
	case w.overdue() && (pending != nil || len(r.Keys) < MaxKeys):
		return "a rotation is overdue"
	case pending != nil && pending.Rotating:
		return "a rotation is under way"
	case r.only(Active).Accepted == "" && w.depends():
		return "nobody knows whether Redox accepts the active key"
	case pending != nil && p.Publishing != Manual && pending.PublishedAt.IsZero():
		return "the pending key is not published"
	case (record != nil) != (p.Publishing == PlatformAPI):
		return "the way to publish changed"
	case record == nil:
		return ""
	case record.To != w.where || record.Failure != "" || record.NextAt.IsZero():
		return "Redox's list is not up to date"
	case len(r.Gone) > 0:
		return "Redox lists deleted keys"
	}
	return ""
}
