package keyring_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
)

// shell runs a script in a new folder that has a file with that name and content, and returns the
// folder. It skips the test if a program or a Python module that the script needs is not installed.
func shell(t *testing.T, script, name, content string) string {
	t.Helper()
	for _, program := range regexp.MustCompile(`(?m)(?:^|&& |\| )([a-z][a-z0-9-]+) `).FindAllStringSubmatch(script, -1) {
		if _, err := exec.LookPath(program[1]); err != nil {
			t.Skipf("%s is not installed", program[1])
		}
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), "sh", "-ec", script)
	run.Dir = folder
	if out, err := run.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "ModuleNotFoundError") {
			t.Skip("Python has no module cryptography")
		}
		t.Fatalf("%v\n%s", err, out)
	}
	return folder
}

const node = `const {generateKeyPairSync} = require("crypto"), {writeFileSync} = require("fs")
const pair = generateKeyPairSync("rsa", {modulusLength: 2048})
writeFileSync("public", pair.publicKey.export({type: "spki", format: "pem"}))
writeFileSync("private", JSON.stringify(pair.privateKey.export({format: "jwk"}), null, 2))
`

const python = `from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import *
key = rsa.generate_private_key(65537, 2048)
open("public", "wb").write(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
open("private", "w").write(repr(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())))
`

const keystore = `keytool -genkeypair -alias redox -keyalg RSA -keysize 2048 -dname CN=x -storetype PKCS12 \
	-keystore key.p12 -storepass changeit
`

// The engine reads the private key that each tool makes, and computes the same public half
// as the tool.
func TestKeysOfTools(t *testing.T) {
	for name, test := range map[string]struct{ script, file, content string }{
		"OpenSSL, PKCS#8": {"openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out private\nopenssl pkey " +
			"-in private -pubout -out public", "none", ""},
		"OpenSSL, PKCS#1": {"openssl genrsa -traditional -out private 2048\nopenssl rsa -in private " +
			"-pubout -out public", "none", ""},
		"OpenSSL, text": {"openssl genrsa -out key 3072\nopenssl rsa -in key -text -out private\nopenssl rsa -in " +
			"key -pubout -out public", "none", ""},
		"ssh-keygen": {"ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f private\nssh-keygen -e -m PKCS8 -f " +
			"private.pub > public", "none", ""},
		"ssh-keygen, PKCS#8": {"ssh-keygen -q -t rsa -b 3072 -m PKCS8 -N '' -f private\nssh-keygen -e -m PKCS8 -f " +
			"private.pub > public", "none", ""},
		"Node":   {"node make.js", "make.js", node},
		"Python": {"python3 make.py", "make.py", python},
		"keytool": {keystore + "openssl pkcs12 -in key.p12 -nodes -passin pass:changeit -out " +
			"private\nopenssl pkey -in private -pubout -out public", "none", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := shell(t, test.script, test.file, test.content)
			k := parseFile(t, filepath.Join(folder, "private"))
			public, err := os.ReadFile(filepath.Join(folder, "public"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := k.PublicPEM(); err != nil || got != string(public) {
				t.Errorf("the tool has another public key:\n%s%s%v", public, got, err)
			}
		})
	}
}

func parseFile(t *testing.T, path string) *keyring.Key {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := keyring.Parse(string(raw), "", noon)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The commands in an error of Parse convert the refused key to one that is accepted. They do not
// change the file of an SSH key.
func TestCommandsOfRefusals(t *testing.T) {
	commands := regexp.MustCompile(`\(((?:iconv|install|ssh-keygen|openssl|keytool|jq) [^()]+|jq .+)\)`)
	for name, test := range map[string]struct{ input, output, key, store string }{
		"cases/007": {input: "key.pem", output: "utf8.pem"},
		"cases/071": {input: "key", output: "key.pem"},
		"cases/075": {input: "key", output: "key.pem"},
		"cases/076": {input: "key.p12", output: "key.pem", key: " -passin pass:changeit"},
		"cases/077": {input: "key.jks", output: "key.pem", key: " -passin pass:changeit",
			store: " -srcstorepass changeit -deststorepass changeit"},
		"cases/079":           {input: "key.der", output: "key.pem"},
		"cases/080":           {input: "key.der", output: "key.pem"},
		"cases/081":           {input: "key.blob", output: "key.pem"},
		"cases/114":           {input: "file.json", output: "key.pem"},
		"cases/115":           {input: "file.json", output: "key.pem"},
		"cases/151":           {input: "file.json", output: "key.pem"},
		"postman.json":        {input: "environment.json", output: "key.pem"},
		"encrypted-pkcs1.pem": {input: "key.pem", output: "plain.pem", key: " -passin pass:test"},
		"encrypted-pkcs8.pem": {input: "key.pem", output: "plain.pem", key: " -passin pass:test"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := keyring.Parse(file(t, name), "", noon)
			if err == nil {
				t.Fatal("it was accepted")
			}
			script := ""
			for _, found := range commands.FindAllStringSubmatch(err.Error(), -1) {
				if script += found[1]; strings.HasPrefix(found[1], "openssl") {
					script += test.key
				} else {
					script += test.store
				}
				script += "\n"
			}
			folder := shell(t, script, test.input, file(t, name))
			parseFile(t, filepath.Join(folder, test.output))
			if test.input == "key" { // ssh-keygen -p overwrites its input
				if left, err := os.ReadFile(filepath.Join(folder, "key")); err != nil || string(left) != file(t, name) {
					t.Error("the command has changed the file that it was given")
				}
			}
		})
	}
}
