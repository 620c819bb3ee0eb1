// Package externalsecrets checks manifests for External Secrets Operator against the
// operator's resource definitions, with the library that the Kubernetes API server
// uses.
package externalsecrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"
)

// The operator's module contains the definitions. It is named here and not in go.mod:
// no code of it is imported, so go mod tidy would remove it.
const (
	operator    = "github.com/external-secrets/external-secrets@v1.3.2"
	operatorSum = "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ="
)

// operatorDir downloads the operator's source, checks that it is unaltered, and
// returns the folder.
func operatorDir(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", operator)
	cmd.Dir = os.TempDir() // has no go.mod that the command could change
	out, runErr := cmd.Output()
	var module struct{ Dir, Sum, Error string }
	if err := json.Unmarshal(out, &module); err != nil || runErr != nil {
		return "", fmt.Errorf("downloading %s: %s %w", operator, module.Error, errors.Join(err, runErr))
	}
	if module.Sum != operatorSum {
		return "", fmt.Errorf("%s has the checksum %s, not %s", operator, module.Sum, operatorSum)
	}
	return module.Dir, nil
}

// definitions holds the schemas by apiVersion and kind.
type definitions map[string]*spec.Schema

// load reads all definitions in the operator's source, which is in dir.
func load(dir string) (definitions, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "config/crds/bases/*.yaml"))
	if err != nil {
		return nil, err
	}
	all := definitions{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var crd struct {
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Served bool
					Schema struct{ OpenAPIV3Schema *spec.Schema }
				}
			}
		}
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, version := range crd.Spec.Versions {
			if version.Served {
				metadata := version.Schema.OpenAPIV3Schema.Properties["metadata"]
				metadata.Extensions = spec.Extensions{keepUnknown: true} // its fields are defined elsewhere
				version.Schema.OpenAPIV3Schema.Properties["metadata"] = metadata
				shut(version.Schema.OpenAPIV3Schema)
				all[crd.Spec.Group+"/"+version.Name+" "+crd.Spec.Names.Kind] = version.Schema.OpenAPIV3Schema
			}
		}
	}
	return all, nil
}

const keepUnknown = "x-kubernetes-preserve-unknown-fields"

// shut makes a schema reject fields that it does not define. kubectl rejects them
// too, unless validation is off, and the API server drops them.
func shut(s *spec.Schema) {
	keep, _ := s.Extensions.GetBool(keepUnknown)
	if s.Type.Contains("object") && s.AdditionalProperties == nil && !keep {
		s.AdditionalProperties = &spec.SchemaOrBool{Allows: false}
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		shut(s.AdditionalProperties.Schema)
	}
	for name, property := range s.Properties {
		shut(&property)
		s.Properties[name] = property
	}
	if s.Items != nil && s.Items.Schema != nil {
		shut(s.Items.Schema)
	}
}

// check returns an error that says what is wrong with a manifest.
func (all definitions) check(manifest []byte) error {
	var object map[string]any
	if err := yaml.UnmarshalStrict(manifest, &object); err != nil {
		return err
	}
	schema := all[fmt.Sprint(object["apiVersion"], " ", object["kind"])]
	if schema == nil {
		return fmt.Errorf("there is no %v in %v", object["kind"], object["apiVersion"])
	}
	return errors.Join(validate.NewSchemaValidator(schema, nil, "", strfmt.Default).Validate(object).Errors...)
}
