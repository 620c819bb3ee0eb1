package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const rootToken = "bench"

// testbed is a Vault with the plugins of this benchmark, and a stub of Redox's token endpoint
// for two of them: the engine and signpost.
type testbed struct {
	dir      string
	addr     string
	vault    *exec.Cmd
	upstream *upstream
}

const module = "github.com/seed-963e9c27/vault-plugin-secrets-redox"

// plugins maps the name of each plugin's command to the package to build.
var plugins = map[string]string{
	"vault-plugin-secrets-redox": module + "/cmd/vault-plugin-secrets-redox",
	"signpost":                   module + "/internal/bench/signpost",
	"nothing":                    module + "/internal/bench/nothing",
}

// newTestbed builds the plugins, starts Vault from binary, and mounts each plugin under its
// name, but the engine as redox and as many. It also mounts transit and kv, and writes what the
// targets read.
func newTestbed(binary string) (*testbed, error) {
	dir, err := os.MkdirTemp("", "redox-bench")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // Vault refuses a symbolic link
		return nil, err
	}
	s := &testbed{dir: dir}
	if s.upstream, err = newUpstream(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := s.buildPlugins(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := s.startVault(binary); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := s.mount(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *testbed) buildPlugins() error {
	for name, command := range plugins {
		build := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o",
			filepath.Join(s.dir, "plugins", name), command)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

func (s *testbed) startVault(binary string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	s.addr = "http://" + address
	config := filepath.Join(s.dir, "vault.hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, "plugin_directory = %q\ntelemetry {\n  "+
		"prometheus_retention_time = \"1h\"\n  disable_hostname = true\n}\n", filepath.Join(s.dir, "plugins")),
		0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	s.vault = exec.CommandContext(context.Background(), binary, "server", "-dev", "-dev-no-store-token",
		"-dev-root-token-id="+rootToken,
		"-dev-listen-address="+address, "-config="+config, "-log-level=error")
	s.vault.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	s.vault.Stdout, s.vault.Stderr = log, log
	if err := s.vault.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = s.call(http.MethodGet, "sys/mounts", nil); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			said, readErr := os.ReadFile(log.Name())
			return errors.Join(fmt.Errorf("Vault does not start: %w: %s", err, said), readErr)
		}
	}
}

func (s *testbed) mount() error {
	for name := range plugins {
		raw, err := os.ReadFile(filepath.Join(s.dir, "plugins", name))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(raw)
		if _, err := s.call(http.MethodPut, "sys/plugins/catalog/secret/"+name,
			map[string]any{"sha256": hex.EncodeToString(sum[:]), "command": name}); err != nil {
			return err
		}
		path := strings.TrimPrefix(name, "vault-plugin-secrets-")
		if _, err := s.call(http.MethodPost, "sys/mounts/"+path, map[string]any{"type": name}); err != nil {
			return err
		}
	}
	if _, err := s.call(http.MethodPost, "sys/mounts/many",
		map[string]any{"type": "vault-plugin-secrets-redox"}); err != nil {
		return err
	}
	for _, step := range []struct {
		path string
		body map[string]any
	}{
		{"sys/mounts/transit", map[string]any{"type": "transit"}},
		{"sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}}},
		{"transit/keys/bench", map[string]any{"type": "rsa-2048"}},
		{"kv/bench", map[string]any{"value": "constant"}},
		{"redox/hosts", map[string]any{"allowed": s.upstream.host}},
	} {
		if _, err := s.call(http.MethodPost, step.path, step.body); err != nil {
			return err
		}
	}
	for _, bits := range []int{2048, 3072, 4096} {
		if err := s.client(fmt.Sprint(bits), bits); err != nil {
			return err
		}
	}
	if err := s.client("reused", 2048); err != nil {
		return err
	}
	if _, err := s.call(http.MethodPost, "redox/clients/reused/config", map[string]any{"reuse_tokens": true}); err != nil {
		return err
	}
	_, err := s.call(http.MethodPost, "redox/clients/2048/config", map[string]any{"public_jwks": true})
	return err
}

// client creates a client of the mount redox, with a key of that many bits.
func (s *testbed) client(name string, bits int) error {
	if _, err := s.call(http.MethodPost, "redox/clients/"+name+"/keys/generate",
		map[string]any{"key_bits": bits}); err != nil {
		return err
	}
	_, err := s.call(http.MethodPost, "redox/clients/"+name+"/config",
		map[string]any{"client_id": "bench", "token_url": s.upstream.url})
	return err
}

// call sends a request to Vault's API and returns the answer. A status other than
// 2xx is an error.
func (s *testbed) call(method, path string, body map[string]any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.Background(), method, s.addr+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", rootToken)
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: HTTP %d %s", method, path, resp.StatusCode, answer)
	}
	return answer, err
}

func (s *testbed) close() error {
	if s.vault != nil && s.vault.Process != nil {
		_ = s.vault.Process.Signal(os.Interrupt) // it may have ended
		_ = s.vault.Wait()
	}
	if s.upstream != nil {
		s.upstream.close()
	}
	return os.RemoveAll(s.dir)
}
