package tune

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// ruled is a gateway with rules that cost more than they must.
func ruled() *ct.Snapshot {
	s := leaking()
	s.Tracking.Rules = []ct.RuleAdvice{
		{Kind: ct.LateDrop, Where: "nft inet filter input", Hook: "input", Rule: "ip saddr @bad drop", AfterAccept: true},
		{Kind: ct.LateDrop, Where: "iptables mangle PREROUTING", Hook: "prerouting", Priority: -150, Rule: "ip saddr 192.0.2.1 drop", More: 6999},
		{Kind: ct.OpenReject, Where: "nft inet filter input", Hook: "input", Rule: "tcp dport 113 reject with tcp reset", Reset: true},
		{Kind: ct.OpenReject, Where: "nft inet filter forward", Hook: "forward", Rule: "reject"},
	}
	return s
}

func TestRuleNotes(t *testing.T) {
	p, err := New(ruled(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Rules) != 4 {
		t.Fatalf("%d notes: %+v", len(p.Rules), p.Rules)
	}
	for i, words := range [][]string{
		{"hook prerouting priority raw", "fib daddr type local", "ct state is unknown", "will be translated", "rules before it"},
		{"-t raw -A PREROUTING"},
		{"without a limit"},
		{"icmp_ratelimit"},
	} {
		n := p.Rules[i]
		all := strings.Join([]string{n.Why, n.Kernel, n.Instead, n.Risk}, " ")
		for _, w := range words {
			if !strings.Contains(all, w) {
				t.Errorf("%s: nothing of %q in %q", n.Rule, w, all)
			}
		}
	}
	if strings.Contains(p.Rules[1].Risk, "rules before it") || strings.Contains(p.Rules[1].Instead, "fib") {
		t.Errorf("a rule of prerouting moves as it is: %+v", p.Rules[1])
	}
}

func TestLateDropsAreFreeWithoutTracking(t *testing.T) {
	for _, active := range []ct.Tri{ct.No, ct.Unknown} {
		s := ruled()
		s.Tracking.Active = active
		for _, n := range ruleNotes(&s.Tracking) {
			if n.Kind == ct.LateDrop {
				t.Errorf("active %v: %+v", active, n)
			}
		}
	}
}

// TestRulesAreNeverWritten checks that advice on rules stays advice.
func TestRulesAreNeverWritten(t *testing.T) {
	with, err := New(ruled(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	without, err := New(leaking(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"sysctl", "shell", "ansible"} {
		var a, b bytes.Buffer
		if err := with.Print(&a, f); err != nil {
			t.Fatal(err)
		}
		if err := without.Print(&b, f); err != nil {
			t.Fatal(err)
		}
		if a.String() != b.String() {
			t.Errorf("%s differs by rules", f)
		}
	}
}
