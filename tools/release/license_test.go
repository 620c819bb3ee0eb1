package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const gpl = `This program is free software; you can redistribute it and/or modify it under the terms of the GNU General Public License as
published by the Free Software Foundation; either version 2 of the License, or (at your option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more details.
`

// mit is the licence of a module that the plugin has, as everybody writes it.
const mit = `Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

func written(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A licence that nobody has allowed stops the release, and it says whose.
func TestRefusedLicenses(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		wants string
	}{
		"forbidden":          {map[string]string{"COPYING": gpl}, "COPYING of example.com/m: is under GPL-2.0-or-later, which is not among the allowed"},
		"forbidden as well":  {map[string]string{"LICENSE": mit, "LICENSE.GPL": gpl}, "LICENSE.GPL of example.com/m: is under GPL"},
		"forbidden further":  {map[string]string{"LICENSE": mit, "sub/LICENSE": gpl, "sub/p/p.go": ""}, "sub/LICENSE of example.com/m: is under GPL"},
		"unknown":            {map[string]string{"LICENSE": "Ask me first."}, "LICENSE of example.com/m: is no licence that is known"},
		"with a reservation": {map[string]string{"LICENSE": mit + strings.Repeat("But who earns money with it owes me a tenth of all that he earns. ", 20)}, "LICENSE of example.com/m: is a licence to"},
		"none":               {map[string]string{"README.md": mit}, "example.com/m has no licence"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, c.files)
			dep := dependency{path: "example.com/m", dir: dir, packages: []string{dir, filepath.Join(dir, "sub/p")}}
			if c.files["sub/p/p.go"] == "" {
				if err := os.MkdirAll(filepath.Join(dir, "sub/p"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := readLicenses(&dep); err == nil || !strings.HasPrefix(err.Error(), c.wants) {
				t.Errorf("%v, not %q", err, c.wants)
			}
		})
	}
}

// Texts that have to go with a binary are collected, from where something that
// is compiled in lies, and only from there.
func TestCollectedTexts(t *testing.T) {
	dir := written(t, map[string]string{
		"License.txt": mit, "NOTICE": "by us\r\n", "PATENTS": "none", "AUTHORS": "we", "LICENSE.docs": gpl, "license.go": gpl, "licenses.go": "",
		"sub/LICENSE": mit, "sub/p/p.go": "", "unused/LICENSE": gpl,
	})
	dep := dependency{path: "example.com/m", version: "v1.0.0", dir: dir, packages: []string{filepath.Join(dir, "sub/p")}}
	if err := readLicenses(&dep); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, text := range dep.texts {
		names = append(names, text.name)
	}
	if want := []string{"AUTHORS", "License.txt", "NOTICE", "PATENTS", "sub/LICENSE"}; !slices.Equal(names, want) || !slices.Equal(dep.licenses, []string{"MIT"}) {
		t.Errorf("%v under %v, not %v", names, dep.licenses, want)
	}
	all := thirdParty(inventory{deps: []dependency{dep}})
	for _, want := range []string{"example.com/m v1.0.0 (MIT)\n", "example.com/m v1.0.0: NOTICE\n", "\nby us\n", "Permission is hereby granted"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in:\n%s", want, all)
		}
	}
}
