package redoxapi

import (
	"net/http"
	"time"
)

// Skew is how far the local clock is ahead of the server's, computed from the Date
// header of an answer. The header has only whole seconds, and the answer takes time
// to arrive. So a skew of two seconds or less means nothing.
type Skew struct {
	Known bool // false if the answer had no usable Date header
	Ahead time.Duration
}

// Off reports whether the measured skew, cut to whole seconds, is more than two seconds, ahead or
// behind.
func (s Skew) Off() bool { return s.Known && s.Ahead.Abs() > 2*time.Second }

// String returns the skew as a sentence.
func (s Skew) String() string {
	switch {
	case !s.Known:
		return "the clock skew could not be measured"
	case !s.Off():
		return "the clocks agree"
	case s.Ahead < 0:
		return "the clock here is behind Redox's by " + s.Ahead.Abs().String()
	}
	return "the clock here is ahead of Redox's by " + s.Ahead.String() + " (Redox allows 10s)"
}

func measureSkew(h http.Header, now time.Time) Skew {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return Skew{}
	}
	return Skew{Known: true, Ahead: now.Sub(date).Truncate(time.Second)}
}
