package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// callAs sends a request to the script's Vault with the given token instead of the root token.
func (w *world) callAs(token, method, path, body string) (status int, answer []byte, err error) {
	root := w.rootToken
	w.rootToken = token
	defer func() { w.rootToken = root }()
	return w.call(method, path, body)
}

// rightsCmd sends all requests of a table as the first persona, then as the next, and so on:
//
//	rights <table> <persona>=<token>…
//
// A row is <status> <method> <path> [<body>] : <personas>. The named personas must get that status, and all
// others must be denied. In a path, ACTIVE and PENDING are the IDs of the keys in that state; in a body, KEY
// is a private key.
func rightsCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	key, err := json.Marshal(ts.ReadFile("key.pem"))
	ts.Check(err)
	tried, allowed := 0, 0
	for _, persona := range args[1:] {
		name, token, _ := strings.Cut(persona, "=")
		for row := range strings.Lines(ts.ReadFile(args[0])) {
			request, who, found := strings.Cut(row, " : ")
			words := strings.SplitN(request, " ", 4)
			if !found || len(words) < 3 {
				ts.Fatalf("not a row: %s", row)
			}
			want, err := strconv.Atoi(words[0])
			ts.Check(err)
			body := ""
			if len(words) > 3 {
				body = strings.Replace(words[3], "KEY", string(key), 1)
			}
			path := words[2]
			if path != strings.ToLower(path) {
				active, pending := w.ring(ts)
				path = strings.NewReplacer("PENDING", pending, "ACTIVE", active).Replace(path)
			}
			if words[1] == http.MethodDelete {
				ts.Check(w.keepKeys())
			}
			status, answer, err := w.callAs(token, words[1], path, body)
			ts.Check(err)
			w.record(path, string(answer))
			tried++
			denied := status == http.StatusForbidden && strings.Contains(string(answer), "permission denied")
			if may := regexp.MustCompile(`(^| )` + name + `\s`).MatchString(who); !may && !denied || may && status != want {
				ts.Fatalf("%s: %s %s: HTTP %d", name, words[1], path, status)
			} else if may {
				allowed++
			}
		}
	}
	_, _ = fmt.Fprintf(ts.Stdout(), "%d tried, %d allowed, %d denied\n", tried, allowed, tried-allowed)
}

// ring returns the IDs of the default client's active and pending keys. An ID is "none" if there is no such
// key.
func (w *world) ring(ts *testscript.TestScript) (active, pending string) {
	status, answer, err := w.call(http.MethodGet, "redox/keys", "")
	ts.Check(err)
	var keys struct {
		Data struct{ Active, Pending string }
	}
	if err := json.Unmarshal(answer, &keys); err != nil || status != http.StatusOK {
		ts.Fatalf("redox/keys: HTTP %d, %v", status, err)
	}
	return cmp.Or(keys.Data.Active, "none"), cmp.Or(keys.Data.Pending, "none")
}
