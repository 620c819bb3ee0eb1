package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// stub stands for both Vault and Redox. It gives the example programs answers that Vault and Redox give
// rarely, or at a time that a test cannot choose.
type stub struct {
	mu           sync.Mutex
	vault, redox string
	status       int    // the status of Vault's answers
	asked        int    // how many reads of a token came since the last stub refuses
	refuses      string // see stubCmd
	refused      int
	accepted     chan struct{} // closed when a token was accepted
	once         sync.Once
}

// stubCmd controls the stub, whose address is in STUB:
//
//	stub vault <JSON> [<status>]  sets the answer to a read of a token; # is the token's number
//	stub redox <JSON>  sets the answer to a search
//	stub refuses none  refuses no token
//	stub refuses all   refuses every token
//	stub refuses late  refuses token-1: its first search at once, later ones after another token was accepted
//	stub asked <n>     fails unless n reads of a token came since the last stub refuses
func stubCmd(ts *testscript.TestScript, _ bool, args []string) {
	p := &worldOf(ts).programs
	if p.stub == nil {
		p.stub = &stub{redox: `{"total":1}`, accepted: make(chan struct{})}
		server := httptest.NewServer(p.stub)
		ts.Defer(server.Close)
		ts.Setenv("STUB", server.URL)
	}
	s := p.stub
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[0] {
	case "vault":
		s.vault, s.status = args[1], http.StatusOK
		if len(args) > 2 {
			var err error
			s.status, err = strconv.Atoi(args[2])
			ts.Check(err)
		}
	case "redox":
		s.redox = args[1]
	case "refuses":
		s.refuses, s.refused, s.asked, s.accepted, s.once = args[1], 0, 0, make(chan struct{}), sync.Once{}
	case "asked":
		if got := fmt.Sprint(s.asked); got != args[1] {
			ts.Fatalf("%s reads of a token, want %s", got, args[1])
		}
	}
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodGet {
		s.asked++
		w.WriteHeader(s.status)
		_, _ = fmt.Fprint(w, strings.ReplaceAll(s.vault, "#", fmt.Sprint(s.asked)))
		return
	}
	isFirst := strings.HasSuffix(r.Header.Get("Authorization"), " token-1")
	if s.refuses == "all" || s.refuses == "late" && isFirst {
		if s.refused++; s.refuses == "late" && s.refused > 1 {
			s.mu.Unlock()
			select {
			case <-s.accepted:
			case <-time.After(10 * time.Second): // the script fails, by the count
			}
			s.mu.Lock()
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.once.Do(func() { close(s.accepted) })
	_, _ = fmt.Fprint(w, s.redox)
}
