package redoxtest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Fault names a way in which the token endpoint or the Platform API fails, or is slow.
type Fault string

// The faults.
const (
	FaultTooMany       Fault = "429"
	FaultUnavailable   Fault = "503"
	FaultBadGateway    Fault = "502"
	FaultHTML          Fault = "html"              // 200 with an HTML page
	FaultForbidden     Fault = "403-html"          // 403 with an HTML page, as from a firewall
	FaultTruncate      Fault = "truncate"          // closes the connection in the middle of the body
	FaultStall         Fault = "stall"             // never answers
	FaultSlow          Fault = "slow"              // answers after half a second
	FaultRedirect      Fault = "redirect"          // 307 to /redirected
	FaultNoToken       Fault = "no-token"          // 200 without access_token
	FaultStringExpires Fault = "string-expires_in" // "300" instead of 300
	FaultNoExpires     Fault = "no-expires_in"
	FaultEcho          Fault = "echo"    // an error response that quotes the assertion
	FaultBlank         Fault = "blank"   // an error response without a description
	FaultHuge          Fault = "huge"    // 64 MiB of blanks
	FaultReset         Fault = "reset"   // closes the connection without an answer
	FaultUnasked       Fault = "unasked" // 200, and the same response again, unsolicited
)

var faults = []Fault{
	FaultTooMany, FaultUnavailable, FaultBadGateway, FaultHTML, FaultForbidden, FaultTruncate, FaultStall, FaultSlow,
	FaultRedirect, FaultNoToken, FaultStringExpires, FaultNoExpires, FaultEcho, FaultBlank, FaultHuge,
	FaultReset, FaultUnasked,
}

// Faults returns all faults.
func Faults() []Fault { return slices.Clone(faults) }

// ParseFault returns the fault called name, or an error if there is none. The empty
// name means no fault.
func ParseFault(name string) (Fault, error) {
	if f := Fault(name); f == "" || slices.Contains(faults, f) {
		return f, nil
	}
	names := make([]string, len(faults))
	for i, f := range faults {
		names[i] = string(f)
	}
	return "", fmt.Errorf("there is no fault of that name; there are %s", strings.Join(names, ", "))
}

// endpoint names a part of the sandbox that can fail. Faults are set for each part.
type endpoint string

const (
	tokenEndpoint endpoint = "token"
	platformAPI   endpoint = "platform"
)

// scheduledFault is a fault. The next requests, as many as after says, do not get it. Then
// times requests get it, or all if times is negative.
type scheduledFault struct {
	fault Fault
	after int
	times int
}

// SetFault gives the fault f to the next token requests: to times of them, or to all if times
// is negative. If f is empty, none get a fault.
func (s *Sandbox) SetFault(f Fault, times int) { s.setFault(tokenEndpoint, f, 0, times) }

// SetPlatformFault gives the fault f to requests to the Platform API. The next requests, as
// many as after says, do not get it. Then times requests get it, or all if times is negative.
// Requests without a valid token do not count.
func (s *Sandbox) SetPlatformFault(f Fault, after, times int) {
	s.setFault(platformAPI, f, after, times)
}

func (s *Sandbox) setFault(at endpoint, f Fault, after, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == "" {
		times = 0
	}
	*s.faults[at] = scheduledFault{f, after, times}
}

// FaultsLeft returns how many more token requests get the fault. Negative means all.
func (s *Sandbox) FaultsLeft() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults[tokenEndpoint].times
}

// nextFault returns the fault for the next request, empty for none, and counts the
// request.
func (s *Sandbox) nextFault(at endpoint) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.faults[at]
	if o.after > 0 {
		o.after--
		return ""
	}
	if o.times == 0 {
		return ""
	}
	if o.times > 0 {
		o.times--
	}
	return o.fault
}

// serveFault serves the next fault, if there is one, and reports whether that ended the
// request. After FaultSlow it returns false: the request was only delayed.
func (s *Sandbox) serveFault(at endpoint, w http.ResponseWriter, r *http.Request) (answered bool) {
	f := s.nextFault(at)
	if f == "" {
		return false
	}
	s.log("%s %s fault %s", r.Method, r.URL.Path, f)
	if f == FaultSlow {
		s.wait(r, 500*time.Millisecond)
		return false
	}
	if at == tokenEndpoint {
		// Record the assertion: it was received, whatever the answer is.
		if err := r.ParseForm(); err == nil {
			s.mu.Lock()
			s.assertions = append(s.assertions, r.PostForm.Get("client_assertion"))
			s.mu.Unlock()
		}
	}
	s.fail(w, r, f)
	return true
}

func (s *Sandbox) fail(w http.ResponseWriter, r *http.Request, f Fault) {
	const page = "<html><body>Sorry.</body></html>"
	switch f {
	case FaultTooMany:
		w.Header().Set("X-RateLimit-Limit", "7500")
		http.Error(w, "Too Many Requests", http.StatusTooManyRequests)
	case FaultUnavailable:
		http.Error(w, "Service Unavailable", http.StatusServiceUnavailable)
	case FaultBadGateway:
		http.Error(w, page, http.StatusBadGateway)
	case FaultHTML:
		send(w, http.StatusOK, "text/html", page)
	case FaultForbidden:
		send(w, http.StatusForbidden, "text/html", page)
	case FaultTruncate:
		w.Header().Set("Content-Length", "1000")
		send(w, http.StatusOK, "application/json", `{"access_token":"cut`)
	case FaultStall:
		s.wait(r, time.Hour)
		panic(http.ErrAbortHandler)
	case FaultRedirect:
		http.Redirect(w, r, "/redirected", http.StatusTemporaryRedirect)
	case FaultNoToken:
		send(w, http.StatusOK, "application/json", `{"token_type":"Bearer","expires_in":300}`)
	case FaultStringExpires:
		token, _ := s.issue("")
		send(w, http.StatusOK, "application/json",
			fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":"300"}`, token))
	case FaultNoExpires:
		token, _ := s.issue("")
		send(w, http.StatusOK, "application/json", fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer"}`, token))
	case FaultEcho:
		s.refuse(w, r, "Unexpected value: "+r.PostForm.Get("client_assertion"), "fault")
	case FaultBlank:
		s.refuse(w, r, "", "fault")
	case FaultHuge:
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	case FaultReset:
		panic(http.ErrAbortHandler)
	case FaultUnasked:
		s.answerTwice(w, r)
	}
}

// answerTwice sends a response with a token, and then the same response again.
func (s *Sandbox) answerTwice(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.log("answering twice: %v", err)
		return
	}
	token, _ := s.issue("")
	body := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":300}`, token)
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body),
		body)
	_, _ = io.WriteString(conn, answer+answer) // the client may have closed the connection
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open-- // a hijacked connection is not reported to the server when it ends
}

func send(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // the client may have closed the connection
}

// wait waits for d. It ends early when the context of r ends or the sandbox closes.
func (s *Sandbox) wait(r *http.Request, d time.Duration) {
	// Only when the body is read does net/http see that the client hangs up.
	read, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // who reads on gets the error
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(read), r.Body))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	case <-s.stopping:
	}
}
