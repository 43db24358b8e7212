package diagnose

import (
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// Commands that are printed to be pasted at night must work: those that make
// rules or write timeouts are run in a namespace, and taken back as they say.
func TestCommandsRun(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "commands")
	h.Track()
	runnable := func(c string) bool {
		return strings.HasPrefix(c, "nft ") || strings.HasPrefix(c, "sysctl -w ") && strings.Contains(c, "timeout")
	}
	done := make(map[string]bool)
	for _, sc := range scenarios {
		for _, fd := range Run(sc.in).Findings {
			for _, r := range fd.Remedies {
				key := strings.Join(r.Commands, "\n")
				if done[key] {
					continue
				}
				done[key] = true
				for _, c := range append(r.Commands, r.Undo...) {
					if !runnable(c) {
						continue
					}
					if _, err := h.TryExec("sh", "-c", c); err != nil {
						t.Errorf("%s, %s: %v", sc.name, fd.Code, err)
					}
				}
			}
		}
	}
	if n := len(done); n < 20 {
		t.Errorf("only %d different remedies were tried", n)
	}
}

// Advice that hurts is never given, whatever is the matter.
func TestNoDangerousAdvice(t *testing.T) {
	for _, sc := range scenarios {
		count := int64(0)
		if s := sc.in.Snapshot; s != nil {
			count = s.Limits.Count.Or(0)
		}
		for _, fd := range Run(sc.in).Findings {
			for _, r := range fd.Remedies {
				if r.Risk == "" {
					t.Errorf("%s: %q does not say what it risks", sc.name, r.What)
				}
				for _, c := range r.Commands { // what undoes brings back what was there
					dangerous(t, sc.name, c, count)
				}
			}
		}
	}
}

func dangerous(t *testing.T, scenario, command string, count int64) {
	t.Helper()
	for _, bad := range []string{"conntrack -F", "--flush", "flush ruleset", "rmmod", "> /etc/sysctl.conf", "conntrack_max=0", "message_cost=0"} {
		if strings.Contains(command, bad) {
			t.Errorf("%s: dangerous advice %q", scenario, command)
		}
	}
	_, assignment, ok := strings.Cut(command, "sysctl -w ")
	if !ok {
		return
	}
	name, value, _ := strings.Cut(assignment, "=")
	n, ok := parse(value)
	switch {
	case !ok:
	case strings.HasSuffix(name, "conntrack_max") && n*5 < count*6:
		t.Errorf("%s: %q brings the limit under 1.2 times the %d entries in use", scenario, command, count)
	case strings.HasSuffix(name, "tcp_timeout_established") && n < 7440, strings.Contains(name, "timeout") && n <= 0:
		t.Errorf("%s: %q is under its floor", scenario, command)
	}
}

func parse(s string) (n int64, ok bool) {
	for _, r := range s {
		if r < '0' || r > '9' {
			return 0, false
		}
		n = n*10 + int64(r-'0')
	}
	return n, s != ""
}
