package pasted_test

import (
	"strings"
	"testing"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/pasted"
)

func TestClean(t *testing.T) {
	long := strings.Repeat("QUJD", 16) // 64 characters of base64
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                 {" \n\t\r\n\ufeff", ""},
		"marks and blanks":        {"\ufeff \u200ba\u00a0b\x00\u00ad \n", "a b"},
		"line ends":               {"a\r\nb\rc\u2028d\ve\ff\u0085g", "a\nb\nc\nd\ne\nf\ng"},
		"a fence":                 {"```pem\na\nb\n```\n", "a\nb"},
		"another fence":           {"~~~\na\n~~~", "a"},
		"two fences":              {"```\na\n``` and\n```\nb\n```", "a\n``` and\n```\nb"},
		"a JSON string":           {`"a\nb\u0041"`, "a\nbA"},
		"quotes around lines":     {"\"a\nb\"", "a\nb"},
		"three quotes":            {"'''a'''", "a"},
		"bytes of Python":         {`b'a\nb'`, "a\nb"},
		"quotes of a printer":     {"“a”", "a"},
		"quotes that do not pair": {`"a'`, `"a'`},
		"one quote":               {`"`, `"`},
		"semicolon and comma":     {`"a";,`, "a"},
		"an assignment":           {`export KEY="a"`, "a"},
		"an assignment in YAML":   {"tls.key: |-\n  " + long, long},
		"a member":                {`"key": "a"`, "a"},
		"an assignment, base64":   {"KEY=" + long, long},
		"an assignment, short":    {"KEY=" + long[4:], "KEY=" + long[4:]},
		"an assignment of prose":  {"note: all is well", "note: all is well"},
		"tags":                    {"<p class=x>a<br>b</p>", "a\nb"},
		"entities":                {"a&#10;&quot;b&quot;", "a\n\"b\""},
		"of a URL":                {"a%0D%0Ab+c%2B", "a\nb+c+"},
		"of a form":               {"BEGIN+a%0Ab", "BEGIN a\nb"},
		"no escape of a URL":      {"100%, 50%zz %4", "100%, 50%zz %4"},
		"a broken URL":            {"%41 %zz", "%41 %zz"},
		"escapes":                 {`a\nb\r\nc\td\/e\u003df\"`, "a\nb\nc d/e=f\""},
		"two layers of escapes":   {`a\\nb`, "a\nb"},
		"continued lines":         {"a\\\nb", "a\nb"},
		"JSON":                    {` {"a":"<b>\n&amp;%41"} `, `{"a":"<b>\n&amp;%41"}`},
		"an array":                {`["<b>"]`, `["<b>"]`},
		"JSON, escaped thrice":    {`{\\\"a\\\":1}`, `{"a":1}`},
		"JSON, assigned":          {`x = {"a":1};`, `{"a":1}`},
		"JSON in a string":        {`"{\"a\":\"\\n\"}"`, `{"a":"\n"}`},
		"JSON in entities":        {`{&quot;a&quot;:1}`, `{"a":1}`},
		"JSON of a form":          {`%7B%22a%22%3A+%22b%22%7D`, `{"a": "b"}`},
		"JSON, damaged":           {`{"a":"<b>\"",}`, `{"a":"<b>\"",}`},
		"nine layers":             {strings.Repeat("'", 18) + "a" + strings.Repeat("'", 18), "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := pasted.Clean(test.text); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestIsUTF16(t *testing.T) {
	for text, want := range map[string]bool{"a\x00b\x00": true, "\x00a\x00b": true, "\ufffd\ufffda\x00b\x00c\x00": true,
		"abc\x00": false, "": false} {
		if pasted.IsUTF16(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

func TestIsJSON(t *testing.T) {
	for text, want := range map[string]bool{`{`: true, "[\n {": true, `[["`: true, `["a"`: true, `[`: false,
		`[a`: false, ``: false, `"a"`: false, `a{`: false} {
		if pasted.IsJSON(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

func TestBase64(t *testing.T) {
	for text, want := range map[string]string{"YT8+": "a?>", "YT8-": "a?>", "_w==": "\xff", "/w": "\xff",
		" Y\nWI\t=": "ab"} {
		if got, is := pasted.Base64(text); !is || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, is)
		}
	}
	for _, text := range []string{"", "=", "Y", "YQ!", "Y=Q"} {
		if got, is := pasted.Base64(text); is {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestFileName(t *testing.T) {
	for text, want := range map[string]string{
		"key.pem": "f=@key.pem?", "KEY.PEM": "f=@KEY.PEM?", "AuthKey_1.p8": "f=@AuthKey_1.p8?", "./key": "f=@./key?",
		"/run/secrets/key": "f=@/run/secrets/key?",
		`C:\keys\id_rsa`:   `f=@C:\keys\id_rsa?`, `\\host\share\key`: `f=@\\host\share\key?`,
		"file:///a/b.pem":   "f=@/a/b.pem?",
		"private key.pem\n": `f=@"private key.pem"? The quotes`, "~/key.pem": "f=@~/key.pem? Write $HOME",
		"@key.pem": "only the vault command replaces @ and a file's name", `"key.pem"`: "f=@key.pem?",
		strings.Repeat("a", 124) + ".pem": "f=@aaa",
	} {
		if got := pasted.FileName("f", text); !strings.Contains(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
	for _, text := range []string{
		"", "my key", "id_rsa", "e3b0c442-98fc-4c14-9afb-f4c8996fb924", "a\nkey.pem", "key\x7f.pem", "ends here. Now",
		"key.", ".pem", "3.14", "@", "user@host",
		"/" + strings.Repeat("a", 41), "/abc+def=", "a/b", strings.Repeat("a", 125) + ".pem", "key.abcdefghijk", "\xff.pem",
	} {
		if got := pasted.FileName("f", text); got != "" {
			t.Errorf("%q: %q", text, got)
		}
	}
}
