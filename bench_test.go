package redox

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/assertion"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/store"
)

// network is an http.RoundTripper that answers every request with a token. So a benchmark measures the
// engine, and not a server in the same process.
type network struct{}

func (network) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{}, Request: req,
		Body: io.NopCloser(strings.NewReader(`{"access_token":"benchmark-token","token_type":"Bearer","expires_in":300}`)),
	}, nil
}

// benchMount returns an engine whose requests go to network, and its storage with a config and a ring.
// keys is the number of keys in the ring, and bits the size of each.
func benchMount(b *testing.B, bits, keys int, reuse bool) (*backend, logical.Storage) {
	b.Helper()
	storage := &logical.InmemStorage{}
	made, err := Factory(context.Background(), &logical.BackendConfig{System: systemView(0), StorageView: storage,
		Logger: hclog.NewNullLogger()})
	if err != nil {
		b.Fatal(err)
	}
	engine := made.(*backend)
	b.Cleanup(func() { engine.Cleanup(context.Background()) })
	c := defaultConfig()
	c.ClientID, c.PublicJWKS, c.ReuseTokens = clientID, true, reuse
	if err := store.Put(b.Context(), storage, configKey(defaultClient), &c); err != nil {
		b.Fatal(err)
	}
	ring := &keyring.Ring{}
	for i := range keys {
		k, err := keyring.Generate(bits, engine.now())
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := ring.Add(k, engine.now()); err != nil {
			b.Fatal(err)
		}
		if i < keys-1 {
			k.State = keyring.Retiring
			k.RetiredAt = k.CreatedAt
		} else {
			k.State = keyring.Active
		}
	}
	if err := store.Put(b.Context(), storage, keyringKey(defaultClient), ring); err != nil {
		b.Fatal(err)
	}
	conn, err := engine.connections.of(defaultClient, "")
	if err != nil {
		b.Fatal(err)
	}
	if conn.api, err = redoxapi.New(redoxapi.Options{Transport: network{}, Now: engine.now}); err != nil {
		b.Fatal(err)
	}
	return engine, storage
}

func benchRead(b *testing.B, bits, keys int, reuse bool, path string) {
	b.Helper()
	engine, storage := benchMount(b, bits, keys, reuse)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := engine.HandleRequest(b.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path,
			MountPoint: "redox/", Storage: storage})
		if err != nil || resp.IsError() {
			b.Fatal(resp, err)
		}
	}
}

// BenchmarkReadToken reads a fresh token. The difference to BenchmarkSign is the cost of everything
// except the assertion.
func BenchmarkReadToken(b *testing.B) {
	for _, bits := range []int{2048, 3072, 4096} {
		b.Run(fmt.Sprint(bits), func(b *testing.B) { benchRead(b, bits, 1, false, "token") })
	}
}

// BenchmarkReadReusedToken reads a token that the first read has put into memory. It measures the routing
// of a request and the making of the response.
func BenchmarkReadReusedToken(b *testing.B) { benchRead(b, 2048, 1, true, "token") }

// A read of a token from memory makes at most 30 allocations on average.
func TestReuseAllocations(t *testing.T) {
	m := reusing(t)
	m.read("token")
	allocations := testing.AllocsPerRun(100, func() {
		_, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "token",
			MountPoint: "redox/", Storage: m.storage})
		if err != nil {
			t.Error(err)
		}
	})
	if allocations > 30 {
		t.Errorf("%v allocations, want 30 at most", allocations)
	}
}

func BenchmarkReadJWKS(b *testing.B) {
	for _, keys := range []int{1, 8} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) { benchRead(b, 2048, keys, false, "jwks") })
	}
}

func BenchmarkSign(b *testing.B) {
	for _, bits := range []int{2048, 3072, 4096} {
		b.Run(fmt.Sprint(bits), func(b *testing.B) {
			k, err := keyring.Generate(bits, noon)
			if err != nil {
				b.Fatal(err)
			}
			private, err := k.Private()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := assertion.Sign(private, assertion.Claims{
					ClientID: clientID, KeyID: string(k.ID), Audience: tokenURLs["us"], ID: assertion.NewID(), IssuedAt: noon,
					TTL: assertion.MaxTTL,
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParseStoredKey measures how much more each read would cost if it parsed the
// stored private key.
func BenchmarkParseStoredKey(b *testing.B) {
	k, err := keyring.Generate(2048, noon)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Private(); err != nil {
			b.Fatal(err)
		}
	}
}
