package flowexpr_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/internal/flowexpr"
)

var update = flag.Bool("update", false, "rewrite the table of fields in docs/where.md")

// TestFieldsAreDocumented keeps the table in docs/where.md as the code has it.
func TestFieldsAreDocumented(t *testing.T) {
	const path, begin, end = "../../docs/where.md", "<!-- fields -->\n", "<!-- end of fields -->\n"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the fields", path)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s| field | type | meaning |\n|---|---|---|\n", head, begin)
	for _, f := range flowexpr.Fields() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name, f.Type(), f.Doc)
	}
	b.WriteString(end + tail)
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(doc, []byte(b.String())) {
		t.Errorf("the fields in %s are out of date: go test ./internal/flowexpr -update", path)
	}
}

// TestDocumentedExpressionsCompile takes the examples from the page.
func TestDocumentedExpressionsCompile(t *testing.T) {
	doc, err := os.ReadFile("../../docs/where.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "## Expressions\n\n```\n")
	examples, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no examples")
	}
	for line := range strings.Lines(examples) {
		if _, err := flowexpr.Compile(strings.TrimSpace(line)); err != nil {
			t.Error(err)
		}
	}
}
