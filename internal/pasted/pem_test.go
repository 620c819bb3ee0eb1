package pasted_test

import (
	"strings"
	"testing"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/pasted"
)

func TestBlocks(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"none":        {"BEGIN at the end", ""},
		"one":         {"text\n-----BEGIN A KEY-----\nYWJj\nZGVm\n-----END A KEY-----\n", "A KEY abcdef"},
		"in one line": {"-----BEGIN A KEY----- YWJj ZGVm -----END A KEY-----", "A KEY abcdef"},
		"glued": {"x: -----BEGIN A-----YWJj-----END A----------BEGIN B-----ZGVm-----END B-----y",
			"A abc, B def"},
		"indented":             {"  -----BEGIN A-----\n\n    YWJj\n\tZGVm  \n -----END A-----", "A abcdef"},
		"quoted":               {"> -----BEGIN A-----\n> YWJj\n> ZGVm=\n> -----END A-----", "A abcdef"},
		"in comments":          {"// -----BEGIN A-----\n// YWJj\n//\n// -----END A-----", "A abc"},
		"in literals":          {"-----BEGIN A-----\n\" +\n  \"YWJj\n\" +\n\"-----END A-----", "A abc"},
		"in literals of PHP":   {"-----BEGIN A-----\n'\n . 'YWJj\n'\n . '-----END A-----", "A abc"},
		"commas, bars":         {"-----BEGIN A-----,YWJj;|ZGVm^M,-----END A-----", "A abcdef"},
		"printable":            {"-----BEGIN A-----\nYWI=3D\n-----END A-----", "A ab"},
		"ends of the alphabet": {"-----BEGIN A-----\nAAAZ\naaaz\n0AA9\n-----END A-----", "A \x00\x00\x19i\xa6\xb3\xd0\x00="},
		"a header":             {"-----BEGIN A-----\nComment: x\n\nYWJj\n-----END A-----", "A abc"},
		"encrypted":            {"-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nYWJj\n-----END A-----", "A encrypted"},
		"empty":                {"-----BEGIN A-----\n-----END A-----", "A nothing"},
		"no base64":            {"-----BEGIN A-----\nYW!Jj\n-----END A-----", "A nothing"},
		"more dashes":          {"-------BEGIN A--------\nYWJj\n------END A-------", "A abc"},
		"prose like a line":    {"- end of key\nbegin the private keys\n-----BEGIN A-----\nYWJj\n-----END A-----", "A abc"},

		"no END": {"-----BEGIN A-----\nYWJj", "the END line is missing"},
		"BEGIN twice": {"-----BEGIN A-----\nYWJj\n-----BEGIN A-----\nYWJj\n-----END A-----",
			"the END line is missing"},
		"no BEGIN":   {"YWJj\n-----END A-----", "the BEGIN line is missing"},
		"END twice":  {"-----BEGIN A-----\nYWJj\n-----END A-----\n-----END A-----", "the BEGIN line is missing"},
		"two labels": {"-----BEGIN A-----\nYWJj\n-----END B-----", "labels of the BEGIN and the END line differ"},
		"lower case": {"-----begin a key-----\nYWJj\n-----end a key-----", ""},
		"lower-case KEY": {"-----begin private key-----\nYWJj\n-----end private key-----",
			"the BEGIN line has to be in capitals"},
		"lower-case label": {"-----BEGIN private key-----\nYWJj\n-----END private key-----",
			"the BEGIN line has to be in capitals"},
		"lower-case END": {"-----BEGIN PRIVATE KEY-----\nYWJj\n-----end PRIVATE KEY-----",
			"the END line has to be in capitals"},
		"four dashes": {"----BEGIN RSA PRIVATE KEY-----\nYWJj\n-----END RSA PRIVATE KEY-----",
			"dashes of the BEGIN line are not five"},
		"four at the end": {"-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE----",
			"dashes of the END line are not five"},
		"a blank after the dashes": {"----- BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----",
			"dashes of the BEGIN line are not five hyphens before and five after, or there is a blank too many"},
		"a blank in the dashes": {"-- ---BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----",
			"dashes of the BEGIN line are not five hyphens before and five after, or there is a blank too many"},
		"none of the dashes": {"BEGIN CERTIFICATE\nYWJj\nEND CERTIFICATE", "dashes of the BEGIN line are not five"},
		"dashes of a writer": {"—–—BEGIN PRIVATE KEY—–—\nYWJj", "dashes of the BEGIN line are not five"},
	} {
		t.Run(name, func(t *testing.T) {
			blocks, err := pasted.Blocks(test.text)
			var got []string
			for _, block := range blocks {
				switch {
				case block.Encrypted:
					got = append(got, block.Label+" encrypted")
				case block.Bytes == nil:
					got = append(got, block.Label+" nothing")
				default:
					got = append(got, block.Label+" "+string(block.Bytes))
				}
			}
			switch {
			case err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			case err == nil && strings.Join(got, ", ") != test.want:
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
