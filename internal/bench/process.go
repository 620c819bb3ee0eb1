package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// usage is the processor time that Vault and all its plugins have used so far.
type usage struct{ vault, plugin time.Duration }

// tick is the unit of processor time in /proc: a hundredth of a second on every
// Linux that Go runs on.
const tick = 10 * time.Millisecond

func (s *testbed) cpu() (usage, error) {
	var u usage
	err := s.processes(func(plugin string, stat []string, _ int64) {
		var user, system int64
		// stat begins after the name: the first field is state, the twelfth is utime.
		_, _ = fmt.Sscan(stat[11], &user)   // a number, as proc(5) says
		_, _ = fmt.Sscan(stat[12], &system) // likewise
		if d := time.Duration(user+system) * tick; plugin != "" {
			u.plugin += d
		} else {
			u.vault += d
		}
	})
	return u, err
}

// resident returns how much memory the engine's process has resident, in bytes.
func (s *testbed) resident() (bytes int64, err error) {
	err = s.processes(func(plugin string, _ []string, resident int64) {
		if plugin == "vault-plugin-secrets-redox" {
			bytes = resident
		}
	})
	return bytes, err
}

// processes calls see for Vault's process, with an empty name, and for the process of each
// plugin, with its name. resident is in bytes.
func (s *testbed) processes(see func(plugin string, stat []string, resident int64)) error {
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range found {
		raw, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		stat := strings.Fields(rest)
		var pid, parent int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err != nil {
			return err
		}
		if _, err := fmt.Sscan(stat[1], &parent); err != nil {
			return err
		}
		mine := s.vault.Process.Pid
		if pid != mine && parent != mine {
			continue
		}
		plugin := ""
		if pid != mine {
			command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
			if err != nil {
				continue
			}
			path, _, _ := strings.Cut(string(command), "\x00")
			plugin = filepath.Base(path)
		}
		var size, resident int64
		memory, err := os.ReadFile(filepath.Join(dir, "statm"))
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(memory), &size, &resident); err != nil {
			return err
		}
		see(plugin, stat, resident*int64(os.Getpagesize()))
	}
	return nil
}
