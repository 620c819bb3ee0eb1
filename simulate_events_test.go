package redox

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxtest"
)

// event is something that happens.
type event struct {
	what   string
	weight int
	always bool // each seed has it
	nests  bool // it may happen while an operation waits for Redox
	do     func(s *simulation)
}

func allEvents() []event {
	return []event{
		{"read token", 60, true, true, (*simulation).readToken},
		{"step", 30, true, true, func(s *simulation) { s.work(s.anyClient("step")) }},
		{"check", 8, true, false, func(s *simulation) { s.check(s.anyNode("check"), s.anyClient("check")) }},
		{"look", 10, true, true, (*simulation).look},
		{"list", 4, true, false, (*simulation).listAll},
		{"periodic call", 4, true, false, (*simulation).periodic},
		{"replicate", 10, true, true, func(s *simulation) { s.standby().replicate(s.now) }},
		{"invalidate", 8, true, true, func(s *simulation) { s.standby().invalidate(s.now) }},
		{"all is well", 1, true, false, (*simulation).settleAll},
		{"paste", 10, true, true, (*simulation).pasteAny},
		{"mend", 8, true, true, func(s *simulation) { s.mend(s.anyClient("mend")) }},

		{"rotate", 4, false, true, func(s *simulation) { s.addKey("rotate") }},
		{"generate", 2, false, true, func(s *simulation) { s.addKey("generate") }},
		{"import", 1, false, true, func(s *simulation) { s.addKey("import") }},
		{"activate", 3, false, true, func(s *simulation) { s.activate(false) }},
		{"force", 1, false, true, func(s *simulation) { s.activate(true) }},
		{"delete key", 3, false, true, (*simulation).deleteKey},
		{"delete client", 1, false, true, (*simulation).deleteClient},
		{"configure", 6, false, true, (*simulation).configure},
		{"publish otherwise", 2, false, true, (*simulation).publishOtherwise},
		{"lead elsewhere", 2, false, true, (*simulation).leadElsewhere},
		{"delete config", 1, false, true, (*simulation).deleteConfig},
		{"misdirect", 2, false, false, (*simulation).misdirect},
		{"hosts", 3, false, true, (*simulation).writeHosts},

		{"storage fails", 8, false, false, func(s *simulation) { s.disturb(false) }},
		{"storage is down", 2, false, true, (*simulation).storageDown},
		{"kill", 5, false, false, func(s *simulation) { s.disturb(true) }},
		{"swap", 4, false, true, (*simulation).swap},
		{"clock", 2, false, true, (*simulation).jump},
		{"clocks right", 8, false, true, (*simulation).clocksRight},

		{"mood", 3, false, true, (*simulation).changeMood},
		{"good mood", 6, false, true, func(s *simulation) { s.redox.mood = "" }},
		{"lag", 1, false, true, (*simulation).lagMore},
		{"quirk", 3, false, true, (*simulation).quirk},
		{"others edit", 6, false, true, (*simulation).othersEdit},
	}
}

func (s *simulation) anyClient(kind string) *simClient {
	return oneOf(&s.draws, "", kind, s.clients...)
}
func (s *simulation) anyNode(kind string) *node { return s.nodes[s.below("", "node for "+kind, 2)] }

func (s *simulation) standby() *node {
	if s.nodes[0].active {
		return s.nodes[1]
	}
	return s.nodes[0]
}

// look reads or lists something for which the engine needs no request to Redox.
func (s *simulation) look() {
	c, n := s.anyClient("look"), s.anyNode("look")
	path := oneOf(&s.draws, "", "look at", "config", "keys", "jwks", "list", "clients", "metrics", "hosts", "key")
	switch path {
	case "list":
		s.request("look", n, logical.ListOperation, c, c.prefix()+"keys", nil)
	case "clients", "metrics", "hosts":
		op := logical.Operation(logical.ReadOperation)
		if path == "clients" {
			op = logical.ListOperation
		}
		s.request("look", n, op, nil, path, nil)
	case "key":
		s.request("look", n, logical.ReadOperation, c, c.prefix()+"keys/"+s.anyKey(c), nil)
	default:
		s.request("look", n, logical.ReadOperation, c, c.prefix()+path, nil)
	}
}

func (s *simulation) listAll() {
	n := s.anyNode("list")
	o, end := s.begin("list", n, nil)
	_, err := o.on.b.work(o.on).List(s.ctx)
	end()
	if o.failed && err == nil {
		s.violated("the list of clients says nothing of a failure")
	}
	s.note("list on %s: %v", n.name, err)
}

func (s *simulation) periodic() {
	n := s.anyNode("periodic")
	o, end := s.begin("periodic call", n, nil)
	err := o.on.b.PeriodicFunc(s.ctx, &logical.Request{Storage: o.on})
	end()
	s.note("periodic call on %s: %v", n.name, err)
}

// anyKey returns the ID of a key of the client's stored ring, "none" if the ring is
// empty.
func (s *simulation) anyKey(c *simClient) string {
	ring := s.laws.clients[c.name].ring
	if len(ring.Keys) == 0 {
		return "none"
	}
	return string(oneOf(&s.draws, c.name, "key", ring.Keys...).ID)
}

func (s *simulation) addKey(what string) {
	c, data := s.anyClient(what), map[string]any(nil)
	if what == "import" {
		if c.name != defaultClient {
			return // one client has it, as Redox's keys are told apart by their IDs
		}
		data = map[string]any{"private_key": importedPEM()}
	}
	s.operate(what, logical.UpdateOperation, c, "keys/"+what, data)
}

func (s *simulation) activate(force bool) {
	c := s.anyClient("activate")
	s.excuseReads(c.name, "somebody activated a key")
	key := s.anyKey(c)
	data := map[string]any{"force": force, "for key": key}
	s.operate("activate", logical.UpdateOperation, c, "keys/"+key+"/activate", data)
	s.excuseReads(c.name, "somebody activated a key")
}

func (s *simulation) deleteKey() {
	c := s.anyClient("delete key")
	key := s.anyKey(c)
	s.excuseReads(c.name, "somebody deleted a key")
	s.operate("delete key", logical.DeleteOperation, c, "keys/"+key,
		map[string]any{"force": s.oneIn(c.name, "the only key", 4), "for key": key})
	s.excuseReads(c.name, "somebody deleted a key")
}

func (s *simulation) deleteClient() {
	c := s.anyClient("delete client")
	if c.prefix() == "" {
		return
	}
	s.excuseReads(c.name, "somebody deleted the client")
	got := s.request("delete client", s.active(), logical.DeleteOperation, c, "clients/"+c.name,
		map[string]any{"force": s.oneIn(c.name, "with keys", 2)})
	if got.status != 400 {
		delete(got.on.failed, c.name)
	}
	s.excuseReads(c.name, "somebody deleted the client")
}

func (s *simulation) deleteConfig() {
	c := s.anyClient("delete config")
	s.excuseReads(c.name, "somebody deleted the config")
	got := s.operate("delete config", logical.DeleteOperation, c, "config", nil)
	delete(got.on.failed, c.name)
	s.excuseReads(c.name, "somebody deleted the config")
}

// writeConfig writes settings of a client.
func (s *simulation) writeConfig(c *simClient, settings map[string]any) answer {
	s.excuseReads(c.name, "somebody wrote the config")
	got := s.operate("config", logical.UpdateOperation, c, "config", settings)
	s.excuseReads(c.name, "somebody wrote the config")
	return got
}

func (s *simulation) configure() {
	c := s.anyClient("configure")
	all := map[string][]any{
		"rotation_period": {0.0, "1h", "24h", "720h", "2160h", "26h"}, "publish_window": {0.0, "15m", "1h", "24h"},
		"retire_after": {"1m", "5m", "1h", "24h", "168h"}, "assertion_ttl": {"30s", "5m"},
		"clock_leeway": {0.0, "5s", "10s"}, "reuse_tokens": {true, false}, "max_retries": {0.0, 1.0, 3.0},
		"scope": {"", "a b"},
	}
	given := map[string]any{}
	for range 1 + s.below(c.name, "settings", 4) {
		field := oneOf(&s.draws, c.name, "setting", slices.Sorted(maps.Keys(all))...)
		given[field] = oneOf(&s.draws, c.name, field, all[field]...)
	}
	s.writeConfig(c, given)
}

func (s *simulation) publishOtherwise() {
	c := s.anyClient("publish otherwise")
	if !c.platform {
		c.way = oneOf(&s.draws, c.name, "way", "pasted", "fetched", "pushed")
	}
	s.mend(c)
}

// mend writes a client's own client ID and Redox's token URL to the client's config. It also sets, in the config
// and at Redox, how Redox learns the client's keys.
func (s *simulation) mend(c *simClient) {
	settings := map[string]any{
		"client_id": c.id, "token_url": "", "public_jwks": c.way == "fetched", "platform_client": "",
	}
	url := ""
	switch {
	case c.platform:
		settings["manages"] = "default=id-of-default,acme=id-of-acme,zeta=id-of-zeta"
		s.redox.sandbox.RegisterUser(c.id, true)
	case c.way == "pushed":
		settings["platform_client"] = "platform"
	case c.way == "fetched":
		url = "https://vault.example/v1/redox/" + c.prefix() + "jwks"
	}
	if s.writeConfig(c, settings).status == 200 {
		s.redox.sandbox.RegisterURL(c.id, url)
		s.redox.changes[c.id]++
	}
}

func (s *simulation) leadElsewhere() {
	c := s.anyClient("elsewhere")
	s.writeConfig(c, oneOf(&s.draws, c.name, "elsewhere",
		map[string]any{"token_url": "https://" + elsewhere + "/v2/auth/token"}, map[string]any{"client_id": "another"},
		map[string]any{"platform_client": "acme", "public_jwks": false}))
}

// misdirect allows another host, which issues a token to everybody, and points a client there. Then it activates a
// key or begins a rotation, and takes three steps of the client.
func (s *simulation) misdirect() {
	c := s.anyClient("misdirect")
	s.excuseReads("", "somebody wrote the hosts")
	s.operate("hosts", logical.UpdateOperation, s.named(defaultClient), "hosts", map[string]any{"allowed": elsewhere})
	s.excuseReads("", "somebody wrote the hosts")
	s.writeConfig(c, map[string]any{
		"token_url": "https://" + elsewhere + "/v2/auth/token", "public_jwks": false, "platform_client": "",
	})
	if s.oneIn(c.name, "activate there", 3) {
		key := s.anyKey(c)
		s.operate("activate", logical.UpdateOperation, c, "keys/"+key+"/activate", map[string]any{"for key": key})
	} else {
		s.operate("rotate", logical.UpdateOperation, c, "keys/rotate", nil)
	}
	for range 3 {
		s.work(c)
	}
}

func (s *simulation) writeHosts() {
	c := s.named(defaultClient)
	s.excuseReads("", "somebody wrote the hosts")
	if s.oneIn("", "no hosts", 3) {
		s.operate("hosts", logical.DeleteOperation, c, "hosts", nil)
	} else {
		s.operate("hosts", logical.UpdateOperation, c, "hosts", map[string]any{"allowed": elsewhere})
	}
	s.excuseReads("", "somebody wrote the hosts")
}

func (s *simulation) pasteAny() {
	c := s.anyClient("paste")
	if c.way != "pushed" || s.oneIn(c.name, "paste all the same", 4) {
		s.paste(c)
	}
}

// paste replaces Redox's list of a client's keys with the keys that the mount shows. It keeps the keys of others
// that are in the list.
func (s *simulation) paste(c *simClient) {
	got := s.request("look", s.active(), logical.ReadOperation, c, c.prefix()+"keys", nil)
	if got.status != 200 {
		return
	}
	var shown struct{ Keys []json.RawMessage }
	_ = json.Unmarshal([]byte(got.resp.Data["jwks"].(string)), &shown)
	for _, raw := range s.redox.raw(c) {
		if !s.isOwn(c, raw) {
			shown.Keys = append(shown.Keys, raw)
		}
	}
	s.redox.edit(c, shown.Keys)
}

func (s *simulation) isOwn(c *simClient, raw json.RawMessage) bool {
	var k listedKey
	_ = json.Unmarshal(raw, &k)
	return s.laws.clients[c.name].own[k.ID+" "+k.N]
}

// disturb plans a fault at one of the next eight operations of a node: the operation fails or, if kills is true,
// the process is killed.
func (s *simulation) disturb(kills bool) {
	n := s.active()
	if s.oneIn("", "disturb the standby", 4) {
		n = s.standby()
	}
	n.plan = disturbance{1 + s.below("", "when", 8), kills, s.oneIn("", "after it acted", 2)}
}

func (s *simulation) storageDown() {
	n := s.anyNode("storage")
	n.down = !n.down && s.oneIn("", "down", 2)
	s.note("storage of %s is down: %v", n.name, n.down)
}

// jump sets the clock of a node.
func (s *simulation) jump() {
	n := s.anyNode("clock")
	n.skew = oneOf(&s.draws, "", "jump", time.Second, time.Minute, time.Hour, 24*time.Hour, 400*24*time.Hour)
	n.skew = oneOf(&s.draws, "", "back", n.skew, -n.skew)
	if n.skew.Abs() > time.Second {
		s.excuseReads("", "a clock is wrong")
	}
	s.unsane = s.now.AddDate(1000, 0, 0)
	s.note("the clock of %s is off by %v", n.name, n.skew)
	if len(s.ops) > 0 || s.oneIn("", "mended at once", 2) {
		return
	}
	for range 3 { // what is due by that clock is done
		for _, c := range s.clients {
			if c.way == "pasted" {
				s.paste(c)
			}
			s.work(c)
			s.work(c)
		}
		s.advance(16 * time.Minute)
	}
}

func (s *simulation) clocksRight() {
	if s.nodes[0].skew != 0 || s.nodes[1].skew != 0 {
		s.nodes[0].skew, s.nodes[1].skew, s.unsane = 0, 0, s.now
		s.note("the clocks are right")
		for _, c := range s.clients { // the safety net looks within a minute
			c.due = s.now.Add(s.upTo(c.name, "safety net", time.Minute))
		}
	}
}

func (s *simulation) changeMood() {
	s.redox.mood = oneOf(&s.draws, "", "mood", "is down", "limits", "refuses", "knows nothing", "is a firewall")
	s.note("Redox %s", s.redox.mood)
}

func (s *simulation) lagMore() {
	s.excuseReads("", "Redox learns late of keys")
	s.redox.late = s.oneIn("", "late", 2)
	s.redox.lags[1] = s.upTo("", "lag", 3*time.Hour)
	s.note("a machine lags by %v, and Redox cannot fetch: %v", s.redox.lags[1], s.redox.late)
}

func (s *simulation) quirk() {
	q := oneOf(&s.draws, "", "quirk", redoxtest.QuirkForgets, redoxtest.QuirkMerges, "")
	s.redox.setQuirk(q)
	s.note("quirk %q", q)
}

// othersEdit changes Redox's list of a client's keys, or the JWKS URL of the client's API key, as people may do in
// the dashboard.
func (s *simulation) othersEdit() {
	c := s.anyClient("edit")
	list := s.redox.raw(c)
	what := oneOf(&s.draws, c.name, "edit", "add", "add", "remove", "remove", "add under a taken ID", "empty",
		"give a URL")
	switch what {
	case "add":
		list = append(list, s.foreign(fmt.Sprint("x", s.trace.n)))
	case "remove":
		if len(list) > 0 {
			at := s.below(c.name, "remove", len(list))
			if s.isOwn(c, list[at]) {
				s.excuseReads(c.name, "others removed a key")
			}
			list = slices.Delete(list, at, at+1)
		}
	case "add under a taken ID":
		s.excuseReads(c.name, "others took a key's ID")
		list = append(list, s.foreign(s.anyKey(c)))
	case "empty":
		s.excuseReads(c.name, "Redox forgot the keys")
		list = nil
	case "give a URL":
		s.excuseReads(c.name, "others gave a JWKS URL")
		s.redox.sandbox.RegisterURL(c.id, oneOf(&s.draws, c.name, "url", "", "https://vault.example/v1/redox/nobody"))
	}
	s.note("others %s in the list of %s", what, c.name)
	s.redox.edit(c, list)
}

// foreign returns a public key from the stock, under the ID kid. It stands for a key of somebody else.
func (s *simulation) foreign(kid string) json.RawMessage {
	stock, err := simStock()
	if err != nil {
		s.violated("%v", err)
	}
	k := *stock[s.below("", "foreign", len(stock))].Key
	k.ID = keyring.ID(kid)
	raw, err := json.Marshal(k.JWK())
	if err != nil {
		s.violated("%v", err)
	}
	return raw
}
