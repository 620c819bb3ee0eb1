package redox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/time/rate"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// mountLog writes the log lines of one mount. Each line names the mount, because all
// mounts of a process share one logger, which has the name of the first mount.
type mountLog struct {
	logger func() hclog.Logger

	// mount is the path of the mount, as the last request named it. A rotation has no
	// request, so it uses this one.
	mount atomic.Pointer[string]

	// failures limits how many lines warnSeldom writes for the mount: when Redox is down,
	// thousands of reads may fail, and each would write a line.
	failures *rate.Limiter

	mu      sync.Mutex // guards clients; no line is written under it
	clients map[string]*clientFailures
}

// clientFailures limits how many lines warnSeldom writes for one client: to a part of the
// mount's, so that other clients have lines, too.
type clientFailures struct {
	lines   *rate.Limiter
	skipped int64 // lines that were left out since the last one that was written
}

func newMountLog() *mountLog {
	return &mountLog{failures: rate.NewLimiter(10, 50), clients: map[string]*clientFailures{}}
}

// setMount stores the path of the mount. It can change: a mount can be moved.
func (l *mountLog) setMount(mount string) {
	if known := l.mount.Load(); known == nil || *known != mount {
		l.mount.Store(&mount)
	}
}

// mountPoint returns the path of the mount. It is empty until the first request,
// which comes within a minute of the start.
func (l *mountLog) mountPoint() string {
	if at := l.mount.Load(); at != nil {
		return *at
	}
	return ""
}

// of returns the logger for work on a client. requestID is empty for a rotation.
func (l *mountLog) of(client, requestID string) hclog.Logger {
	log := l.logger().With("mount", l.mountPoint(), "client", client)
	if requestID == "" {
		return log
	}
	return log.With("request_id", requestID)
}

// failure logs the error of a request. It logs nothing about a mistake of the reader, nor
// about an error of jwks. If ctx, which is the request's, has ended, it logs at level debug,
// unless Redox refused.
func (l *mountLog) failure(ctx context.Context, client, requestID, path string, now time.Time, err error) {
	var (
		rule    keyring.Rule
		user    userError
		host    *hostError
		missing notFound
		bare    bareError
		refused *redoxapi.Error
		up      *redoxapi.UpstreamError
	)
	log := l.of(client, requestID).With("path", path)
	switch {
	case errors.Is(err, logical.ErrReadOnly):
		log.Debug("the active node answers the request")
	case errors.As(err, &missing), errors.As(err, &bare), errors.As(err, &user), errors.As(err, &host),
		errors.As(err, &rule):
	case errors.As(err, &refused):
		l.warnSeldom(log, client, "Redox refused", now, err)
	case ctx.Err() != nil:
		log.Debug("nobody waits for the answer", "error", err)
	case errors.As(err, &up) && up.Kind == redoxapi.Overloaded:
		l.warnSeldom(log, client, "too much at once", now, err)
	case up != nil:
		l.warnSeldom(log, client, "no usable answer from Redox", now, err)
	default:
		log.Error("request failed", "error", err)
	}
}

// warnSeldom writes a line, unless it has recently written many for the client or for the
// mount. The next line of that client tells how many were skipped.
func (l *mountLog) warnSeldom(log hclog.Logger, client, message string, now time.Time, err error) {
	skipped, write := l.mayWrite(client, now)
	if !write {
		return
	}
	if skipped > 0 {
		log = log.With("lines_skipped", skipped)
	}
	log.Warn(message, "error", err)
}

func (l *mountLog) mayWrite(client string, now time.Time) (skipped int64, write bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.clients[client]
	if own == nil {
		own = &clientFailures{lines: rate.NewLimiter(1, 10)}
		l.clients[client] = own
	}
	if !own.lines.AllowN(now, 1) || !l.failures.AllowN(now, 1) {
		own.skipped++
		return 0, false
	}
	skipped, own.skipped = own.skipped, 0
	return skipped, true
}

// keep deletes the records of the clients that are not in clients.
func (l *mountLog) keep(clients map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.clients, func(client string, _ *clientFailures) bool { return !clients[client] })
}

// panicked logs where a panic came from, and returns the error to show. It logs the panic's
// value only if that is a [runtime.Error], as any other may hold a secret.
func (l *mountLog) panicked(path, requestID string, p any) error {
	what := fmt.Sprintf("%T", p)
	if fault, ok := p.(runtime.Error); ok {
		what = fault.Error()
	}
	l.logger().Error("panic in a handler: please report this", "mount", l.mountPoint(), "path", path,
		"request_id", requestID, "panic", what, "stack", string(debug.Stack()))
	return fmt.Errorf("internal error: the log of the Vault server says more under request ID %s", requestID)
}
