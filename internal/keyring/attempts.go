package keyring

import "time"

// Attempts records attempts that Redox may refuse: to prove a key, or to update the list
// of keys at Redox.
type Attempts struct {
	LastAt   time.Time `json:"last_at,omitzero"`
	Failure  string    `json:"failure,omitzero"` // why the last one failed
	Refusals int       `json:"refusals,omitzero"`
	NextAt   time.Time `json:"next_at,omitzero"` // no attempt before this time
}

// The pause after a refusal is retryFirst, and it doubles with each further refusal
// up to retryLast. The pause after an attempt without an answer is retryFirst.
const (
	retryFirst = time.Minute
	retryLast  = time.Hour
)

// Refused records that Redox refused, and why. Each refusal makes the pause before the
// next attempt longer, up to retryLast.
func (a *Attempts) Refused(reason string, now time.Time) {
	wait := retryLast
	if a.Refusals < 6 {
		wait = retryFirst << a.Refusals
	}
	a.Refusals++
	a.note(reason, now, wait)
}

// Unanswered records that an attempt failed without a refusal by Redox.
func (a *Attempts) Unanswered(reason string, now time.Time) { a.note(reason, now, retryFirst) }

func (a *Attempts) note(reason string, now time.Time, wait time.Duration) {
	a.LastAt, a.Failure, a.NextAt = now.UTC(), reason, now.UTC().Add(wait)
}

// settle corrects times that were stored while the clock ran ahead. LastAt becomes at most
// now, and NextAt at most now plus retryLast. settle reports whether it changed a.
func (a *Attempts) settle(now time.Time) (changed bool) {
	if a.LastAt.After(now) {
		a.LastAt, changed = now, true
	}
	if most := now.Add(retryLast); a.NextAt.After(most) {
		a.NextAt, changed = most, true
	}
	return changed
}
