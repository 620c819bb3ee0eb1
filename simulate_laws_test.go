package redox

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// laws check what must hold at every moment, whatever happens. They judge what is stored, sent and answered,
// without the engine's code that decides what to do.
type laws struct {
	mu      sync.Mutex
	clock   func() time.Time // true time
	failure string           // the first law that was broken, and how
	seen    map[string]int   // of everything that is worth counting
	said    strings.Builder  // answers and errors, to be searched for secrets
	clients map[string]*lawClient
	jtis    map[string]bool
	tokens  map[string]issuedTo
	hosts   []hostVersion
	unsane  time.Time // until when a clock was wrong at last
	quirk   redoxtest.Quirk
}

// lawClient is what the laws know of a client.
type lawClient struct {
	name, id string
	config   *config // as stored, nil for none
	ring     keyring.Ring
	changed  time.Time // when the config was written at last
	stored   time.Time // when the ring was
	own      map[string]bool
	accepted map[string]time.Time     // by key ID and where: when a token was issued for it at last
	since    map[string]time.Time     // by way and key ID: since when Redox may know it, as far as the engine can see
	way      string                   // the way to publish of the stored config
	place    string                   // where the last step publishes
	unknown  *process                 // that is to read Redox's list again, as Redox did not know a key
	asked    time.Time                // when Redox did not know a key at last
	unproved map[*process]int         // requests for tokens that got none, since the process had the list read again
	retired  map[keyring.ID]time.Time // since when, by the true time
	signs    time.Time                // since when the active key does, by the true time
	listed   map[listedKey]bool       // deleted keys that the engine has to take off Redox's list
	taken    time.Time                // until when Redox may know another key under the ID of one of the ring
	excuse   string                   // why reads may fail, empty for no reason
	excused  time.Time
}

// issuedTo says for which client ID and key a token was issued, and when.
type issuedTo struct {
	id  string // client ID
	kid string
	at  time.Time
}

// hostVersion is a list of hosts, when it was written, and by which process.
type hostVersion struct {
	at      time.Time
	by      *process
	allowed []string
}

func newLaws(clock func() time.Time) *laws {
	return &laws{
		clock: clock, seen: map[string]int{}, clients: map[string]*lawClient{}, jtis: map[string]bool{},
		tokens: map[string]issuedTo{}, hosts: []hostVersion{{}},
	}
}

// know adds a client.
func (l *laws) know(name, id string) {
	l.clients[name] = &lawClient{
		name: name, id: id, own: map[string]bool{}, accepted: map[string]time.Time{}, since: map[string]time.Time{},
		retired: map[keyring.ID]time.Time{}, listed: map[listedKey]bool{}, unproved: map[*process]int{},
		excuse: "Redox does not know its first key yet",
	}
}

func (l *laws) violated(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.violatedLocked(format, args...)
}

func (l *laws) violatedLocked(format string, args ...any) {
	if l.failure == "" {
		l.failure = fmt.Sprintf(format, args...)
	}
}

// excuseReads notes why reads of a client may fail, until Redox knows its key again. An
// empty name means all clients.
func (l *laws) excuseReads(name, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.clients {
		if name == "" || c.name == name {
			c.excuse, c.excused = why, l.clock()
		}
	}
}

func (l *laws) hasNumber(n string) bool {
	for _, c := range l.clients {
		for _, k := range c.ring.Keys {
			if k.N == n {
				return true
			}
		}
		for _, gone := range c.ring.Gone {
			if gone.N == n {
				return true
			}
		}
	}
	return false
}

// wrote judges a write to storage. clock is the time on the node's clock.
func (l *laws) wrote(o *op, clock time.Time, key string, before, after []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var stored struct{ Data json.RawMessage }
	if after != nil {
		if err := json.Unmarshal(after, &stored); err != nil {
			l.violatedLocked("%s is not JSON: %v", key, err)
			return
		}
	}
	if key == hostsKey {
		var list hostList
		if after != nil {
			_ = json.Unmarshal(stored.Data, &list) // golden files show the form
		}
		l.hosts = append(l.hosts, hostVersion{l.clock(), o.on, list.Allowed})
		return
	}
	name, entry, _ := strings.Cut(strings.TrimPrefix(key, clientsPrefix), "/")
	c := l.clients[name]
	if c == nil || o.client == nil || o.client.name != name {
		l.violatedLocked("%s of another client writes %s", o.what, key)
		return
	}
	if entry == configEntry {
		l.configWrote(o, c, stored.Data)
		return
	}
	o.wrote, c.stored = true, l.clock()
	old := c.ring
	c.ring = keyring.Ring{}
	if after != nil {
		if err := json.Unmarshal(stored.Data, &c.ring); err != nil {
			l.violatedLocked("%s cannot be read: %v", key, err)
		}
	}
	l.moved(o, c)
	l.ringShape(o, c)
	l.ringChange(o, c, &old, clock)
	l.othersNoted(o, c, &old)
	l.readEarly(o, c, &old, clock)
	l.readAgain(o, c, &old)
	l.published(c)
}

// moved forgets since when Redox has listed a client's keys if a step publishes with another client ID, token URL,
// audience or platform client than the last step: nothing counts as published there yet.
func (l *laws) moved(o *op, c *lawClient) {
	if o.what != "step" || c.config == nil || c.config.PlatformClient == "" {
		return
	}
	place := c.config.fingerprint() + " " + c.config.PlatformClient
	if place != c.place {
		maps.DeleteFunc(c.since, func(what string, _ time.Time) bool { return strings.HasPrefix(what, "pushed ") })
	}
	c.place = place
}

// othersNoted fails the run if a step that has found Redox's list up to date does not store the IDs of the keys of
// others in that list, up to 32 of them.
func (l *laws) othersNoted(o *op, c *lawClient, old *keyring.Ring) {
	p := c.ring.Publication
	if p == nil || p.ReadAt.IsZero() || old.Publication != nil && !p.ReadAt.After(old.Publication.ReadAt) {
		return // a clock that went back only moves the time of an earlier read
	}
	for _, k := range o.others {
		if !slices.Contains(p.Foreign, keyring.ID(k.ID)) && len(p.Foreign) < 32 {
			l.violatedLocked("%s does not note %s, a key of others in Redox's list of %s", o.what, k.ID, c.name)
		}
	}
}

func (l *laws) configWrote(o *op, c *lawClient, data []byte) {
	if !slices.Contains([]string{"config", "delete config", "delete client"}, o.what) {
		l.violatedLocked("%s writes the config of %s", o.what, c.name)
	}
	c.config, c.changed = nil, l.clock()
	if data != nil {
		c.config = &config{}
		if err := json.Unmarshal(data, c.config); err != nil {
			l.violatedLocked("the config of %s cannot be read: %v", c.name, err)
		}
	}
	l.published(c)
}

// published updates c.way, and also c.since if Redox fetches the keys of the ring.
func (l *laws) published(c *lawClient) {
	way := "pasted"
	switch {
	case c.config == nil:
		way = c.way // nobody looks at the ring until there is one
	case c.config.PublicJWKS:
		way = "fetched"
	case c.config.PlatformClient != "":
		way = "pushed"
	}
	c.way = way
	if way != "fetched" {
		return
	}
	for _, k := range c.ring.Keys {
		if _, known := c.since["fetched "+string(k.ID)]; !known {
			c.since["fetched "+string(k.ID)] = l.clock()
		}
	}
}

// readEarly fails the run if a step makes the next read of Redox's list due early without a reason. A reason is,
// for instance, a token request that got no token.
func (l *laws) readEarly(o *op, c *lawClient, old *keyring.Ring, clock time.Time) {
	was, now := old.Publication, c.ring.Publication
	if o.what != "step" || was == nil || now == nil || !now.NextAt.IsZero() || was.NextAt.IsZero() {
		return
	}
	soon := clock.Before(was.NextAt) && l.unsane.Before(was.LastAt) && was.Failure == ""
	if soon && c.unproved[o.on] == 0 && now.To == was.To && len(c.ring.Keys) == len(old.Keys) {
		l.violatedLocked("a step has Redox's list of %s read again after %v", c.name, clock.Sub(was.LastAt))
	}
	c.unproved[o.on] = 0
}

// readAgain notes that a step has stored the outcome of a read of Redox's list. A step whose write seems to fail may
// have stored it too.
func (l *laws) readAgain(o *op, c *lawClient, old *keyring.Ring) {
	was, now := old.Publication, c.ring.Publication
	_, read := o.listed[c.id]
	if read && now != nil && (was == nil || !now.LastAt.Equal(was.LastAt)) {
		c.unknown = nil
	}
}

// ringShape judges a ring by itself.
func (l *laws) ringShape(o *op, c *lawClient) {
	states, ids := map[keyring.State]int{}, map[keyring.ID]bool{}
	for _, k := range c.ring.Keys {
		states[k.State]++
		ids[k.ID] = true
		c.own[string(k.ID)+" "+k.N] = true
		if private, err := k.Private(); err != nil || private.N.BitLen() != k.Bits {
			l.violatedLocked("after %s the private half of %s cannot be read: %v", o.what, k.ID, err)
		}
	}
	n := len(c.ring.Keys)
	if n > 0 && states[keyring.Active] != 1 || states[keyring.Pending] > 1 || n > 8 || len(ids) != n ||
		states[keyring.Active]+states[keyring.Pending]+states[keyring.Retiring] != n {
		l.violatedLocked("after %s the ring of %s holds %v", o.what, c.name, states)
	}
}

// ringChange judges how an operation has changed a ring. old is the ring before, and clock the time on the node's
// clock.
func (l *laws) ringChange(o *op, c *lawClient, old *keyring.Ring, clock time.Time) {
	active := c.ring.Active()
	for _, k := range old.Keys {
		now := c.ring.Get(k.ID)
		switch {
		case now == nil:
			l.lost(o, c, old, k, clock)
		case now.N != k.N || string(now.PKCS8) != string(k.PKCS8):
			l.violatedLocked("%s changes key %s", o.what, k.ID)
		case k.Accepted != "" && now.Accepted != k.Accepted:
			l.violatedLocked("%s changes where %s was accepted", o.what, k.ID)
		case now.State == keyring.Retiring && k.State == keyring.Active:
			c.retired[k.ID] = l.clock()
		case now.State == keyring.Pending && k.State != keyring.Pending:
			l.violatedLocked("%s makes key %s pending again", o.what, k.ID)
		}
	}
	if len(c.ring.Keys) == 0 {
		c.listed = map[listedKey]bool{} // what was noted went with the ring
	}
	for _, k := range c.ring.Keys {
		delete(c.listed, listedKey{string(k.ID), k.N})
		was := old.Get(k.ID)
		if was == nil && !slices.Contains([]string{"generate", "rotate", "import", "step"}, o.what) {
			l.violatedLocked("%s adds key %s", o.what, k.ID)
		}
		if k.Accepted != "" && (was == nil || was.Accepted == "") && !l.acceptedAnywhere(c, k) {
			l.violatedLocked("%s stores that Redox accepted %s, which it never did", o.what, k.ID)
		}
	}
	before := old.Active()
	if active != nil && (before == nil || before.ID != active.ID) {
		c.signs = l.clock()
	}
	if active == nil || before == nil || before.ID == active.ID {
		return
	}
	l.seen["the active key changed by "+o.what]++
	switch {
	case o.what != "step" && o.what != "activate":
		l.violatedLocked("%s makes key %s of %s active", o.what, active.ID, c.name)
	case o.force:
	case c.config == nil || c.accepted[string(active.ID)+" "+c.config.fingerprint()].Before(o.began):
		l.violatedLocked("%s makes key %s of %s active, which was not proved with this config", o.what, active.ID, c.name)
	case o.what == "step":
		if late := l.early(c, string(active.ID)); late > 0 {
			l.violatedLocked("a step makes key %s of %s active %v too early", active.ID, c.name, late)
		}
	}
}

// fingerprint returns the client ID, the token URL and the audience as one text.
func (c *config) fingerprint() string { return c.ClientID + " " + c.tokenURL() + " " + c.audience() }

func (l *laws) acceptedAnywhere(c *lawClient, k *keyring.Key) bool {
	for what := range c.accepted {
		if strings.HasPrefix(what, string(k.ID)+" ") {
			return true
		}
	}
	return false
}

// lost judges an operation that has deleted the key k from a ring. old is the ring before.
func (l *laws) lost(o *op, c *lawClient, old *keyring.Ring, k *keyring.Key, clock time.Time) {
	l.seen["key lost by "+o.what]++
	if old.Publication != nil {
		c.listed[listedKey{string(k.ID), k.N}] = true
	}
	switch {
	case o.what == "delete client" || o.what == "delete key" && o.key == string(k.ID):
		return
	case o.what != "step":
		l.violatedLocked("%s loses key %s of %s", o.what, k.ID, c.name)
		return
	}
	active := old.Active()
	var tooEarly time.Duration
	if c.config != nil {
		tooEarly = seconds(c.config.RetireAfter) - clock.Sub(k.RetiredAt)
		if at, known := c.retired[k.ID]; known && at.After(l.unsane) {
			tooEarly = max(tooEarly, seconds(c.config.RetireAfter)-l.clock().Sub(at))
		}
	}
	both := false
	for what := range c.accepted {
		where, is := strings.CutPrefix(what, string(k.ID)+" ")
		_, too := c.accepted[string(active.ID)+" "+where]
		both = both || is && too
	}
	if k.State != keyring.Retiring || c.config == nil || tooEarly > 0 || k.Accepted == "" ||
		k.Accepted != active.Accepted || !both {
		l.violatedLocked("a step deletes key %s of %s, which is %s, %v too early, accepted at %q; key %s, which signs, was "+
			"accepted at %q; both at one place: %v", k.ID, c.name, k.State, max(0, tooEarly), k.Accepted, active.ID,
			active.Accepted, both)
	}
}

// early returns how long it is until the pending key kid may be proved, zero if that is now or if the laws cannot
// tell.
func (l *laws) early(c *lawClient, kid string) time.Duration {
	since, known := c.since[c.way+" "+kid]
	switch {
	case c.config == nil || c.way == "pasted":
		return 0
	case !known:
		return 1000 * time.Hour // Redox cannot know it
	case !since.After(l.unsane):
		return 0 // the times in the ring may be of a clock that was wrong
	}
	return max(0, seconds(c.config.PublishWindow)-l.clock().Sub(since))
}
