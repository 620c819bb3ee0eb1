package redox

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/schedule"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/tokencache"
)

// engine is what the endpoints and the rotation of one mount share. Only its field
// tokens keeps tokens. These fields keep copies of what is stored: entries (config and
// ring), hosts, overviews (for metrics), connections (ca_pem) and, to compare them, tokens
// and rechecks.
type engine struct {
	newKey func(bits int, now time.Time) (*keyring.Key, error) // generates one

	now         func() time.Time
	life        *life
	log         *mountLog
	metrics     *metrics
	entries     *entries
	hosts       *hosts
	connections *connections
	reads       *slots // of reads of token, in flight to Redox
	proofs      *slots // of proofs and checks
	generating  *slots // of keys that are generated
	signing     *slots // of assertions that are signed
	rechecks    *rechecks
	failures    *failures
	overviews   *overviews
	tokens      *tokencache.Cache[*issued]
	schedule    *schedule.Schedule

	// writeSafe reports whether this node may write to storage, and therefore rotates
	// keys.
	writeSafe func() bool

	// unread returns for how many known clients no step has begun yet. complete is true when
	// the list of clients was read and n is 0.
	unread func() (n int, complete bool)
}

func newEngine() *engine {
	e := &engine{
		now: time.Now, newKey: keyring.Generate, life: newLife(), log: newMountLog(), metrics: newMetrics(),
		rechecks: newRechecks(), failures: newFailures(), overviews: newOverviews(),
		reads: newReadSlots(), proofs: newProofSlots(), generating: newGenerateSlots(),
		signing: newSignSlots(),
	}
	clock := func() time.Time { return e.now() }
	e.entries = newEntries(e.life.ctx, clock)
	e.entries.onWrite, e.entries.onRead, e.entries.views.onRead = e.written, e.metrics.found, e.viewed
	e.hosts = newHosts(clock)
	e.connections = newConnections(clock)
	e.schedule = schedule.New(clock)
	e.unread = e.schedule.Unread
	e.tokens = tokencache.New[*issued](tokencache.Options{Now: clock, Passing: isUpstream})
	return e
}

// end ends the mount. It returns when nothing is under way any more, and then memory
// holds no key and no token. An ended engine cannot start again: Vault makes another.
func (e *engine) end() {
	e.life.end()
	e.schedule.Stop()
	e.tokens.Close()
	e.life.wait()
	e.entries.views.clear()
	e.connections.keep(nil)
	e.rechecks.keep(nil)
	e.failures.keep(nil)
	e.overviews.keep(nil)
	e.log.keep(nil)
	e.metrics.clear()
}

// written acts on a write of a client's entry. It renews what metrics shows of the client if
// the new state is known, and drops the client's token if the config or the active key may
// have changed. It wakes the workers of the client and of the clients in its manages.
func (e *engine) written(client string, w written) {
	if w.after != nil {
		e.overviews.note(client, w.after)
		e.metrics.found(client, w.after.Config != nil)
	}
	if w.config || w.active {
		e.tokens.Drop(client)
	}
	if w.deleted {
		e.metrics.found(client, false)
	}
	e.schedule.Wake(client)
	for _, managed := range w.managed {
		e.schedule.Wake(managed)
	}
}

// viewed notes a client whose view was read from storage: whether it has a config, and if
// so, when its next step is due.
func (e *engine) viewed(client string, v *view) {
	e.metrics.found(client, v.config != nil)
	if v.config == nil {
		return
	}
	due := e.now()
	if step := v.ring.Next(v.config.policy(), due); step.Action == keyring.Wait {
		due = step.At
	}
	e.schedule.Plan(client, due)
}

// forget frees a client's view, token, connection, rechecks, failures and overview. It leaves the
// client's metrics, its limit of log lines and its place in the schedule.
func (e *engine) forget(client string) {
	e.entries.views.forget(client)
	e.tokens.Drop(client)
	e.connections.forget(client)
	e.rechecks.forget(client)
	e.failures.note(client, nil, e.now())
	e.overviews.forget(client)
}

// request is one request to an endpoint for one client, or one step of the client's worker.
type request struct {
	*logical.Request
	client string // as stored: default for the bare paths
	paths  string // of this client, for remedies: redox/ or redox/clients/acme/
	fields *framework.FieldData
	worker bool // it is a step of the client's worker: nobody waits for it
}

// load reads the client of a request from storage.
func (r *request) load(ctx context.Context) (*state, error) {
	return loadState(ctx, r.Storage, r.client)
}

// loadComplete reads the client of a request. It returns an error if the client lacks
// something that a token request needs.
func (r *request) loadComplete(ctx context.Context) (*state, error) {
	s, err := r.load(ctx)
	if err == nil {
		err = complete(r.paths, s.Config, s.Ring)
	}
	return s, err
}

// update changes the client of a request.
func (e *engine) update(ctx context.Context, r *request, change func(*state) error) error {
	return e.entries.update(ctx, r.Storage, r.client, change)
}

// hostsChanged drops the list of hosts from memory. It is called after a failed write, too,
// as that may have reached storage. It drops all tokens as well: one from a host that is
// not allowed any more must not be handed out again.
func (e *engine) hostsChanged() {
	e.hosts.forget()
	e.tokens.Keep(nil)
}

// allow returns nil if the mount may talk to the host of c's token URL.
func (e *engine) allow(ctx context.Context, r *request, c *config) error {
	return e.hosts.allow(ctx, r.Storage, r.MountPoint, c)
}

// clientNamed returns a [client] that requests tokens with the config c. It uses the
// connection of the client called name.
func (e *engine) clientNamed(r *request, name string, c *config) (*client, error) {
	conn, err := e.connections.of(name, c.CAPEM)
	if err != nil {
		return nil, err
	}
	return &client{
		name: name, paths: r.paths, config: c, conn: conn, reads: e.reads, proofs: e.proofs, signing: e.signing,
		chargeTo: r.client, worker: r.worker, metrics: e.metrics, now: e.now, log: e.log.of(name, r.ID),
		allow: func(ctx context.Context) error {
			if e.life.ended() {
				return errEnded()
			}
			return e.allow(ctx, r, c)
		},
	}, nil
}

// issue requests a token for a read, or for the Platform API. If Redox does not know the
// key that was tried first, and the client has a platform_client, the node that rotates keys
// also wakes the client's worker to read Redox's list again, at most once in recheckAfter.
func (e *engine) issue(ctx context.Context, r *request, name string, v *view) (*issued, error) {
	c, err := e.clientNamed(r, name, v.config)
	if err != nil {
		return nil, err
	}
	t, unknownKey, err := c.issue(ctx, v)
	if unknownKey && v.config.PlatformClient != "" && e.writeSafe() && e.rechecks.ask(name, e.now()) {
		e.schedule.Wake(name)
	}
	if err == nil && t.keyID == v.ring.Active().ID {
		e.accepted(name, v.config, v.ring.Active())
	}
	return t, err
}

// prove requests a token with k, to find out whether Redox accepts k. No reader gets the
// token.
func (e *engine) prove(ctx context.Context, r *request, c *config, k *keyring.Key) (*redoxapi.Token, error) {
	if !r.worker { // a look at the view makes metrics count the client; a worker's step has done so
		if _, err := e.entries.view(ctx, r.Storage, r.client); err != nil {
			return nil, err
		}
	}
	as, err := e.clientNamed(r, r.client, c)
	if err != nil {
		return nil, err
	}
	return as.prove(ctx, k)
}

// generate makes a key for the client of a request, when it is that client's turn.
func (e *engine) generate(ctx context.Context, r *request, bits int) (*keyring.Key, error) {
	release, err := e.generating.acquire(ctx, r.client, r.worker)
	if err != nil {
		return nil, err
	}
	defer release()
	return e.newKey(bits, e.now())
}
