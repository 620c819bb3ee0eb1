package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The kinds of External Secrets Operator, with the fields that the example uses.
// tools/external-secrets checks the example against the complete definitions.
type (
	generator struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			Path, Method string
			ResultType   string `yaml:"resultType"`
			Provider     struct {
				Server string
				Auth   struct {
					Kubernetes struct {
						MountPath         string `yaml:"mountPath"`
						Role              string
						ServiceAccountRef struct {
							Name      string
							Audiences []string
						} `yaml:"serviceAccountRef"`
					}
				}
			}
		}
	}
	objectRef struct {
		APIVersion string `yaml:"apiVersion"`
		Kind, Name string
	}
	externalSecret struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			RefreshInterval time.Duration `yaml:"refreshInterval"`
			Target          struct {
				Name     string
				Template struct{ Data map[string]string }
			}
			DataFrom []struct {
				SourceRef struct {
					GeneratorRef objectRef `yaml:"generatorRef"`
				} `yaml:"sourceRef"`
			} `yaml:"dataFrom"`
		}
	}
)

// externalSecretsCmd does with a manifest what External Secrets Operator does, and
// checks the token like operatorCmd: externalsecrets <manifest>.
func externalSecretsCmd(ts *testscript.TestScript, neg bool, args []string) {
	refuse(ts, neg, args[0], func() error {
		var from generator
		var to externalSecret
		if err := decode(ts.MkAbs(args[0]), &from, &to); err != nil {
			return err
		}
		if err := to.wrong(from); err != nil {
			return err
		}
		kube := from.Spec.Provider.Auth.Kubernetes
		account := serviceAccount{from.Metadata.Namespace, kube.ServiceAccountRef.Name}
		answer, err := worldOf(ts).asPod(account, kube.MountPath, kube.Role, kube.ServiceAccountRef.Audiences, from.Spec.Path)
		if err != nil {
			return err
		}
		if err := to.renders(answer); err != nil {
			return err
		}
		return leaves(ts, answer, to.Spec.RefreshInterval, to.Spec.RefreshInterval)
	})
}

func (e externalSecret) wrong(from generator) error {
	ref := objectRef{from.APIVersion, from.Kind, from.Metadata.Name}
	switch {
	case len(e.Spec.DataFrom) != 1 || e.Spec.DataFrom[0].SourceRef.GeneratorRef != ref ||
		e.Metadata.Namespace != from.Metadata.Namespace:
		return fmt.Errorf("it does not read from the generator: %+v", e)
	case from.Spec.Method != "GET" || from.Spec.ResultType != "Data":
		return fmt.Errorf("a token is read, and its data taken: %+v", from.Spec)
	case e.Spec.RefreshInterval <= 0:
		return fmt.Errorf("with refreshInterval %v it never comes back", e.Spec.RefreshInterval)
	}
	return nil
}

// renders reports whether the answer has all fields that the template names.
func (e externalSecret) renders(answer []byte) error {
	var got struct{ Data map[string]any }
	if err := json.Unmarshal(answer, &got); err != nil {
		return err
	}
	for key, text := range e.Spec.Target.Template.Data {
		field := regexp.MustCompile(`^{{ \.(\w+) }}$`).FindStringSubmatch(text)
		if field == nil || got.Data[field[1]] == nil {
			return fmt.Errorf("the answer has no field for %s: %s", key, text)
		}
	}
	return nil
}
