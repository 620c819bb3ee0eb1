package redox

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
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

	// failures limits how many lines failed requests write: when Redox is down, there
	// are thousands of them. skipped counts the failures without a line.
	failures *rate.Limiter
	skipped  atomic.Int64
}

func newMountLog() *mountLog { return &mountLog{failures: rate.NewLimiter(10, 50)} }

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

// failure writes a line about the error of a request, with the text that the reader
// got. It writes none if the request itself was wrong.
func (l *mountLog) failure(client, requestID, path string, now time.Time, err error) {
	var (
		rule    keyring.Rule
		user    userError
		host    *hostError
		missing notFound
		refused *redoxapi.Error
	)
	log := l.of(client, requestID).With("path", path)
	switch {
	case errors.As(err, &missing), errors.As(err, &user), errors.As(err, &host), errors.As(err, &rule):
	case errors.As(err, &refused):
		l.warnSeldom(log, "Redox refused", now, err)
	case isUpstream(err):
		l.warnSeldom(log, "no usable answer from Redox", now, err)
	default:
		log.Error("request failed", "error", err)
	}
}

func (l *mountLog) warnSeldom(log hclog.Logger, message string, now time.Time, err error) {
	if !l.failures.AllowN(now, 1) {
		l.skipped.Add(1)
		return
	}
	if skipped := l.skipped.Swap(0); skipped > 0 {
		log = log.With("lines_skipped", skipped)
	}
	log.Warn(message, "error", err)
}

// panicked logs where a panic happened, and returns the error for the reader. It logs
// the panic's value only if it comes from the Go runtime: any other value may hold a
// secret.
func (l *mountLog) panicked(path, requestID string, p any) error {
	what := fmt.Sprintf("%T", p)
	if fault, ok := p.(runtime.Error); ok {
		what = fault.Error()
	}
	l.logger().Error("panic in a handler: please report this", "mount", l.mountPoint(), "path", path,
		"request_id", requestID, "panic", what, "stack", string(debug.Stack()))
	return fmt.Errorf("internal error: the log of the Vault server says more under request ID %s", requestID)
}
