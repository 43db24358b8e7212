package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
)

// TestTableCommandsRefuse: what cannot be meant is refused before anything is
// opened, with a word on what to do.
func TestTableCommandsRefuse(t *testing.T) {
	for _, tc := range []struct{ line, part, hint string }{
		{"evict --yes", "without a selection", "list --by src"},
		{"evict --where idle>1h", `did you mean idle_min?`, "docs/where.md"},
		{"evict -p tcp --soft 100ms", "at least 1s", ""},
		{"evict -p tcp --soft 48h", "at most 24h", ""},
		{"evict -p tcp --force everything", "cannot force", ""},
		{"evict -p tcp --settle 10ms", "whole seconds", ""},
		{"evict -p tcp --rate -1", "negative", ""},
		{"evict --undo 20200101-000000 --state-dir /nonexistent/ctwarden", "no eviction", "the id is printed"},
		{"list -s 10.0.0.0/40", "--src: ", ""},
		{"list -o xml", "unknown output", ""},
		{"list extra", "", ""},
		{"watch --event born", "unknown event", ""},
		{"watch --poll 1ms", "at least 500ms", ""},
		{"watch --count -2", "negative", ""},
		{"top --interval 10ms", "at least 500ms", ""},
		{"top --panel 3", "100 to 1000000", ""},
	} {
		var out, errOut bytes.Buffer
		env := &Env{Args: strings.Fields(tc.line), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut,
			Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
		code := Run(context.Background(), env)
		if code != ExitFailed || out.Len() > 0 || !strings.Contains(errOut.String(), tc.part) {
			t.Errorf("%s: code %d, stdout %q, stderr %q", tc.line, code, out.String(), errOut.String())
		}
		if tc.hint != "" && !strings.Contains(errOut.String(), "hint: ") || !strings.Contains(errOut.String(), tc.hint) {
			t.Errorf("%s: no hint of %q in %q", tc.line, tc.hint, errOut.String())
		}
	}
}

// TestKernelFilterLosesNothing: what the kernel is asked to leave out, the
// selection would leave out, too.
func TestKernelFilterLosesNothing(t *testing.T) {
	s, err := (&flowexpr.Flags{Family: "ipv4", Proto: "tcp", Src: "10.0.0.1", DPort: "443", Mark: "0x10/0xf0", Zone: "5",
		Status: "ASSURED,!SRC_NAT"}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	q := kernelFilter(s.Kernel())
	if q.Family != 2 || q.Orig.Proto != ct.TCP || q.Orig.Src.String() != "10.0.0.1" || !q.Orig.HasDstPort || q.Orig.DstPort != 443 ||
		q.Mark != 0x10 || q.MarkMask != 0xf0 || !q.HasZone || q.Zone != 5 ||
		q.StatusMask != ct.StatusAssured|ct.StatusSrcNAT || q.Status != ct.StatusAssured {
		t.Errorf("%+v", q)
	}
}

// TestFlagsAreThoseOfConntrack: its flags keep their letters and names.
func TestFlagsAreThoseOfConntrack(t *testing.T) {
	cmd := newList(&Env{Getenv: func(string) string { return "" }})
	for short, long := range map[string]string{"p": "proto", "s": "src", "d": "dst", "r": "reply-src", "q": "reply-dst",
		"f": "family", "m": "mark", "w": "zone", "u": "status", "l": "label", "n": "src-nat", "g": "dst-nat", "j": "any-nat", "o": "output"} {
		if f := cmd.Flags().ShorthandLookup(short); f == nil || f.Name != long {
			t.Errorf("-%s is not --%s", short, long)
		}
	}
	for _, long := range []string{"orig-src", "orig-dst", "protonum", "orig-port-src", "orig-port-dst", "sport", "dport", "state",
		"reply-port-src", "reply-port-dst", "orig-zone", "reply-zone"} {
		if cmd.Flags().Lookup(long) == nil {
			t.Errorf("no --%s", long)
		}
	}
}
