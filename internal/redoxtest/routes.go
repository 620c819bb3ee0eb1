package redoxtest

import (
	"io"
	"net/http"
	"strconv"
	"strings"
)

// patient is the sandbox's only patient. Redox's own FHIR sandbox has it, too.
var patient = map[string]any{
	"resourceType": "Patient",
	"id":           "81c2f5eb-f99f-40c4-b504-59483e6148d7",
	"name":         []any{map[string]any{"use": "official", "family": "Green", "given": []string{"Keva"}}},
	"birthDate":    "1995-08-26",
}

// Handler returns the handler of all requests.
func (s *Sandbox) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v2/auth/token", s.token)
	mux.HandleFunc("/redirected", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		s.redirected++
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("POST /fhir/R4/redox-fhir-sandbox/Development/Patient/_search", s.authorized(s.searchPatient))
	mux.Handle("POST /endpoint", s.authorized(s.dataModel))
	s.platformRoutes(mux)
	mux.HandleFunc("PUT /dashboard/apikeys/{client_id}", s.dashboard)
	mux.HandleFunc("PUT /dashboard/users/{client_id}", s.dashboardUser)
	mux.HandleFunc("PUT /dashboard/fault", s.orderFault)
	return s.dated(mux)
}

// dated sets the Date header to the sandbox's clock, not the machine's.
func (s *Sandbox) dated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
		next.ServeHTTP(w, r)
	})
}

// authorized returns a handler that passes to next only requests with a valid access token.
func (s *Sandbox) authorized(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.Live(bearer(r)) {
			s.mu.Lock()
			s.unauthorized++
			s.mu.Unlock()
			s.answer(w, r, http.StatusUnauthorized, map[string]any{"error": "Unauthorized"}, "no live token")
			return
		}
		next(w, r)
	})
}

func bearer(r *http.Request) string {
	token, bears := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bears {
		return ""
	}
	return token
}

// searchPatient answers a FHIR search with a searchset Bundle.
func (s *Sandbox) searchPatient(w http.ResponseWriter, r *http.Request) {
	family, given := r.PostFormValue("family"), r.PostFormValue("given")
	entries := []any{}
	if (family == "" || strings.EqualFold(family, "Green")) && (given == "" || strings.EqualFold(given, "Keva")) {
		entries = append(entries, map[string]any{"resource": patient, "search": map[string]any{"mode": "match"}})
	}
	s.answer(w, r, http.StatusOK, map[string]any{
		"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries,
	}, "patient search")
}

// dataModel stands for the Data Model API.
func (s *Sandbox) dataModel(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, http.StatusOK, map[string]any{"Meta": map[string]any{"Message": map[string]any{"ID": 1}}}, "data model")
}

// dashboard does what Save Changes does in Redox's dashboard: it saves the JWK Set in the body.
// If the query has jwks_url, it saves that JWKS URL instead.
func (s *Sandbox) dashboard(w http.ResponseWriter, r *http.Request) {
	if url := r.URL.Query().Get("jwks_url"); url != "" {
		s.RegisterURL(r.PathValue("client_id"), url)
		s.log("PUT /dashboard/apikeys 204 JWKS URL saved")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = s.Register(r.PathValue("client_id"), body)
	}
	if err != nil {
		s.log("PUT /dashboard/apikeys 400")
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.log("PUT /dashboard/apikeys 204 keys saved")
	w.WriteHeader(http.StatusNoContent)
}

// dashboardUser makes an API key a user-level one, whose user may manage OAuth API keys. The
// handler dashboard saves its public keys.
func (s *Sandbox) dashboardUser(w http.ResponseWriter, r *http.Request) {
	s.RegisterUser(r.PathValue("client_id"), true)
	s.log("PUT /dashboard/users 204 user-level API key")
	w.WriteHeader(http.StatusNoContent)
}

// orderFault calls SetFault with the parameters name and times of the query. times is 1 if it
// is missing.
func (s *Sandbox) orderFault(w http.ResponseWriter, r *http.Request) {
	times := 1
	f, err := ParseFault(r.URL.Query().Get("name"))
	if text := r.URL.Query().Get("times"); err == nil && text != "" {
		times, err = strconv.Atoi(text)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.SetFault(f, times)
	w.WriteHeader(http.StatusNoContent)
}
