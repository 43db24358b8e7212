package clitest

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestDocumentsMatchTheirSchemas runs each command of tuning and validates
// what it prints.
func TestDocumentsMatchTheirSchemas(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "schema")
	h.Track()
	b := newBench(t, h)
	b.mustRun("apply", b.plan(shorter()...), "--yes", "--now")
	for _, args := range [][]string{
		{"plan", "--json", "--observe", "0"},
		{"status", "--json"},
		{"verify", "--json"},
		{"lint", "--json"},
		{"lint", "--json", "../../lint/testdata/bad/pasted.sh"},
		{"notrack", "--json", "--dport", "53"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			schema, err := jsonschema.NewCompiler().Compile("../../../docs/schema/" + args[0] + ".json")
			if err != nil {
				t.Fatal(err)
			}
			c := b.command(args...)
			var out, said bytes.Buffer
			c.Stdout, c.Stderr = &out, &said
			if err := c.Run(); err != nil {
				var exit *exec.ExitError
				if !errors.As(err, &exit) || c.ProcessState.ExitCode() > 1 {
					t.Fatalf("%v: %s", err, said.String())
				}
			}
			doc, err := jsonschema.UnmarshalJSON(&out)
			if err != nil {
				t.Fatalf("%v: %s", err, said.String())
			}
			if err := schema.Validate(doc); err != nil {
				t.Error(err)
			}
		})
	}
	b.mustRun("revert")
}
