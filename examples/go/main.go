// Command go searches for patients at Redox, with access tokens that it reads from Vault. It
// reads family names from standard input, one per line, and prints for each how many patients
// were found.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// redox holds an access token and sends requests to Redox with it. It is not safe for
// concurrent use: give each goroutine its own, or hold a mutex during each call.
type redox struct {
	http       http.Client
	token      string
	renew, end time.Time // when to read the next token, and when Redox refuses this one
}

// accessToken returns an access token. Once the time r.renew has passed, it reads a new one from
// Vault. If that fails, but may succeed later, it returns the old one until that ends.
func (r *redox) accessToken(ctx context.Context) (string, error) {
	for pause := time.Second; time.Now().After(r.renew); pause *= 2 {
		status, err := r.read(ctx)
		mayPass := status == 0 || status == http.StatusTooManyRequests || status >= 500 ||
			// the plugin is not on this node
			status == http.StatusNotFound && strings.Contains(err.Error(), "no handler for route")
		if err == nil || (mayPass || status == notAsked) && time.Now().Before(r.end) {
			break // there is a new token, or the old one is still valid
		} else if !mayPass || pause > 8*time.Second {
			return "", err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return "", fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
	return r.token, nil
}

// notAsked is the status if the file with the Vault token cannot be read, so that Vault was not
// asked. accessToken does not wait for that file.
const notAsked = -1

// read reads a token from Vault.
func (r *redox) read(ctx context.Context) (status int, err error) {
	token := []byte(os.Getenv("VAULT_TOKEN"))
	if file := os.Getenv("VAULT_TOKEN_FILE"); file != "" { // each time, as Vault Agent replaces it
		if token, err = os.ReadFile(file); err != nil {
			return notAsked, fmt.Errorf("VAULT_TOKEN_FILE: %w", err)
		}
	}
	asked := time.Now() // the token's life may begin now
	header := http.Header{"X-Vault-Token": {strings.TrimSpace(string(token))}}
	status, a, err := r.send(ctx, "GET", os.Getenv("VAULT_ADDR")+"/v1/redox/token", header, "")
	if err == nil && a.Data.AccessToken == "" {
		err = errors.New("Vault's answer holds no token")
	}
	if err == nil {
		r.token = a.Data.AccessToken
		r.renew, r.end = asked.Add(a.Data.TTL*time.Second), asked.Add(a.Data.ExpiresIn*time.Second)
	}
	return status, err
}

// patients returns how many patients Redox finds by the family name. If Redox answers 401, it
// reads an access token from Vault again and tries once more.
func (r *redox) patients(ctx context.Context, family string) (total int, err error) {
	for try := 1; ; try++ {
		token, err := r.accessToken(ctx)
		if err != nil {
			return 0, err
		}
		header := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/x-www-form-urlencoded"}}
		status, a, err := r.send(ctx, "POST", os.Getenv("REDOX_FHIR_BASE")+"/Patient/_search", header,
			url.Values{"family": {family}}.Encode())
		if status != http.StatusUnauthorized || try > 1 {
			return a.Total, err
		}
		r.renew, r.end = time.Time{}, time.Time{}
	}
}

type answer struct {
	Errors []string // of Vault: what to fix
	Data   struct {
		AccessToken string        `json:"access_token"`
		TTL         time.Duration // in seconds
		ExpiresIn   time.Duration `json:"expires_in"` // likewise
	}
	Total int // of Redox
}

// send makes a request. status is the status of the answer if that is not 200, and else 0.
func (r *redox) send(ctx context.Context, method, url string, header http.Header,
	body string) (status int, a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, a, err
	}
	req.Header = header
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, a, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err = json.NewDecoder(resp.Body).Decode(&a); resp.StatusCode != http.StatusOK {
		return resp.StatusCode, a, fmt.Errorf("%s: %s %s", url, resp.Status, strings.Join(a.Errors, "; "))
	}
	return 0, a, err
}

func main() {
	if os.Getenv("VAULT_ADDR") == "" || os.Getenv("REDOX_FHIR_BASE") == "" {
		log.Fatal("set VAULT_ADDR and REDOX_FHIR_BASE")
	}
	r := &redox{http: http.Client{Timeout: 30 * time.Second}}
	names := bufio.NewScanner(os.Stdin)
	for names.Scan() {
		total, err := r.patients(context.Background(), names.Text())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %d found\n", names.Text(), total)
	}
	if err := names.Err(); err != nil {
		log.Fatal(err)
	}
}
