package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"gopkg.in/yaml.v3"
)

// inHand is how long a token must still live when an operator reads the next one:
// Vault may be unavailable for a while, and Kubernetes needs time to pass a Secret
// on.
const inHand = 50 * time.Second

type metadata struct{ Name, Namespace string }

// The kinds of Vault Secrets Operator. They have all fields that its resource
// definitions define for the features used here. Any other field is an error.
type (
	vaultConnection struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			Address         string
			CACertSecretRef string `yaml:"caCertSecretRef"`
			Headers         map[string]string
			SkipTLSVerify   bool `yaml:"skipTLSVerify"`
			Timeout         string
			TLSServerName   string `yaml:"tlsServerName"`
		}
	}
	vaultAuth struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			VaultConnectionRef string `yaml:"vaultConnectionRef"`
			Namespace          string
			AllowedNamespaces  []string `yaml:"allowedNamespaces"`
			Method             string
			Mount              string
			Params, Headers    map[string]string
			Kubernetes         struct {
				Role                   string
				ServiceAccount         string `yaml:"serviceAccount"`
				Audiences              []string
				TokenExpirationSeconds int64 `yaml:"tokenExpirationSeconds"`
			}
		}
	}
	vaultDynamicSecret struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			VaultAuthRef          string `yaml:"vaultAuthRef"`
			Namespace             string
			Mount                 string
			RequestHTTPMethod     string `yaml:"requestHTTPMethod"`
			Path                  string
			Params                map[string]string
			RenewalPercent        *int `yaml:"renewalPercent"`
			Revoke                bool
			AllowStaticCreds      bool                `yaml:"allowStaticCreds"`
			RefreshAfter          string              `yaml:"refreshAfter"`
			RolloutRestartTargets []map[string]string `yaml:"rolloutRestartTargets"`
			Destination           struct {
				Name, Type          string
				Create, Overwrite   bool
				Labels, Annotations map[string]string
				Transformation      struct {
					ExcludeRaw         bool `yaml:"excludeRaw"`
					Includes, Excludes []string
				}
			}
		}
	}
)

// decode reads the documents of a YAML file, one into each of out. An unknown field
// and a wrong number of documents are errors.
func decode(path string, out ...any) error {
	raw, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	for _, document := range out {
		if err := decoder.Decode(document); err != nil {
			return err
		}
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("there are more than %d documents: %w", len(out), err)
	}
	return nil
}

// operatorCmd does with a manifest what Vault Secrets Operator does: it logs in,
// reads the token, and computes when to read the next one. It prints that time, and
// fails if the token has too little life left then: operator <connection> <manifest>.
func operatorCmd(ts *testscript.TestScript, neg bool, args []string) {
	refuse(ts, neg, args[1], func() error {
		var connection vaultConnection
		var auth vaultAuth
		var secret vaultDynamicSecret
		err := errors.Join(decode(ts.MkAbs(args[0]), &connection, &auth), decode(ts.MkAbs(args[1]), &secret))
		if err := errors.Join(err, connection.wrong(), auth.wrong(connection.Metadata),
			secret.wrong(auth.Metadata)); err != nil {
			return err
		}
		kube := auth.Spec.Kubernetes
		account := serviceAccount{secret.Metadata.Namespace, kube.ServiceAccount}
		answer, err := worldOf(ts).asPod(account, auth.Spec.Mount, kube.Role, kube.Audiences,
			secret.Spec.Mount+"/"+secret.Spec.Path)
		if err != nil {
			return err
		}
		soonest, latest, err := secret.comesBack(answer)
		if err != nil {
			return err
		}
		return leaves(ts, answer, soonest, latest)
	})
}

// refuse runs a command that reads a manifest. If an error was expected, it writes
// the error to stderr.
func refuse(ts *testscript.TestScript, neg bool, manifest string, do func() error) {
	err := do()
	if neg == (err == nil) {
		ts.Fatalf("%s: %v", manifest, err)
	}
	_, _ = fmt.Fprintln(ts.Stderr(), err)
}

// leaves prints when the reader reads the next token, and how long this one lives. It
// fails if this one has too little life left then.
func leaves(ts *testscript.TestScript, answer []byte, soonest, latest time.Duration) error {
	var token struct {
		Data struct {
			AccessToken string `json:"access_token"`
		}
	}
	if err := json.Unmarshal(answer, &token); err != nil {
		return err
	}
	left := worldOf(ts).sandbox.Left(token.Data.AccessToken)
	_, _ = fmt.Fprintf(ts.Stdout(), "comes back after %.1f to %.1f s, of %.0f that the token has\n", soonest.Seconds(),
		latest.Seconds(), left.Seconds())
	if left-latest < inHand {
		return fmt.Errorf("the token has %.1f s left when the next one is read", (left - latest).Seconds())
	}
	return nil
}

func (c vaultConnection) wrong() error {
	if c.APIVersion != "secrets.hashicorp.com/v1beta1" || c.Kind != "VaultConnection" ||
		!strings.HasPrefix(c.Spec.Address, "https://") || c.Spec.SkipTLSVerify {
		return fmt.Errorf("no VaultConnection that checks Vault's certificate: %+v", c)
	}
	return nil
}

func (a vaultAuth) wrong(connection metadata) error {
	ref := metadata{a.Spec.VaultConnectionRef, a.Metadata.Namespace}
	if a.APIVersion != "secrets.hashicorp.com/v1beta1" || a.Kind != "VaultAuth" || a.Spec.Method != "kubernetes" ||
		ref != connection {
		return fmt.Errorf("no VaultAuth for that connection: %+v", a)
	}
	return nil
}

func (s vaultDynamicSecret) wrong(auth metadata) error {
	ref := metadata{s.Spec.VaultAuthRef, s.Metadata.Namespace}
	percent := s.percent()
	switch {
	case s.APIVersion != "secrets.hashicorp.com/v1beta1", s.Kind != "VaultDynamicSecret", ref != auth:
		return fmt.Errorf("no VaultDynamicSecret for that VaultAuth: %+v", s)
	case s.Spec.Mount == "", s.Spec.Path == "", s.Spec.Destination.Name == "":
		return errors.New("mount, path and a name of the destination are required")
	case !s.Spec.Destination.Create:
		return errors.New("nobody creates the Secret")
	case len(s.Spec.Params) > 0, s.Spec.RequestHTTPMethod != "" && s.Spec.RequestHTTPMethod != "GET":
		return errors.New("a token is read, and not written")
	case percent < 0, percent > 90:
		return errors.New("renewalPercent is 0 to 90")
	case s.Spec.RefreshAfter != "" && !regexp.MustCompile(`^([0-9]+(\.[0-9]+)?(s|m|h))$`).MatchString(s.Spec.RefreshAfter):
		return errors.New("refreshAfter is no duration with one unit")
	case len(s.Spec.RolloutRestartTargets) > 0:
		return errors.New("each token would restart the program")
	}
	return nil
}

func (s vaultDynamicSecret) percent() int {
	if s.Spec.RenewalPercent == nil {
		return 67
	}
	return *s.Spec.RenewalPercent
}

// comesBack computes, as the operator does, when it reads the path again. The result
// is the earliest and the latest time, because part of it is random.
func (s vaultDynamicSecret) comesBack(answer []byte) (soonest, latest time.Duration, err error) {
	var got struct {
		LeaseDuration int `json:"lease_duration"`
		Data          map[string]any
	}
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber()
	if err := decoder.Decode(&got); err != nil {
		return 0, 0, err
	}
	if got.LeaseDuration != 0 {
		return 0, 0, errors.New("a lease goes before all that the manifest says")
	}
	if s.Spec.AllowStaticCreds {
		return staticCreds(got.Data)
	}
	if s.Spec.RefreshAfter == "" {
		return 0, 0, errors.New("without a lease or refreshAfter it never comes back")
	}
	after, err := time.ParseDuration(s.Spec.RefreshAfter)
	soonest = after * time.Duration(s.percent()) / 100
	return soonest, soonest + after/10, err
}

// staticCreds reads the three fields as strictly as the operator does: a string
// with a time, and two whole numbers.
func staticCreds(data map[string]any) (soonest, latest time.Duration, err error) {
	last, _ := data["last_vault_rotation"].(string)
	if _, err := time.Parse(time.RFC3339Nano, last); err != nil {
		return 0, 0, fmt.Errorf("last_vault_rotation: %w", err)
	}
	var numbers [2]int64
	for i, name := range []string{"rotation_period", "ttl"} {
		number, _ := data[name].(json.Number)
		if numbers[i], err = number.Int64(); err != nil || numbers[i] < 1 {
			return 0, 0, fmt.Errorf("%s is %v: %w", name, data[name], err)
		}
	}
	soonest = time.Duration(numbers[1])*time.Second + 500*time.Millisecond
	return soonest, soonest + 150*time.Millisecond, nil
}
