package redox

import (
	"errors"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// logbook keeps what the log lines of a mount need to be of use and few.
type logbook struct {
	// mount is where requests come in. A rotation has no request to tell it by.
	mount atomic.Pointer[string]

	// failures bounds the lines of failed requests: when Redox is down, each of
	// thousands of readers would have one. skipped are those without a line.
	failures *rate.Limiter
	skipped  atomic.Int64
}

func newLogbook() *logbook { return &logbook{failures: rate.NewLimiter(10, 50)} }

// at notes where the mount is: it can be moved.
func (l *logbook) at(mount string) {
	if known := l.mount.Load(); known == nil || *known != mount {
		l.mount.Store(&mount)
	}
}

// mountPoint is empty until the first request, within a minute of the start.
func (l *logbook) mountPoint() string {
	if at := l.mount.Load(); at != nil {
		return *at
	}
	return ""
}

// log says in each line where it happened, as all mounts of one process share
// a log under the name of the one that was first.
func (b *backend) log(r *request) hclog.Logger {
	log := b.Logger().With("mount", r.MountPoint, "client", r.client)
	if r.ID == "" {
		return log
	}
	return log.With("request_id", r.ID)
}

// logFailure writes a line about a request that failed at Redox, with what the
// reader was told: that has the remedy. A mistake of the reader has none.
func (b *backend) logFailure(r *request, err error) {
	if !b.logbook.failures.AllowN(b.now(), 1) {
		b.logbook.skipped.Add(1)
		return
	}
	what := "no answer from Redox"
	var refused *refusal
	if errors.As(err, &refused) {
		what = "Redox refused"
	}
	log := b.log(r).With("path", r.Path)
	if skipped := b.logbook.skipped.Swap(0); skipped > 0 {
		log = log.With("lines_skipped", skipped)
	}
	log.Warn(what, "error", err)
}
