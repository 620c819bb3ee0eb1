package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

type thing struct {
	Name string `json:"name"`
}

func TestRoundTrip(t *testing.T) {
	ctx, s := context.Background(), &logical.InmemStorage{}
	if got, err := store.Get[thing](ctx, s, "a/b"); got != nil || err != nil {
		t.Fatalf("of nothing: %v, %v", got, err)
	}
	if err := store.Put(ctx, s, "a/b", &thing{"x"}); err != nil {
		t.Fatal(err)
	}
	raw, err := s.Get(ctx, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(raw.Value)); got != `{"version":1,"data":{"name":"x"}}` {
		t.Errorf("stored %s", got)
	}
	if got, err := store.Get[thing](ctx, s, "a/b"); err != nil || got.Name != "x" {
		t.Errorf("read %v, %v", got, err)
	}
	names, err := store.List(ctx, s, "a/")
	if diff := cmp.Diff([]string{"b"}, names); diff != "" || err != nil {
		t.Errorf("listed %v, %s", err, diff)
	}
	for range 2 { // the second time nothing is there, which is no error
		if err := store.Delete(ctx, s, "a/b"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := store.Get[thing](ctx, s, "a/b"); got != nil || err != nil {
		t.Errorf("after deleting: %v, %v", got, err)
	}
}

// For an entry that it cannot read, Get returns an error that quotes at most a number
// from it, the schema version. The entry stays unchanged.
func TestForeignEntries(t *testing.T) {
	for name, test := range map[string]struct{ value, want string }{
		"newer":           {`{"version":2,"data":{"name":"secret"}}`, "newer plugin (schema version 2, this one knows 1)"},
		"newer, reshaped": {`{"version":7,"data":["secret"]}`, "newer plugin (schema version 7, this one knows 1)"},
		"no version":      {`{"name":"secret"}`, "does not have the form of schema version 0"},
		"version 0":       {`{"version":0,"data":{"name":"secret"}}`, "does not have the form of schema version 0"},
		"negative":        {`{"version":-1,"data":{"name":"secret"}}`, "does not have the form of schema version -1"},
		"no data":         {`{"version":1}`, "does not have the form of schema version 1"},
		"other data":      {`{"version":1,"data":{"name":["secret"]}}`, "does not have the form of schema version 1"},
		"version a word":  {`{"version":"secret"}`, "not the JSON this plugin writes"},
		"not JSON":        {`secret`, "not the JSON this plugin writes"},
		"nothing":         {``, "not the JSON this plugin writes"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := context.Background(), &logical.InmemStorage{}
			if err := s.Put(ctx, &logical.StorageEntry{Key: "k", Value: []byte(test.value)}); err != nil {
				t.Fatal(err)
			}
			got, err := store.Get[thing](ctx, s, "k")
			if got != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, error %v, want %q", got, err, test.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error quotes the entry: %v", err)
			}
			raw, err := s.Get(ctx, "k")
			if err != nil || string(raw.Value) != test.value {
				t.Errorf("the entry became %v, %v", raw, err)
			}
		})
	}
}

func TestStorageFails(t *testing.T) {
	ctx := context.Background()
	s := new(logical.InmemStorage)
	s.FailGet(true).FailPut(true).FailDelete(true).FailList(true)
	_, getErr := store.Get[thing](ctx, s, "the/key")
	_, listErr := store.List(ctx, s, "the/key")
	for what, err := range map[string]error{
		"reading":  getErr,
		"listing":  listErr,
		"writing":  store.Put(ctx, s, "the/key", &thing{}),
		"deleting": store.Delete(ctx, s, "the/key"),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), what+" the/key: ") || errors.Unwrap(err) == nil {
			t.Errorf("%s: error %v", what, err)
		}
	}
	unwritable := func() {}
	if err := store.Put(ctx, s, "the/key", &unwritable); err == nil || !strings.Contains(err.Error(), "writing the/key") {
		t.Errorf("a value that is no JSON: %v", err)
	}
}
