package redox

import (
	"maps"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// overdueAfter is how late a rotation may begin before it counts as overdue.
const overdueAfter = 5 * time.Minute

// overdueSince returns when the rotation should have begun, if that is at least
// overdueAfter ago and no key is pending; otherwise zero.
func overdueSince(ring *keyring.Ring, p keyring.Policy, now time.Time) time.Time {
	due := ring.Due(p)
	if due.IsZero() || ring.Pending() != nil || now.Before(due.Add(overdueAfter)) {
		return time.Time{}
	}
	return due
}

// failures keeps the error of each client whose last step failed.
type failures struct {
	mu   sync.Mutex // guards last; nothing waits under it
	last map[string]failure
}

// failure is the error of a client's last rotation step on this node.
type failure struct {
	at   time.Time // zero: the last step did not fail
	text string
}

func newFailures() *failures { return &failures{last: map[string]failure{}} }

// note records the result of a client's step. err is nil if the step succeeded.
func (f *failures) note(client string, err error, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.last, client)
		return
	}
	f.last[client] = failure{at, err.Error()}
}

// of returns the failure of the client's last step, a zero one if that did not fail.
func (f *failures) of(client string) failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last[client]
}

// keep deletes the records of the clients that are not in clients.
func (f *failures) keep(clients map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.last, func(client string, _ failure) bool { return !clients[client] })
}
