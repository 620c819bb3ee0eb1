// Command watched is a plugin with the engine that also reports what it uses: once a second it writes its
// process ID, its number of goroutines and the size of its heap to the file that REDOX_WATCHED names. Only the
// soak test uses it.
package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"time"

	"github.com/hashicorp/vault/sdk/plugin"

	redox "github.com/seed-963e9c27/vault-plugin-secrets-redox"
)

func main() {
	go watch(os.Getenv("REDOX_WATCHED"))
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: redox.Factory}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// watch writes the file once a second until the process ends. Vault also starts a process only to learn the
// plugin's version, which writes the file too. The process that serves the mount soon overwrites it.
func watch(path string) {
	for ; ; time.Sleep(time.Second) {
		if err := write(path); err != nil {
			fmt.Fprintln(os.Stderr, "watched:", err) // goes to Vault's log
		}
	}
}

// write replaces the file atomically. The file has the figures, and then the stacks of all goroutines, which
// assertFlat prints if there are too many.
func write(path string) error {
	// Report the heap that the last collection left: the heap in use includes garbage.
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(heap)
	var text bytes.Buffer
	fmt.Fprintln(&text, os.Getpid(), runtime.NumGoroutine(), heap[0].Value.Uint64())
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		return err
	}
	whole := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(whole, text.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(whole, path)
}
