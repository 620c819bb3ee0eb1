package redoxapi

import (
	"errors"
	"net/http"
	"testing"
	"time"
)

func TestMeasureSkew(t *testing.T) {
	now := time.Date(2026, 11, 26, 9, 0, 0, 500_000_000, time.UTC)
	for date, want := range map[string]Skew{
		"": {}, "yesterday": {},
		"Thu, 26 Nov 2026 08:00:00 GMT": {Known: true, Ahead: time.Hour},
		"Thu, 26 Nov 2026 09:00:01 GMT": {Known: true},
		"Thu, 26 Nov 2026 09:01:00 GMT": {Known: true, Ahead: -59 * time.Second},
	} {
		if got := measureSkew(http.Header{"Date": {date}}, now); got != want {
			t.Errorf("Date %q: %+v, want %+v", date, got, want)
		}
	}
}

func TestSkewString(t *testing.T) {
	for skew, want := range map[Skew]string{
		{}:                                     "the clock skew could not be measured",
		{Known: true, Ahead: 2 * time.Second}:  "the clocks agree",
		{Known: true, Ahead: -2 * time.Second}: "the clocks agree",
		{Known: true, Ahead: 3 * time.Second}:  "the clock here is ahead of Redox's by 3s (Redox allows 10s)",
		{Known: true, Ahead: -3 * time.Second}: "the clock here is behind Redox's by 3s",
	} {
		if got := skew.String(); got != want {
			t.Errorf("%+v: %s, want %s", skew, got, want)
		}
	}
}

// The clock skew is measured from the Date header of a token or an error, even if the clocks differ
// by years. Without a usable Date the skew is unknown.
func TestExchangeSkew(t *testing.T) {
	now := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	for date, want := range map[string]Skew{
		"Thu, 26 Nov 2026 08:59:00 GMT": {Known: true, Ahead: time.Minute},
		"Thu, 01 Jan 1970 00:00:00 GMT": {Known: true, Ahead: now.Sub(time.Unix(0, 0))},
		// The lowest time.Duration, in whole seconds.
		"Fri, 31 Dec 9999 23:59:59 GMT": {Known: true, Ahead: -1 << 63 / time.Second * time.Second},
		canary:                          {},
	} {
		for status, body := range map[string]string{"200 OK": `{"access_token":"t"}`, "400 X": `{"error":"e"}`} {
			s := newHostileServer(t, readRequest, reply("HTTP/1.1 "+status+"\r\nDate: "+date+"\r\n\r\n"+body))
			c, err := New(Options{MaxConns: 1, Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			token, err := withstand(t, c, s, s.http(), patient)
			var no *Error
			switch {
			case token != nil && token.Skew == want:
			case errors.As(err, &no) && no.Skew == want:
			default:
				t.Errorf("%s, Date %s: %+v, %#v", status, date, token, err)
			}
		}
	}
}
