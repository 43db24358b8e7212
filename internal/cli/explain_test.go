package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// runExplain runs the command and returns its exit code and output.
func runExplain(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	env := &Env{Args: append([]string{"explain"}, args...), Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &err,
		Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
	code = Run(context.Background(), env)
	return code, out.String(), err.String()
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		name, stdin    string
		args           []string
		code           int
		stdout, stderr string // parts of what is printed
	}{
		{"words of an argument each", "", []string{"sendto:", "Operation", "not", "permitted"}, ExitOK, "full connection tracking table", ""},
		{"standard input", "kernel: nf_conntrack: table full, dropping packet.\n", []string{"-"}, ExitOK, "drops packets that would open", ""},
		{"another kernel", "", []string{"insert", "--kernel", "4.4"}, ExitOK, "Entries confirmed", ""},
		{"any kernel", "", []string{"insert", "--kernel", "any"}, ExitOK, "Up to 4.8: Entries confirmed: new connections. From 4.9 on:", ""},
		{"a slip", "", []string{"nf_conntrak_max"}, ExitFound, "", `not known: "nf_conntrak_max"` + "\nhint: do you mean nf_conntrack_max"},
		{"nothing like it", "", []string{"zzzz"}, ExitFound, "", "lists what is known"},
		{"all", "", nil, ExitOK, "counters:\n  entries\n", ""},
		{"no kernel", "", []string{"drop", "--kernel", "new"}, ExitFailed, "", "kernel release"},
		{"empty input", "\n", []string{"-"}, ExitFailed, "", "standard input is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := runExplain(tt.stdin, tt.args...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || tt.stdout == "" && stdout != "" {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
		})
	}
}

func TestExplainJSON(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/explain.json")
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]int{"drop": ExitOK, "zzzz": ExitFound, "earlydrop": ExitFound, "": ExitOK} {
		line := []string{"--json"}
		if args != "" {
			line = append(line, args)
		}
		code, stdout, stderr := runExplain("", line...)
		var doc any
		if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
			t.Fatalf("%v: %s%s", err, stdout, stderr)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%q: %v\n%s", args, err, stdout)
		}
		if code != want {
			t.Errorf("%q: exit code %d, want %d", args, code, want)
		}
	}
}
