package redox

import (
	"slices"
	"strings"
	"time"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// sends judges a request that leaves the engine, even if the request does not arrive.
func (l *laws) sends(o *op, n *node, x *exchange, jti string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen["exchange"]++
	o.sent = append(o.sent, exchange{})
	if !l.hostAllowed(o, x.host) {
		l.violatedLocked("%s sends a request to %s, which is not allowed", o.what, x.host)
	}
	if x.kid == "" {
		return
	}
	if jti == "" || l.jtis[jti] {
		l.violatedLocked("%s sends an assertion again, or one without jti", o.what)
	}
	l.jtis[jti] = true
	if !o.active && o.what == "step" {
		l.violatedLocked("a step asks Redox on a standby")
	}
	if o.client == nil || o.what != "step" && o.what != "read token" {
		return // a person asks for the key that he names, or check for the active one
	}
	c := l.clients[o.client.name]
	c.unproved[o.on]++
	k := c.ring.Get(keyring.ID(x.kid))
	if k == nil || k.State != keyring.Pending {
		return
	}
	switch {
	case o.what == "read token" && n != nil && n.active:
		l.violatedLocked("a read of token signs with the pending key %s", x.kid)
	case o.what == "step" && c.config != nil:
		late := l.early(c, x.kid)
		if late > 0 && c.changed.Before(o.began) {
			l.violatedLocked("a step proves key %s of %s %v too early", x.kid, c.name, late)
		}
		clock := l.clock()
		if n != nil {
			clock = n.clock()
		}
		due := c.config.RotationPeriod > 0 && !clock.Before(c.ring.Active().ActivatedAt.Add(seconds(c.config.RotationPeriod)))
		if !k.Rotating && !due {
			l.violatedLocked("a step proves key %s of %s, to which nobody rotates", x.kid, c.name)
		}
	}
}

// memory is the longest time for which a node may use what it has read from storage.
const memory = rereadAfter + time.Second

func (l *laws) hostAllowed(o *op, host string) bool {
	if isRedox(host) {
		return true
	}
	now := l.clock()
	for i, v := range slices.Backward(l.hosts) {
		if slices.Contains(v.allowed, host) {
			return true
		}
		since := o.began // its own change counts at once, except for what is under way
		if v.by != o.on {
			since = now.Add(-memory - maxReplication)
		}
		if v.by != nil && v.by != o.on && l.unsane.After(since) {
			since = time.Time{} // by a wrong clock it may be younger
		}
		if i > 0 && v.at.Before(since) {
			return false
		}
	}
	return false
}

// answered notes an answer of the token endpoint. token is empty if the answer has none.
func (l *laws) answered(o *op, x *exchange, token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.sent[len(o.sent)-1] = *x
	if token == "" {
		return
	}
	l.tokens[token] = issuedTo{id: x.id, kid: x.kid, at: l.clock()}
	if o.client != nil && (o.what == "step" || o.what == "read token") {
		l.clients[o.client.name].unproved[o.on]--
	}
	for _, c := range l.clients {
		if c.own[x.kid+" "+numberOf(c, x.kid)] {
			c.accepted[x.kid+" "+x.where] = l.clock()
		}
	}
}

// numberOf returns the modulus of the key kid if that key was ever in the client's ring,
// else an empty text.
func numberOf(c *lawClient, kid string) string {
	for own := range c.own {
		if id, n, _ := strings.Cut(own, " "); id == kid {
			return n
		}
	}
	return ""
}

// listRead judges and notes a read of Redox's list of a client's keys.
func (l *laws) listRead(o *op, id string, list []listedKey, changes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.listed == nil {
		o.listed = map[string]int{}
	}
	o.listed[id] = changes
	for _, c := range l.clients {
		if c.id != id || o.client.name != c.name {
			continue
		}
		if !proved(o, c) {
			l.violatedLocked("a step reads the list of %s, for which it has not proved a key", id)
		}
		for _, k := range c.ring.Keys {
			there := slices.Contains(list, listedKey{string(k.ID), k.N})
			o.seen = append(o.seen, seenKey{"pushed " + string(k.ID), there})
		}
		o.others = slices.DeleteFunc(slices.Clone(list), func(k listedKey) bool { return c.own[k.ID+" "+k.N] })
	}
}

// seenKey says whether Redox's list had a key.
type seenKey struct {
	key   string
	there bool
}

// listWritten judges an update of Redox's list of a client's keys.
func (l *laws) listWritten(o *op, id string, before, after []listedKey, changes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen["update of Redox's list"]++
	var c *lawClient
	for _, one := range l.clients {
		if one.id == id {
			c = one
		}
	}
	at, read := o.listed[id]
	leads := o.on == nil || o.on.node.active // else the node that leads now may have made the same update
	switch {
	case c == nil || o.client.name != c.name || o.what != "step":
		l.violatedLocked("%s of %v updates the list of %s", o.what, o.client, id)
		return
	case !read:
		l.violatedLocked("a step updates the list of %s and has not read it", id)
	case at == changes && l.quirk == "" && leads && slices.Equal(before, after):
		l.violatedLocked("a step updates the list of %s, which needed no update", id)
	}
	for _, k := range before {
		if slices.Contains(after, k) {
			continue
		}
		switch own := c.own[k.ID+" "+k.N]; {
		case !own && at == changes:
			l.violatedLocked("a step removes %s, a key of others, from Redox's list of %s", k.ID, id)
		case own && c.ring.Get(keyring.ID(k.ID)) != nil && c.ring.Get(keyring.ID(k.ID)).N == k.N && at == changes:
			l.violatedLocked("a step removes %s, which is in the ring, from Redox's list of %s", k.ID, id)
		}
	}
}

// proved reports whether a step that reads Redox's list has proved a key of the client, in this step or earlier.
// It returns true if the laws cannot tell.
func proved(o *op, c *lawClient) bool {
	p := c.ring.Publication
	return p == nil || p.Proved || !c.changed.Before(o.began) || len(o.sent) == 0 ||
		slices.ContainsFunc(o.sent, func(x exchange) bool { return x.id == c.id && x.kid != "" && x.status == 200 })
}

// ended notes the end of an operation.
func (l *laws) ended(o *op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.client == nil || o.what != "step" || !o.active {
		return
	}
	c := l.clients[o.client.name]
	if c == nil {
		return
	}
	if c.way != "fetched" && o.faults == 0 && c.config != nil {
		for what := range c.since {
			if strings.HasPrefix(what, "fetched ") {
				delete(c.since, what)
			}
		}
	}
	if !o.wrote {
		return // it has kept nothing of what it saw
	}
	for _, k := range o.seen {
		_, known := c.since[k.key]
		switch {
		case !k.there:
			delete(c.since, k.key)
		case !known:
			c.since[k.key] = l.clock()
		}
	}
}

// tokenRead judges the answer to a read of token that has succeeded.
func (l *laws) tokenRead(o *op, c *lawClient, data map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	token, _ := data["access_token"].(string)
	issued, known := l.tokens[token]
	left, _ := data["expires_in"].(int64)
	now := l.clock()
	settled := c.changed.Before(now.Add(-memory - maxReplication)) // every node reads the config as it is
	switch {
	case !known:
		l.violatedLocked("a reader gets a token that nobody issued")
	case issued.id != data["client_id"] || issued.kid != data["key_id"]:
		l.violatedLocked("a reader gets a token of %s by %s, and is told %v by %v", issued.id, issued.kid,
			data["client_id"], data["key_id"])
	case c.config == nil && settled:
		l.violatedLocked("a reader of %s gets a token, and there is no config", c.name)
	case settled && issued.id != c.config.ClientID:
		l.violatedLocked("a reader of %s gets a token of %s", c.name, issued.id)
	case settled && !c.config.ReuseTokens && issued.at.Before(o.began):
		l.violatedLocked("a reader of %s gets a token that is %v old", c.name, now.Sub(issued.at))
	case !issued.at.After(l.unsane):
	case issued.at.Add(5*time.Minute - seconds(left)).Before(now.Add(-time.Second)):
		l.violatedLocked("a reader of %s is told that a token which is %v old has %d seconds left", c.name,
			now.Sub(issued.at), left)
	}
}

// overdueNow reports whether a rotation should have begun at least five minutes ago and has not. clock is the time
// on a node's clock.
func (c *lawClient) overdueNow(clock time.Time) bool {
	active, pending := c.ring.Active(), c.ring.Pending()
	return c.config != nil && c.config.RotationPeriod > 0 && active != nil && pending == nil &&
		!clock.Before(active.ActivatedAt.Add(seconds(c.config.RotationPeriod)+5*time.Minute))
}

// unpublished reports whether the engine publishes the client's keys at Redox, and failed to do so at last.
func (c *lawClient) unpublished() bool {
	p := c.ring.Publication
	return c.config != nil && c.config.PlatformClient != "" && p != nil && p.Failure != ""
}
