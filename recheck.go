package redox

import (
	"maps"
	"sync"
	"time"
)

// recheckAfter is the shortest time between two rechecks of a client after refused token
// requests: many requests may be refused for the same reason.
const recheckAfter = 10 * time.Second

// rechecks records what requests have found out and a client's worker must act on:
// that Redox's list of keys must be read again early, or that Redox accepted a key.
type rechecks struct {
	mu    sync.Mutex // guards both maps; no function waits while it holds mu
	asked map[string]time.Time
	due   map[string]recheck
}

// recheck is what requests found out for a client's worker. The first two fields are
// reasons to read Redox's list again, and the third names a key that Redox accepted.
type recheck struct {
	unknownKey bool // Redox did not know the key of a token request
	mended     bool // somebody wrote the config, and may have fixed the cause of a failure
	accepted   acceptance
}

func newRechecks() *rechecks {
	return &rechecks{asked: map[string]time.Time{}, due: map[string]recheck{}}
}

// ask records that Redox did not know a client's key, and returns true. If that was
// recorded less than recheckAfter ago, ask only returns false.
func (r *rechecks) ask(client string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since := now.Sub(r.asked[client]); since >= 0 && since < recheckAfter {
		return false
	}
	r.asked[client] = now
	r.addLocked(client, recheck{unknownKey: true})
	return true
}

// add records that a recheck is due.
func (r *rechecks) add(client string, why recheck) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(client, why)
}

func (r *rechecks) addLocked(client string, why recheck) {
	known := r.due[client]
	if why.accepted.id == "" || why.accepted.n == known.accepted.n { // the first acceptance of a key counts
		why.accepted = known.accepted
	}
	r.due[client] = recheck{known.unknownKey || why.unknownKey, known.mended || why.mended, why.accepted}
}

// take returns the recheck that is due for a client, and deletes it.
func (r *rechecks) take(client string) recheck {
	r.mu.Lock()
	defer r.mu.Unlock()
	why := r.due[client]
	delete(r.due, client)
	return why
}

// keep deletes the records of the clients that are not in clients.
func (r *rechecks) keep(clients map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := func(client string) bool { return !clients[client] }
	maps.DeleteFunc(r.asked, func(client string, _ time.Time) bool { return gone(client) })
	maps.DeleteFunc(r.due, func(client string, _ recheck) bool { return gone(client) })
}

// forget deletes the records of a client.
func (r *rechecks) forget(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.asked, client)
	delete(r.due, client)
}
