package redox

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/schedule"
)

// answer is the result of a request. The status is 0 if the process was killed.
type answer struct {
	*op
	resp    *logical.Response
	status  int
	message string
}

// begin starts an operation on a node. The caller must call end when the operation has
// ended.
func (s *simulation) begin(what string, n *node, c *simClient) (o *op, end func()) {
	o = &op{what: what, client: c, on: n.process, active: n.active, began: s.now}
	s.ops = append(s.ops, o)
	return o, func() {
		if what != "fetch" { // which a call of the token cache may wait for
			o.on.b.tokens.Wait()
		}
		s.ops = s.ops[:len(s.ops)-1]
		s.ended(o)
	}
}

// request sends a request to node n. For a request that writes, the caller must choose the active node.
func (s *simulation) request(
	what string, n *node, operation logical.Operation, c *simClient, path string, data map[string]any,
) (got answer) {
	if n.process.dead {
		return answer{op: &op{what: what, on: n.process, faults: 1}}
	}
	o, end := s.begin(what, n, c)
	o.pausing = what == "check" || what == "activate"
	o.key, _ = data["for key"].(string)
	o.force, _ = data[fieldForce].(bool)
	delete(data, "for key")
	resp, err := o.on.b.HandleRequest(s.ctx, &logical.Request{
		ID: "request-1", Operation: operation, Path: path, MountPoint: "redox/", Storage: o.on, Data: data,
	})
	end()
	got = answer{op: o, resp: resp}
	if !o.on.dead {
		got.status, got.message = outcome(operation, resp, err)
		s.said.WriteString(got.message + "\n")
		if resp != nil {
			fmt.Fprintln(&s.said, resp.Warnings)
		}
	}
	s.note("%s %s on %s: %d %.300s", what, path, n.name, got.status, got.message)
	return got
}

// operate sends the active node a request that writes. Afterwards the client's next step is due at once, or at
// most a minute later.
func (s *simulation) operate(
	what string, op logical.Operation, c *simClient, path string, data map[string]any,
) answer {
	got := s.request(what, s.active(), op, c, c.prefix()+path, data)
	if soon := s.now.Add(oneOf(&s.draws, c.name, "wake", 0, 0, 0, time.Minute)); c.due.IsZero() || soon.Before(c.due) {
		c.due = soon
	}
	return got
}

// work takes a step of a client, mostly on the active node. It does nothing if the process there is dead or takes
// a step of that client already.
func (s *simulation) work(c *simClient) {
	n := s.active()
	if !s.calm && s.oneIn(c.name, "step on the standby", 12) {
		n = s.standby()
	}
	if n.process.dead || slices.ContainsFunc(s.ops, func(o *op) bool {
		return o.what == "step" && o.client == c && o.on == n.process
	}) {
		return
	}
	o, end := s.begin("step", n, c)
	o.pausing = true
	next, err := n.process.b.work(n.process).Step(s.ctx, c.name)
	end()
	o.on.failed[c.name] = err != nil
	if o.failed && err == nil {
		s.violated("a step of %s says nothing of a failure", c.name)
	}
	if err == nil {
		s.judgeUnknown(o, c, next)
	}
	switch {
	case err != nil:
		c.due = s.now.Add(schedule.LookAgain)
	case next.IsZero() || next.After(n.clock().Add(time.Hour)) && s.oneIn(c.name, "look again", 4):
		c.due = s.now.Add(time.Hour)
	default:
		c.due = next.Add(-n.skew)
	}
	s.note("step of %s on %s: next at %s, %v", c.name, n.name, c.due.UTC().Format("06-01-02T15:04:05"), err)
	s.sample(c, n, err)
}

// sample sometimes reads check after a step that failed, and sometimes reads tokens after a step that changed the
// active key.
func (s *simulation) sample(c *simClient, n *node, err error) {
	lc := s.laws.clients[c.name]
	switch {
	case s.calm || len(s.ops) > 0:
	case err != nil && s.oneIn(c.name, "check after a failure", 2):
		s.check(n, c)
	case lc.signs.Equal(s.now) && s.oneIn(c.name, "read after a change", 2):
		for range 3 {
			s.readTokenOn(s.anyNode("read"), c)
		}
	}
}

// meanwhile sometimes lets something else happen while an operation waits for Redox.
func (s *simulation) meanwhile() {
	if s.calm || len(s.ops) > 2 || !s.op().pausing || !s.oneIn("", "meanwhile", 5) {
		return
	}
	s.happen(s.draw(func(e event) bool { return e.nests }))
	s.advance(s.upTo("", "while it waits", 3*time.Second))
}
