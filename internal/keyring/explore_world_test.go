package keyring

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// tick is the unit of time of the exploration. The list is read again after two ticks. The pause
// after each of the first five refusals is shorter than one tick.
const tick = lookAgain / 2

// explored are the policies that the exploration uses.
var explored = []Policy{
	{Period: 2 * tick, Window: tick, RetireAfter: 2 * tick},
	{Period: 0, Window: 0, RetireAfter: 2 * tick},
}

// These are the greatest ages that count, in ticks. They are the longest Period, RetireAfter and
// Window in explored, so a greater age changes no result.
const (
	oldActive    = 2
	oldRetired   = 2
	oldPublished = 1
)

var (
	start = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ways  = []Publishing{Manual, JWKSURL, PlatformAPI}
)

// world is a stored ring, the config that it follows, and the time.
type world struct {
	ring     Ring
	way      int    // place in ways
	settings int    // place in explored
	where    string // the fingerprint of the config, and the argument of PublishTo
	now      time.Time
	made     int // number of keys that were made, for their IDs

	// The ring's parts are here, so that copying a world allocates nothing.
	keys    [MaxKeys + 1]Key
	pointer [MaxKeys + 1]*Key
	gone    [maxNoted + 8]Public
	record  Publication
}

const here, elsewhere = "here", "elsewhere"

// other returns elsewhere for here, and here for elsewhere.
func other(where string) string {
	if where == here {
		return elsewhere
	}
	return here
}

func newWorld() *world { return &world{where: here, now: start} }

func (w *world) policy() Policy {
	p := explored[w.settings]
	p.Publishing = ways[w.way]
	return p
}

// copyTo copies w into to.
func (w *world) copyTo(to *world) {
	to.way, to.settings, to.where, to.now, to.made = w.way, w.settings, w.where, w.now, w.made
	to.ring.Keys = to.pointer[:0]
	for i, k := range w.ring.Keys {
		to.keys[i] = *k
		to.ring.Keys = append(to.ring.Keys, &to.keys[i])
	}
	to.ring.Gone = append(to.gone[:0], w.ring.Gone...)
	to.ring.Publication = nil
	if w.ring.Publication != nil {
		to.record = *w.ring.Publication
		to.ring.Publication = &to.record
	}
}

// names are the IDs of keys. They are made once, to save time.
var names = func() (list [64]string) {
	for i := range list {
		list[i] = fmt.Sprint("k", i)
	}
	return list
}()

// newKey returns a key that is not in the ring.
func (w *world) newKey() *Key {
	name := names[w.made%len(names)]
	w.made++
	return &Key{ID: ID(name), N: "n-" + name, E: "AQAB", PKCS8: []byte(name), CreatedAt: w.now}
}

// settle does what the worker does with the ring before each step.
func (w *world) settle() (changed bool) {
	if len(w.ring.Keys) == 0 {
		return false
	}
	changed = w.ring.Settle(w.policy(), w.now)
	return w.ring.PublishTo(w.where) || changed
}

// code is a normalised world. Two worlds have the same code if they differ only in what
// decides nothing:
//
//   - Times. An age counts in whole ticks, and at most as oldActive, oldRetired or
//     oldPublished. A pause that has not ended counts as one tick or two. Times that
//     decide nothing are left out: CreatedAt, ReadAt, LastAt of Proofs, ActivatedAt of a
//     key that is not active, and RetiredAt of one that is not retiring. LastAt of the
//     publication counts while a recheck would come too early.
//   - Names. A key gets its ID by its place in the ring. The config leads "here", and
//     what was accepted or published with other settings is "elsewhere".
//   - Order. The retiring keys come first, then the active one and the pending one. The
//     retiring keys are sorted by where they were accepted, and then by age.
//   - Numbers. More refusals or deleted keys than the limits count as the limits. But
//     almostFull, maxNoted and more than maxNoted deleted keys are told apart.
//   - Texts, which keys of others are on Redox's list, and whether the active key was
//     proved to publish.
//
// TestExploreNormal shows that a world and its normal form lead to the same states. What
// is left out is checked after each move, before the outcome is normalised.
type code struct {
	keys  [MaxKeys]uint16
	world uint32
}

// limits are those of an exploration.
type limits struct {
	keys, gone, refusals int
	kept                 int  // number of further keys, which retired long ago and stay
	fullList             bool // the search also begins with maxNoted deleted keys, and with one less
}

// almostFull is the largest number of deleted keys with which manyGone returns no error.
const almostFull = maxNoted - 1

// age returns how many whole ticks ago t was, from 0 to old.
func (w *world) age(t time.Time, old uint16) uint16 {
	return min(uint16(max(w.now.Sub(t), 0)/tick), old)
}

// pause returns 0 if a.NextAt is zero, 1 if that time has come, 2 if it comes within a tick, and 3
// if later.
func (w *world) pause(a *Attempts) uint16 {
	switch {
	case a.NextAt.IsZero():
		return 0
	case !w.now.Before(a.NextAt):
		return 1
	case !w.now.Add(tick).Before(a.NextAt):
		return 2
	}
	return 3
}

// place returns 0 if where is empty, 1 if it is where the config leads, and 2 if it is elsewhere.
func (w *world) place(where string) uint16 {
	switch where {
	case "":
		return 0
	case w.where:
		return 1
	}
	return 2
}

func (w *world) encodeKey(k *Key, l limits) uint16 {
	var state, age, published, rotating uint16
	switch k.State {
	case Active:
		state, age = 1, w.age(k.ActivatedAt, oldActive)
	case Pending:
		state = 2
	default:
		age = oldRetired - w.age(k.RetiredAt, oldRetired) // so that the oldest comes first
	}
	if !k.PublishedAt.IsZero() {
		published = 1 + w.age(k.PublishedAt, oldPublished)
	}
	if k.Rotating {
		rotating = 1
	}
	refusals := uint16(min(k.Proofs.Refusals, l.refusals))
	return state<<11 | w.place(k.Accepted)<<9 | age<<7 | rotating<<6 | published<<4 | w.pause(&k.Proofs)<<2 | refusals
}

// encode returns the world's code.
func (w *world) encode(l limits) (c code) {
	keys := w.ring.Keys[min(l.kept, len(w.ring.Keys)):]
	n := len(keys)
	for i, k := range keys {
		c.keys[i] = w.encodeKey(k, l)
	}
	slices.Sort(c.keys[:n])
	publication := uint32(0)
	if p := w.ring.Publication; p != nil {
		next := uint32(w.pause(&p.Attempts))
		failed, early := uint32(0), uint32(0)
		if next != 0 && p.Failure != "" {
			failed = 1
		}
		if next > 1 && failed == 0 && w.now.Before(p.LastAt.Add(recheckAgain)) {
			early = 1
		}
		refusals := uint32(min(p.Refusals, l.refusals))
		publication = 1 | next<<1 | failed<<3 | early<<4 | refusals<<5 | uint32(w.place(p.To))<<7
	}
	gone := uint32(min(len(w.ring.Gone), l.gone))
	if many := len(w.ring.Gone) - almostFull; many >= 0 {
		gone = uint32(4 + min(many, 2))
	}
	c.world = uint32(n) | uint32(w.way)<<4 | uint32(w.settings)<<6 | gone<<8 | publication<<11
	return c
}

// at returns the time that is that many ticks ago.
func (w *world) at(age uint16) time.Time { return w.now.Add(-time.Duration(age) * tick) }

// next returns a NextAt for which pause returns this number.
func (w *world) next(pause uint16) time.Time {
	return [...]time.Time{{}, w.now, w.now.Add(tick), w.now.Add(2 * tick)}[pause]
}

var places = [...]string{"", here, elsewhere}

// decode makes w the world with that code.
func (w *world) decode(c code, l limits) {
	n := l.kept + int(c.world&15)
	w.way, w.settings, w.where, w.now, w.made = int(c.world>>4&3), int(c.world>>6&3), here, start, n
	w.ring.Keys = w.pointer[:0]
	for i := range n {
		k := &w.keys[i]
		*k = Key{ID: ID(names[i]), N: moduli[i], E: "AQAB", PKCS8: privates[i], CreatedAt: start.Add(-tick)}
		if i < l.kept {
			k.State, k.RetiredAt = Retiring, w.at(oldRetired)
		} else {
			w.decodeKey(k, c.keys[i-l.kept])
		}
		w.ring.Keys = append(w.ring.Keys, k)
	}
	w.ring.Gone = w.gone[:0]
	gone := c.world >> 8 & 7
	if gone >= 4 {
		gone += almostFull - 4
	}
	for i := range gone {
		w.ring.Gone = append(w.ring.Gone, deleted[i])
	}
	w.ring.Publication = nil
	if bits := c.world >> 11; bits&1 == 1 {
		w.record = Publication{To: places[bits>>7&3]}
		w.ring.Publication = &w.record
		next := bits >> 1 & 3
		w.record.Attempts = Attempts{NextAt: w.next(uint16(next)), Refusals: int(bits >> 5 & 3)}
		if bits>>3&1 == 1 {
			w.record.Failure = "no"
		}
		switch {
		case bits>>4&1 == 1:
			w.record.LastAt = w.now
		case next != 0:
			w.record.LastAt = w.now.Add(-recheckAgain)
		}
	}
}

func (w *world) decodeKey(k *Key, bits uint16) {
	k.Accepted, k.Rotating = places[bits>>9&3], bits>>6&1 == 1
	age := bits >> 7 & 3
	switch bits >> 11 {
	case 0:
		k.State, k.RetiredAt = Retiring, w.at(oldRetired-age)
	case 1:
		k.State, k.ActivatedAt = Active, w.at(age)
	default:
		k.State = Pending
	}
	if published := bits >> 4 & 3; published > 0 {
		k.PublishedAt = w.at(published - 1)
	}
	k.Proofs = Attempts{NextAt: w.next(bits >> 2 & 3), Refusals: int(bits & 3)}
	if k.Proofs.Refusals > 0 {
		k.Proofs.LastAt, k.Proofs.Failure = w.now, "no"
	}
}

var (
	moduli   [MaxKeys]string
	privates [MaxKeys][]byte
	deleted  [maxNoted + 8]Public
)

func init() {
	for i := range moduli {
		moduli[i], privates[i] = "n-"+names[i], []byte(names[i])
	}
	for i := range deleted {
		name := fmt.Sprint("g", i)
		deleted[i] = Public{ID: ID(name), N: "n-" + name, E: "AQAB"}
	}
}

// String describes the world for a person who reads how a rule was broken.
func (w *world) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, settings %d", ways[w.way], w.settings)
	when := func(name string, t time.Time) {
		if !t.IsZero() {
			fmt.Fprintf(&text, " %s %v", name, t.Sub(w.now))
		}
	}
	for _, k := range w.ring.Keys {
		fmt.Fprintf(&text, "; %s %s", k.ID, k.State)
		if k.Rotating {
			text.WriteString(" rotating")
		}
		if at := w.place(k.Accepted); at > 0 {
			text.WriteString(" accepted " + places[at])
		}
		when("published", k.PublishedAt)
		when("activated", k.ActivatedAt)
		when("retired", k.RetiredAt)
		when("proof", k.Proofs.NextAt)
		fmt.Fprintf(&text, " refusals %d", k.Proofs.Refusals)
	}
	if len(w.ring.Gone) > 0 {
		fmt.Fprintf(&text, "; %d gone", len(w.ring.Gone))
	}
	if p := w.ring.Publication; p != nil {
		fmt.Fprintf(&text, "; publication to %q, refusals %d, failure %q", places[w.place(p.To)], p.Refusals, p.Failure)
		when("last", p.LastAt)
		when("next", p.NextAt)
	}
	return text.String()
}

// raw returns a key as Redox lists it.
func raw(p Public) json.RawMessage {
	return json.RawMessage(`{"kid":"` + string(p.ID) + `","n":"` + p.N + `","e":"` + p.E + `"}`)
}

// sameKey reports whether two keys are equal, Bits aside.
func sameKey(a, b *Key) bool {
	return a.ID == b.ID && a.State == b.State && a.Origin == b.Origin && a.CreatedAt.Equal(b.CreatedAt) &&
		a.ActivatedAt.Equal(b.ActivatedAt) && a.RetiredAt.Equal(b.RetiredAt) && a.Accepted == b.Accepted &&
		a.Rotating == b.Rotating && a.PublishedAt.Equal(b.PublishedAt) && a.Proofs == b.Proofs && a.N == b.N &&
		a.E == b.E && cmp.Compare(string(a.PKCS8), string(b.PKCS8)) == 0
}

// sameRing reports whether two rings are equal.
func sameRing(a, b *Ring) bool {
	if (a.Publication == nil) != (b.Publication == nil) {
		return false
	}
	if p, q := a.Publication, b.Publication; p != nil && (p.Attempts != q.Attempts || p.To != q.To ||
		p.Proved != q.Proved || !p.ReadAt.Equal(q.ReadAt) || !slices.Equal(p.Foreign, q.Foreign)) {
		return false
	}
	return slices.EqualFunc(a.Keys, b.Keys, sameKey) && slices.Equal(a.Gone, b.Gone)
}
