package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// untilCmd repeats a command of the CLI until it succeeds and its stdout matches: until
// <regexp> args…
func untilCmd(ts *testscript.TestScript, _ bool, args []string) {
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(150 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec("vault", args[1:]...)
		stdout := ts.ReadFile("stdout")
		worldOf(ts).record(strings.Join(args[1:], " "), stdout, ts.ReadFile("stderr"))
		if err == nil && want.MatchString(stdout) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("vault %s never says %s: %s", strings.Join(args[1:], " "), args[0], stdout)
		}
	}
}

// anonymousCmd sends a request without a token to Vault's API, and fails unless the status is <status>:
// anonymous <status> <method> <path>. The body becomes stdout, the headers stderr.
func anonymousCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	req, err := http.NewRequestWithContext(context.Background(), args[1], w.vault.addr+"/v1/"+args[2], nil)
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	w.record(strings.Join(args, " "), string(body))
	_, err = ts.Stdout().Write(body)
	ts.Check(err)
	for name, values := range resp.Header {
		_, err = fmt.Fprintf(ts.Stderr(), "%s: %s\n", name, strings.Join(values, ", "))
		ts.Check(err)
	}
	if got := strconv.Itoa(resp.StatusCode); got != args[0] {
		ts.Fatalf("%s %s: HTTP %s, want %s: %s", args[1], args[2], got, args[0], body)
	}
}

// readers read tokens without pause, and ask the sandbox whether it accepts each one.
type readers struct {
	stop                   context.CancelFunc
	all                    sync.WaitGroup
	reads, failed, refused atomic.Int64
	first                  atomic.Value // the first failure
}

// read starts 16 readers, spread over the clients at paths.
func (w *world) read(paths ...string) *readers {
	ctx, stop := context.WithCancel(context.Background())
	r := &readers{stop: stop}
	for i := range 16 {
		path := paths[i%len(paths)]
		r.all.Go(func() {
			for ctx.Err() == nil {
				token, err := w.token(path)
				r.reads.Add(1)
				switch {
				case err != nil:
					r.failed.Add(1)
					r.first.CompareAndSwap(nil, err.Error())
				case !w.sandbox.Live(token):
					r.refused.Add(1)
				}
			}
		})
	}
	return r
}

// end stops the readers and prints the result.
func (r *readers) end(ts *testscript.TestScript) {
	r.stop()
	r.all.Wait()
	_, _ = fmt.Fprintf(ts.Stdout(), "%d reads, %d failed, %d tokens refused\n", r.reads.Load(),
		r.failed.Load(), r.refused.Load())
	if text := r.first.Load(); text != nil {
		_, _ = fmt.Fprintf(ts.Stdout(), "the first failure: %v\n", text)
	}
}

// readersCmd starts readers, or stops them and prints the result: readers start
// <path of a client>…, readers stop.
func readersCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	if args[0] == "start" {
		w.readers = w.read(args[1:]...)
		return
	}
	w.readers.end(ts)
	w.readers = nil
}

// pasteCmd keeps a client's keys pasted into the dashboard until the script ends (see
// keepPasting): paste <client ID> <path of keys>.
func pasteCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { w.keepPasting(ctx, args[0], strings.TrimSuffix(args[1], "/keys")) })
	ts.Defer(func() { cancel(); done.Wait() })
}

// keepPasting looks twice a second whether the client's keys differ from what Redox has, and pastes them into
// the dashboard if so. It returns when ctx ends. path is the client's path.
func (w *world) keepPasting(ctx context.Context, clientID, path string) {
	for ctx.Err() == nil {
		if _, answer, err := w.call(http.MethodGet, path+"/keys", ""); err == nil {
			if set, err := field(answer, "jwks"); err == nil && set != w.sandbox.JWKS(clientID) {
				_ = w.sandbox.Register(clientID, []byte(set)) // a failure shows in the rotation
			}
		}
		wait(ctx, 500*time.Millisecond)
	}
}

// rotationsCmd makes n rotations, one after the other, while readers read. With a client ID, it first
// generates and pastes each new key: rotations <n> <path> [<client ID>].
func rotationsCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	r := w.read(args[1])
	start := time.Now()
	for i := range n {
		if len(args) > 2 {
			_, _, err = w.call(http.MethodPut, args[1]+"/keys/generate", "")
			ts.Check(err)
			ts.Check(w.paste(args[2], args[1]))
		}
		_, answer, err := w.call(http.MethodPut, args[1]+"/keys/rotate", "")
		ts.Check(err)
		id, err := field(answer, "key_id")
		ts.Check(err)
		_, _ = fmt.Fprintf(ts.Stdout(), "%5.1f s: rotation %d begins, to %s\n", time.Since(start).Seconds(), i+1, id)
		ts.Check(w.waitActive(args[1], id))
		_, _ = fmt.Fprintf(ts.Stdout(), "%5.1f s: it signs\n", time.Since(start).Seconds())
	}
	_, _ = fmt.Fprintf(ts.Stdout(), "%d rotations, ", n)
	r.end(ts)
}

// paste registers a client's keys at Redox. path is the client's path.
func (w *world) paste(clientID, path string) error {
	_, answer, err := w.call(http.MethodGet, path+"/keys", "")
	if err != nil {
		return err
	}
	set, err := field(answer, "jwks")
	if err != nil {
		return err
	}
	return w.sandbox.Register(clientID, []byte(set))
}

// leakCmd does what docs/rotation.md says to do after a leak, while readers read, and prints how long that
// took: leak <path of a client> <client ID> [pushed]. With pushed the engine publishes the keys, otherwise
// leakCmd pastes them. Redox must no longer list the old keys.
func leakCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	publish := func() {
		if len(args) > 2 {
			_, err := w.settled(args[0])
			ts.Check(err)
			return
		}
		ts.Check(w.paste(args[1], args[0]))
	}
	leaked, err := w.settled(args[0])
	ts.Check(err)
	ts.Check(w.keepKeys())
	r := w.read(args[0])
	start := time.Now()
	_, answer, err := w.call(http.MethodPut, args[0]+"/keys/generate", "")
	ts.Check(err)
	next, err := field(answer, "key_id")
	ts.Check(err)
	publish()
	do := func(method, path string) {
		status, answer, err := w.call(method, args[0]+"/keys/"+path, "")
		ts.Check(err)
		if status >= 300 {
			ts.Fatalf("%s %s: HTTP %d %s", method, path, status, answer)
		}
	}
	do(http.MethodPut, next+"/activate")
	do(http.MethodDelete, leaked)
	_, answer, err = w.call("LIST", args[0]+"/keys", "")
	ts.Check(err)
	var ring struct{ Data struct{ Keys []string } }
	ts.Check(json.Unmarshal(answer, &ring))
	for _, id := range ring.Data.Keys { // a thief of the storage has the retiring keys, too
		if id != next {
			do(http.MethodDelete, id)
		}
	}
	publish()
	_, _ = fmt.Fprintf(ts.Stdout(), "Redox forgot the leaked key %.1f s after the first command\n",
		time.Since(start).Seconds())
	for _, id := range append(ring.Data.Keys, leaked) {
		if listed := strings.Contains(w.sandbox.JWKS(args[1]), id); listed != (id == next) {
			ts.Fatalf("Redox lists %s: %v; the new key is %s", id, listed, next)
		}
	}
	r.end(ts)
}

func (w *world) token(mount string) (string, error) {
	status, answer, err := w.call(http.MethodGet, mount+"/token", "")
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("HTTP %d: %s", status, answer)
	}
	return field(answer, "access_token")
}

func (w *world) waitActive(mount, id string) error {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		_, answer, err := w.call(http.MethodGet, mount+"/keys", "")
		if err != nil {
			return err
		}
		if active, err := field(answer, "active"); err == nil && active == id {
			return nil
		}
	}
	return errors.New("key " + id + " never became active")
}

func field(answer []byte, name string) (string, error) {
	var body struct{ Data map[string]any }
	if err := json.Unmarshal(answer, &body); err != nil {
		return "", fmt.Errorf("%w: %s", err, answer)
	}
	value, is := body.Data[name].(string)
	if !is {
		return "", fmt.Errorf("no field %s in %s", name, answer)
	}
	return value, nil
}
