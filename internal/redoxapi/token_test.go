package redoxapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// Exchange sends the request that Redox documents.
func TestExchangeRequest(t *testing.T) {
	for _, scope := range []string{"", "system/*.read x"} {
		want := url.Values{
			"grant_type": {"client_credentials"}, "client_assertion": {"a.b+/=.c"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}
		if scope != "" {
			want.Set("scope", scope)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			raw, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			form, err := url.ParseQuery(string(raw))
			if diff := cmp.Diff(want, form); diff != "" || err != nil {
				t.Errorf("form (-want +got), %v:\n%s", err, diff)
			}
			for name, value := range map[string]string{
				"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json",
				"User-Agent": "vault-plugin-secrets-redox/1.2.3",
			} {
				if r.Header.Get(name) != value {
					t.Errorf("%s: %s, want %s", name, r.Header.Get(name), value)
				}
			}
			if r.Method != http.MethodPost || r.ContentLength != int64(len(raw)) || r.Header.Get("Authorization") != "" ||
				r.ProtoMajor != 1 {
				t.Errorf("%s, length %d, %s", r.Method, r.ContentLength, r.Proto)
			}
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"bearer","expires_in":60,"scope":"granted"}`)
		}))
		got, err := newClient(t, "").Exchange(t.Context(), server.URL, "a.b+/=.c", scope)
		server.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got.Value != "t" || got.Lifetime != time.Minute || got.Assumed || got.Scope != "granted" || !got.Skew.Known {
			t.Errorf("got %+v", got)
		}
	}
}

func TestExchangeURL(t *testing.T) {
	_, err := newClient(t, "").Exchange(t.Context(), "http://[::1", assertion, "")
	checkError(t, err, Unreachable, "the token URL cannot be requested")
}

// redact removes the parts of the assertion that have at least 32 characters. It does not remove
// the header, which is not secret.
func TestRedact(t *testing.T) {
	header, short, long := strings.Repeat("h", 40), strings.Repeat("s", 31), strings.Repeat("l", 32)
	text := header + " " + short + " " + long + " " + long
	got, echoed := redact([]byte(text), header+"."+short+"."+long)
	if want := header + " " + short + " [removed] [removed]"; string(got) != want || !echoed {
		t.Errorf("%s, %v; want %s", got, echoed, want)
	}
	if got, echoed := redact([]byte(text), header+"."+short+"."+short); string(got) != text || echoed {
		t.Errorf("%s, %v", got, echoed)
	}
}

// The life of a token is counted from the request, and its margin is computed from
// its life.
func TestTokenLeft(t *testing.T) {
	now := time.Now()
	token := &Token{Lifetime: 5 * time.Minute, RequestedAt: now}
	for passed, want := range map[time.Duration]time.Duration{
		0: 5 * time.Minute, time.Minute: 4 * time.Minute, 6 * time.Minute: -time.Minute,
	} {
		if left := token.Left(now.Add(passed)); left != want {
			t.Errorf("after %v: %v, want %v", passed, left, want)
		}
	}
	for life, want := range map[time.Duration]time.Duration{
		time.Hour: time.Minute, 5 * time.Minute: time.Minute, 4 * time.Minute: 48 * time.Second, time.Second: time.Second / 5,
	} {
		if got := (&Token{Lifetime: life}).Margin(); got != want {
			t.Errorf("life %v: margin %v, want %v", life, got, want)
		}
	}
}

// Left uses the clock that shows less time left.
func TestTokenLeftAfterASuspension(t *testing.T) {
	const gone = 7 * time.Minute
	now := time.Now()
	token := &Token{Lifetime: 5 * time.Minute, RequestedAt: now}
	suspended := now
	// This changes only the seconds of the wall clock in time.Time.
	*(*uint64)(unsafe.Pointer(&suspended)) += uint64(gone/time.Second) << 30
	if suspended.Sub(now) != 0 || suspended.Round(0).Sub(now.Round(0)) != gone {
		t.Fatal("time.Time is not made as this test believes")
	}
	setBack := now.Add(gone)
	*(*uint64)(unsafe.Pointer(&setBack)) -= uint64(gone/time.Second) << 30
	for name, at := range map[string]time.Time{"suspended": suspended, "set back": setBack} {
		if left := token.Left(at); left != -2*time.Minute {
			t.Errorf("%s: %v left", name, left)
		}
	}
}
