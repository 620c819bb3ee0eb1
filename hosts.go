package redox

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// hostsKey is the storage key of the list of hosts, and the path of its endpoint.
const hostsKey = "hosts"

// hostList is the stored list of the hosts that a mount may talk to besides
// Redox's own. Each is in the form that parseHost returns.
type hostList struct {
	Allowed []string `json:"allowed"`
}

// hosts keeps the list of hosts in memory. Each request to a host that is not Redox's
// own needs the list, and each read of storage is a call to Vault's process.
type hosts struct {
	now func() time.Time

	mu    sync.Mutex // guards place and what is in it; no storage access while it is held
	place *hostsPlace
}

// hostsPlace holds the list in memory. When the list changes, a new place replaces
// the old one. A read that began before the change stores its result in the old
// place, which is no longer used.
type hostsPlace struct {
	list   *hostList // nil: not read yet
	readAt time.Time
}

func newHosts(now func() time.Time) *hosts { return &hosts{now: now, place: &hostsPlace{}} }

// forget drops the list from memory.
func (h *hosts) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.place = &hostsPlace{}
}

// loadHosts reads the list from storage, an empty one when there is none.
func loadHosts(ctx context.Context, s logical.Storage) (*hostList, error) {
	list, err := store.Get[hostList](ctx, s, hostsKey)
	if err == nil && list == nil {
		list = &hostList{}
	}
	return list, err
}

// current returns the list, from memory if it was read less than rereadAfter ago.
func (h *hosts) current(ctx context.Context, s logical.Storage) (*hostList, error) {
	now := h.now()
	h.mu.Lock()
	place := h.place
	list, readAt := place.list, place.readAt
	h.mu.Unlock()
	if list != nil && now.Sub(readAt).Abs() < rereadAfter {
		return list, nil
	}
	list, err := loadHosts(ctx, s)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	place.list, place.readAt = list, now
	return list, nil
}

// allow returns nil if the mount may talk to the host of c's token URL, which is also
// the host of the Platform API. If not, it returns a [*hostError]. It returns another
// error if the URL is not valid or the list cannot be read. For Redox's own hosts it reads
// no storage. mount is the path of the mount, for the text of the error.
func (h *hosts) allow(ctx context.Context, s logical.Storage, mount string, c *config) error {
	const field = "token_url"
	host, err := checkURL(field, c.tokenURL())
	if err != nil || isRedox(host) {
		return err
	}
	list, err := h.current(ctx, s)
	if err != nil || slices.Contains(list.Allowed, host) {
		return err
	}
	return &hostError{field: field, host: host, mount: mount, allowed: list.Allowed}
}

// hostError is the error for a host that the mount may not talk to.
type hostError struct {
	field, host string
	allowed     []string // besides Redox's own

	// mount is the path of the mount, for the command that allows the host. It is empty in
	// a rotation, and then the error has no command: the error is stored, and the mount
	// may be moved later.
	mount string
}

// shownHosts is the largest number of allowed hosts that the error lists. If there are
// more, the error only counts them: a list may have a thousand.
const shownHosts = 20

func (e *hostError) Error() string {
	what := e.field + " names " + e.host + ", a host that this mount may not talk to"
	if e.mount == "" {
		return what
	}
	shown, written := strings.Join(e.allowed, ", "), strings.Join(append(slices.Clone(e.allowed), e.host), ",")
	switch n := len(e.allowed); {
	case n == 0:
		shown = "no other"
	case n > shownHosts:
		shown = strconv.Itoa(n) + " others (vault read " + inShell(e.mount+hostsKey) + ")"
		written = "<those>," + e.host
	}
	if strings.Contains(written, "[") { // some shells read brackets as a pattern
		written = "'" + written + "'"
	}
	return what + ": allowed are " + strings.Join(redoxHosts, ", ") + " and " + shown + "; whoever has sudo on " +
		e.mount + hostsKey + " allows it with: vault write " + inShell(e.mount+hostsKey) + " allowed=" + written
}
