package keyring

import "time"

// Attempts records the worker's last attempt to prove a key, or to bring Redox's list of keys up to
// date.
type Attempts struct {
	LastAt   time.Time `json:"last_at,omitzero"`
	Failure  string    `json:"failure,omitzero"` // why the last one failed; empty if it did not
	Refusals int       `json:"refusals,omitzero"`
	NextAt   time.Time `json:"next_at,omitzero"` // the worker makes no attempt before this time
}

// The pause after the first Refused is retryFirst, and each further Refused doubles it, up to
// retryLast. The pause after Unanswered is retryFirst.
const (
	retryFirst = time.Minute
	retryLast  = time.Hour
)

// Refused records that an attempt failed, and why, if somebody may have to act before the next can
// succeed: for example, Redox refused.
func (a *Attempts) Refused(reason string, now time.Time) {
	wait := retryLast
	if a.Refusals < 6 {
		wait = retryFirst << a.Refusals
	}
	a.Refusals++
	a.note(reason, now, wait)
}

// Unanswered records that an attempt failed, and why, if the next should come soon: for example,
// Redox did not answer.
func (a *Attempts) Unanswered(reason string, now time.Time) { a.note(reason, now, retryFirst) }

func (a *Attempts) note(reason string, now time.Time, wait time.Duration) {
	a.LastAt, a.Failure, a.NextAt = now.UTC(), reason, now.UTC().Add(wait)
}

// settle corrects times that were stored while the clock ran ahead: LastAt becomes at most now, and
// NextAt at most now plus retryLast. It reports whether it changed a.
func (a *Attempts) settle(now time.Time) (changed bool) {
	if a.LastAt.After(now) {
		a.LastAt, changed = now, true
	}
	if most := now.Add(retryLast); a.NextAt.After(most) {
		a.NextAt, changed = most, true
	}
	return changed
}
