package diagnose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every finding has a page, every page a finding, and all have the same
// sections in the same order.
func TestPages(t *testing.T) {
	const dir = "../../docs/findings"
	sections := []string{"What it means", "How it was seen", "What to do", "What it risks", "How to confirm by hand", "Sources"}
	pages := make(map[string]bool)
	for _, code := range Codes() {
		pages[code+".md"] = true
		b, err := os.ReadFile(filepath.Join(dir, code+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		rest := string(b)
		if !strings.HasPrefix(rest, "# "+code+"\n") {
			t.Errorf("%s does not begin with its code", code)
		}
		for _, s := range sections {
			_, after, ok := strings.Cut(rest, "\n## "+s+"\n")
			if !ok {
				t.Errorf("%s lacks %q, or has it out of order", code, s)
			}
			if s == "How to confirm by hand" && !strings.HasPrefix(after, "\n```sh\n") {
				t.Errorf("%s: the commands of %q cannot be copied", code, s)
			}
			rest = after
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() != "README.md" && !pages[f.Name()] {
			t.Errorf("%s is the page of no finding", f.Name())
		}
	}
}
