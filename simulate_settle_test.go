package redox

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

var importedPEM = sync.OnceValue(func() string {
	raw, err := os.ReadFile("internal/keyring/testdata/pkcs8.pem")
	if err != nil {
		return err.Error()
	}
	return string(raw)
})

// readToken reads a token of some client on some node. If a standby forwards the read, the active node answers it.
func (s *simulation) readToken() { s.readTokenOn(s.anyNode("read"), s.anyClient("read")) }

func (s *simulation) readTokenOn(n *node, c *simClient) {
	got := s.request("read token", n, logical.ReadOperation, c, c.prefix()+"token", nil)
	if got.message == logical.ErrReadOnly.Error() && got.faults == 0 {
		if got.active {
			s.violated("the active node would have Vault send a read back to it for ever")
		}
		got = s.request("read token", s.active(), logical.ReadOperation, c, c.prefix()+"token", nil)
	}
	s.judgeRead(got, c)
	s.judgeHeld(got, c)
	s.noteUnknown(got, c)
	if got.status >= 429 && !s.calm && len(s.ops) == 0 && s.oneIn(c.name, "read again", 2) {
		s.advance(time.Second)
		s.readTokenOn(got.on.node, c)
	}
	// A token that is handed out again lives on while Redox fails.
	left := s.held[c.name+got.on.node.name].until.Sub(s.now)
	if got.status == 200 && s.redox.mood != "" && left > 10*time.Second && !s.calm && len(s.ops) == 0 &&
		s.oneIn(c.name, "read the held token", 2) {
		s.advance(left / 2)
		s.readTokenOn(got.on.node, c)
	}
}

// held is a token that a node may hand out again.
type held struct {
	on    *process
	until time.Time
	since time.Time
}

// judgeHeld notes the token of a read, if the client reuses tokens. It fails the run if a read fails for a
// temporary reason although the node still has a good token.
func (s *simulation) judgeHeld(got answer, c *simClient) {
	lc := s.laws.clients[c.name]
	if lc.config == nil || !lc.config.ReuseTokens {
		return
	}
	if got.status == 200 {
		left, _ := got.resp.Data["expires_in"].(int64)
		s.held[c.name+got.on.node.name] = held{got.on, s.now.Add(seconds(left)), s.now}
		return
	}
	has := s.held[c.name+got.on.node.name]
	old := has.since.Add(-memory - maxReplication)
	unchanged := has.since.After(s.unsane) && has.since.After(s.lastHosts()) && old.After(lc.changed) &&
		old.After(lc.excused) && old.After(lc.signs)
	good := has.on == got.on && s.now.Add(2*time.Second).Before(has.until)
	if got.status > 400 && got.status != 500 && unchanged && good {
		s.violated("a read of %s fails, and the node has a token that is good until %v: %s", c.name, has.until,
			got.message)
	}
}

func (s *simulation) lastHosts() time.Time { return s.laws.hosts[len(s.laws.hosts)-1].at }

// noteUnknown notes that Redox did not know the key that a read on the active node tried first, if the engine
// publishes the client's keys.
func (s *simulation) noteUnknown(got answer, c *simClient) {
	lc := s.laws.clients[c.name]
	if !got.active || got.faults > 0 || lc.way != "pushed" || len(got.sent) == 0 ||
		!strings.Contains(got.sent[0].reason, "Public key not found") {
		return
	}
	if s.now.Sub(lc.asked) > recheckAfter+time.Second {
		lc.unknown = got.on
	}
	lc.asked = s.now
}

// judgeUnknown fails the run if Redox did not know a key of the client, and no further step is due now although
// Redox's list was not read since.
func (s *simulation) judgeUnknown(o *op, c *simClient, next time.Time) {
	lc := s.laws.clients[c.name]
	if lc.unknown != o.on || !o.on.node.active {
		return
	}
	p, clock := lc.ring.Publication, o.on.node.clock()
	switch {
	case p == nil, p.Failure != "", o.faults > 0, !lc.changed.Before(lc.asked), s.unsane.After(lc.asked),
		clock.Sub(p.LastAt) < recheckAfter+time.Second:
		lc.unknown = nil
	case next.IsZero(), next.After(clock):
		s.violated("Redox did not know a key of %s, and its list is not read again", c.name)
	}
}

// judgeRead judges the token that a read got. It fails the run if a read failed without a reason.
func (s *simulation) judgeRead(got answer, c *simClient) {
	lc := s.laws.clients[c.name]
	why := ""
	switch {
	case got.status == 200:
		s.seen["read"]++
		s.tokenRead(got.op, lc, got.resp.Data)
		return
	case got.status == 0, got.faults > 0:
		why = "a fault meanwhile"
	case got.status >= 429:
		s.violated("a read of %s fails though nothing failed: %d %s", c.name, got.status, got.message)
	default:
		why = s.reasonToFail(got, lc)
	}
	s.seen["read failed: "+why]++
	if why == "" {
		s.violated("a read of %s on %s fails for no reason: %s\nexchanges: %+v\nring: %s", c.name, got.on.node.name,
			got.message, got.sent, s.describe(lc))
	}
}

func (s *simulation) describe(c *lawClient) string {
	text := ""
	for _, k := range c.ring.Keys {
		text += fmt.Sprintf("%s %s accepted %.6q since %s retired %s; ", k.ID, k.State, k.Accepted,
			k.ActivatedAt.Format(time.DateTime), k.RetiredAt.Format(time.DateTime))
	}
	return text
}

// reasonToFail returns why a read that no fault disturbed may fail, empty for no reason. It fails the run if Redox
// refused a key that it knew, or if the read did not try a retiring key that Redox accepted.
func (s *simulation) reasonToFail(got answer, c *lawClient) string {
	changed := s.now.Sub(c.changed) < memory+maxReplication
	right := c.config != nil && c.config.ClientID == c.id && c.config.tokenURL() == "https://"+simHost+"/v2/auth/token"
	for _, x := range got.sent {
		if right && !changed && x.knew && x.status >= 400 && s.now.After(s.unsane) && s.now.After(c.taken) {
			s.violated("Redox knew key %s of %s and refused it: %s", x.kid, c.name, x.reason)
		}
	}
	if right && !changed && s.now.Sub(c.stored) > memory+maxReplication && s.now.After(s.unsane) && len(got.sent) == 1 &&
		strings.Contains(got.sent[0].reason, "Public key not found") {
		for _, k := range c.ring.Keys {
			if k.State == keyring.Retiring && k.Accepted == c.config.where() {
				s.violated("a read of %s does not try key %s, which Redox accepted", c.name, k.ID)
			}
		}
	}
	switch active := c.ring.Active(); {
	case c.config == nil:
		return "no config"
	case active == nil:
		return "no key"
	case len(got.sent) == 0 && !right:
		return "a host that is not allowed"
	case c.excuse != "":
		return c.excuse
	case s.unsane.After(s.now):
		return "a clock is wrong"
	case (s.now.Sub(active.ActivatedAt) < usualLag || slices.ContainsFunc(got.sent, exchange.outdated)) &&
		(c.way == "pasted" || seconds(c.config.PublishWindow) < usualLag):
		return "Redox learns of a key later than publish_window allows"
	}
	return ""
}

// recover ends the excuse of each client whose reads must succeed again. Among other things, its config leads to
// Redox, each node has had time to learn which key is active, and all machines of Redox know that key.
func (s *simulation) recover() {
	for _, c := range s.clients {
		lc := s.laws.clients[c.name]
		active := lc.ring.Active()
		if lc.excuse == "" || s.now.Sub(later(lc.excused, lc.signs)) < memory+maxReplication || active == nil ||
			lc.config == nil || s.unsane.After(s.now) || lc.config.ClientID != c.id || lc.config.TokenURL != "" || s.redox.late {
			continue
		}
		s.noteTaken(c)
		known := true
		for _, lag := range s.redox.lags {
			known = known && lag <= usualLag && s.redox.sandbox.Knows(c.id, string(active.ID), lag)
		}
		if known && s.now.After(lc.taken) {
			lc.excuse = ""
		}
	}
}

// check reads check on a node. It fails the run if the answer of the active node hides that a rotation is overdue,
// that the last step failed, or that keys are not published. The engine reads the ring and the config before it asks
// Redox. If others change them meanwhile, the answer need not warn of what only the change made true.
func (s *simulation) check(n *node, c *simClient) answer {
	lc := s.laws.clients[c.name]
	before := *lc
	got := s.request("check", n, logical.ReadOperation, c, c.prefix()+"check", nil)
	if got.status != 200 || !got.active || !n.active {
		return got
	}
	text := strings.Join(got.resp.Warnings, "\n")
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	overdue := before.overdueNow(n.clock()) && lc.overdueNow(n.clock())
	if overdue && !says("the rotation has been overdue since") {
		s.violated("check of %s hides that its rotation is overdue: %s", c.name, text)
	}
	if got.on.failed[c.name] && !says("makes no progress", "overdue") {
		s.violated("check of %s hides that the last step failed: %s", c.name, text)
	}
	if before.unpublished() && lc.unpublished() && !says("the public keys at Redox are not up to date") {
		s.violated("check of %s hides that its keys are not published: %s", c.name, text)
	}
	return got
}

// settleAll ends all disturbances, and has operators mend what is broken. It fails the run unless everything is in
// order some hours later.
func (s *simulation) settleAll() {
	s.note("all disturbances end")
	s.calm = true
	defer func() { s.calm = false }()
	s.redox.calm()
	s.clocksRight()
	for _, n := range s.nodes {
		n.down, n.plan = false, disturbance{}
		n.replicate(s.now)
		n.invalidate(s.now)
	}
	for _, c := range s.clients {
		s.tidy(c)
	}
	for round := range 8 {
		const many = 200 // an hour takes a few for each client
		if s.passWorking(oneOf(&s.draws, "", "quiet", time.Hour, 61*time.Minute, 70*time.Minute), many) {
			s.violated("%d steps in an hour without disturbances", many)
		}
		for _, c := range s.clients {
			if c.way == "pasted" {
				s.paste(c)
			}
			if round < 6 {
				s.deleteKept(c)
			}
		}
		s.recover()
	}
	for _, c := range s.clients {
		s.inOrder(c)
	}
}

// tidy has operators mend what is broken for a client.
func (s *simulation) tidy(c *simClient) {
	lc := s.laws.clients[c.name]
	s.mend(c)
	if lc.config != nil && lc.config.PublishWindow > hour { // it is to be settled within hours
		s.writeConfig(c, map[string]any{"publish_window": "1h"})
	}
	if len(lc.ring.Keys) == 0 {
		s.operate("generate", logical.UpdateOperation, c, "keys/generate", nil)
	}
	var list []json.RawMessage
	for _, raw := range s.redox.raw(c) {
		var k listedKey
		_ = json.Unmarshal(raw, &k)
		if lc.ring.Get(keyring.ID(k.ID)) == nil || s.isOwn(c, raw) {
			list = append(list, raw)
		}
	}
	s.redox.edit(c, list)
	active := lc.ring.Active()
	if c.way != "pushed" || active == nil || !slices.Contains(s.redox.list(c.id), listedKey{string(active.ID), active.N}) {
		s.paste(c)
	}
}

// deleteKept deletes the keys that a read of keys lists as kept: only a person may
// delete them.
func (s *simulation) deleteKept(c *simClient) {
	got := s.request("look", s.active(), logical.ReadOperation, c, c.prefix()+"keys", nil)
	if got.status != 200 {
		s.violated("keys of %s cannot be read: %s", c.name, got.message)
		return
	}
	kept, _ := got.resp.Data["kept"].([]string)
	for _, key := range kept {
		s.operate("delete key", logical.DeleteOperation, c, "keys/"+key, map[string]any{"for key": key})
	}
}

// inOrder fails the run unless all is in order with a client.
func (s *simulation) inOrder(c *simClient) {
	lc, now := s.laws.clients[c.name], s.now
	bad := func(format string, args ...any) {
		s.violated("hours after all disturbances %s of %s: %s", fmt.Sprintf(format, args...), c.name, s.describe(lc))
	}
	if lc.config == nil || lc.ring.Active() == nil {
		bad("there is no config or no key")
		return
	}
	active := lc.ring.Active()
	for _, k := range lc.ring.Keys {
		over := now.Sub(later(lc.retired[k.ID], s.unsane).Add(seconds(lc.config.RetireAfter)))
		switch {
		case k.State == keyring.Retiring && over > 2*time.Hour && k.Accepted != "" && k.Accepted == active.Accepted:
			bad("the private half of %s is there %v after its time", k.ID, over)
		case k.State == keyring.Pending && k.Rotating && now.Sub(k.CreatedAt) > 7*time.Hour:
			bad("the rotation to %s does not end", k.ID)
		}
	}
	due := later(lc.signs, s.unsane).Add(seconds(lc.config.RotationPeriod))
	forgotten := lc.config.RotationPeriod > 0 && lc.ring.Pending() == nil && now.Sub(due) > 2*time.Hour
	if lc.overdueNow(now) || forgotten {
		bad("the rotation is overdue")
	}
	if active.Accepted == "" && (lc.config.RotationPeriod > 0 || len(lc.ring.In(keyring.Retiring)) > 0) {
		bad("it is not stored that Redox accepted %s", active.ID)
	}
	s.listInOrder(c, lc, bad)
	for range 2 { // the first read may have Redox fetch the keys
		for _, n := range s.nodes {
			s.readTokenOn(n, c)
		}
		s.recover()
	}
	if lc.excuse != "" {
		bad("reads are excused still (%s)", lc.excuse)
	}
	got := s.check(s.active(), c)
	pending := lc.ring.Pending()
	for _, warning := range got.warnings() {
		young := pending != nil && now.Sub(pending.CreatedAt) < 3*time.Hour // nobody has pasted it yet
		expected := young && strings.Contains(warning, string(pending.ID))
		if !strings.Contains(warning, "is kept, as") && !expected {
			bad("check warns: %s", warning)
		}
	}
	if got.status != 200 {
		bad("check says %s", got.message)
	}
}

func (a answer) warnings() []string {
	if a.resp == nil {
		return nil
	}
	return a.resp.Warnings
}

// listInOrder fails the run if the engine publishes a client's keys, and Redox does not list all of them or still
// lists a deleted one.
func (s *simulation) listInOrder(c *simClient, lc *lawClient, bad func(string, ...any)) {
	if c.way != "pushed" {
		return
	}
	if p := lc.ring.Publication; p == nil || p.Failure != "" {
		bad("the publication is %+v", p)
	}
	list := s.redox.list(c.id)
	for _, k := range lc.ring.Keys {
		if !slices.Contains(list, listedKey{string(k.ID), k.N}) {
			bad("Redox does not list %s", k.ID)
		}
	}
	for _, k := range list {
		if lc.listed[k] {
			bad("Redox lists the deleted key %s still", k.ID)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// setUp gives each client its first key and its config, and gives Redox the keys.
func (s *simulation) setUp() {
	for _, c := range s.clients {
		s.operate("generate", logical.UpdateOperation, c, "keys/generate", nil)
		settings := oneOf(&s.draws, c.name, "begin",
			map[string]any{"rotation_period": "720h"}, map[string]any{"rotation_period": "24h", "retire_after": "1h"},
			map[string]any{"rotation_period": "2160h", "reuse_tokens": true}, map[string]any{})
		settings["client_id"] = c.id
		s.writeConfig(c, settings)
		s.mend(c)
		s.paste(c)
	}
}

// simulated sums up all runs.
var simulated sums

type sums struct {
	mu     sync.Mutex
	runs   int
	events int
	passed time.Duration
	failed []string
	counts map[string]int
}

func (s *sums) add(seed uint64, got outcomeOfRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs++
	s.events += got.events
	s.passed += got.passed / 1000 // in a sum a duration would overflow
	if got.failure != "" {
		s.failed = append(s.failed, fmt.Sprint(seed))
	}
	if s.counts == nil {
		s.counts = map[string]int{}
	}
	for what, n := range got.counts {
		s.counts[what] += n
	}
}

func (s *sums) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf("%d seeds, %d events, %.0f simulated years; failing seeds: %v", s.runs, s.events,
		s.passed.Hours()*1000/24/365.25, s.failed)
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		text += fmt.Sprintf("\n%9d %s", s.counts[what], what)
	}
	return text
}
