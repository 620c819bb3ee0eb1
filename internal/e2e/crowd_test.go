package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"
)

// crowdCmd makes n clients, c0, c1 and so on, all with the key of key.pem and a
// rotation_period: crowd <n>.
func crowdCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	key, err := json.Marshal(ts.ReadFile("key.pem"))
	ts.Check(err)
	settings := fmt.Sprintf(`{"client_id":"crowd","token_url":%q,"rotation_period":"2160h"}`, ts.Getenv("REDOX")+
		"/v2/auth/token")
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		all.Go(func() {
			for i := next.Add(1) - 1; int(i) < n; i = next.Add(1) - 1 {
				path := fmt.Sprintf("redox/clients/c%d/", i)
				status, answer, err := w.call(http.MethodPost, path+"keys/import", `{"private_key":`+string(key)+`}`)
				if err == nil && status == http.StatusOK {
					status, answer, err = w.call(http.MethodPost, path+"config", settings)
				}
				if err != nil || status != http.StatusOK {
					errs <- errors.Join(err, fmt.Errorf("making client %d: HTTP %d %s", i, status, answer))
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		ts.Check(err)
	default:
	}
}
