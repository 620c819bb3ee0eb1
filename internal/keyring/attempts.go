package keyring

import "time"

// Attempts is how something went so far that Redox may refuse.
type Attempts struct {
	LastAt   time.Time `json:"last_at,omitzero"`
	Failure  string    `json:"failure,omitzero"` // why the last one failed
	Refusals int       `json:"refusals,omitzero"`
	NextAt   time.Time `json:"next_at,omitzero"` // no other before
}

// The time between two attempts that Redox refuses doubles from the first
// value to the second. One that was not answered costs the first.
const (
	retryFirst = time.Minute
	retryLast  = time.Hour
)

// Refused notes that Redox refused, and why; the next attempt waits, longer
// each time.
func (a *Attempts) Refused(reason string, now time.Time) {
	wait := retryLast
	if a.Refusals < 6 {
		wait = retryFirst << a.Refusals
	}
	a.Refusals++
	a.note(reason, now, wait)
}

// Unanswered notes that an attempt failed without a word from Redox.
func (a *Attempts) Unanswered(reason string, now time.Time) { a.note(reason, now, retryFirst) }

func (a *Attempts) note(reason string, now time.Time, wait time.Duration) {
	a.LastAt, a.Failure, a.NextAt = now.UTC(), reason, now.UTC().Add(wait)
}

// settle mends the times that a clock which ran ahead has left behind.
func (a *Attempts) settle(now time.Time) (changed bool) {
	if a.LastAt.After(now) {
		a.LastAt, changed = now, true
	}
	if most := now.Add(retryLast); a.NextAt.After(most) {
		a.NextAt, changed = most, true
	}
	return changed
}
