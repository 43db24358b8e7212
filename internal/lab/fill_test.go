package lab

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

func TestFillMakesAnyMix(t *testing.T) {
	Require(t, "conntrack")
	p := Server(t)
	const both = ct.StatusSeenReply | ct.StatusAssured
	classes := []struct {
		Class
		args  string // of conntrack -L
		state string // in its output
	}{
		{Class{Count: 500, State: ct.TCPEstablished, Status: both}, "-p tcp --state ESTABLISHED", " 43"},
		{Class{Count: 400, State: ct.TCPSynSent, Port: 81}, "-p tcp --state SYN_SENT", "UNREPLIED"},
		{Class{Count: 300, State: ct.TCPTimeWait, Status: both, Port: 82, TimeoutSeconds: 77}, "-p tcp --state TIME_WAIT", " 7"},
		{Class{Count: 200, Proto: ct.UDP}, "-p udp --src-nat=0/0", "dport=53"},
		{Class{Count: 150, Proto: ct.ICMP}, "-p icmp", "type=8"},
		{Class{Count: 100, Proto: ct.GRE}, "-p gre", "gre"},
		{Class{Count: 50, Proto: ct.SCTP, State: ct.SCTPEstablished}, "-p sctp", "ESTABLISHED"},
		{Class{Count: 60, Proto: ct.UDP, Zone: 7, Mark: 5}, "-w 7", "mark=5"},
		{Class{Count: 40, Proto: ct.ICMPv6, Sources: netip.MustParsePrefix("fd01::/64"),
			Targets: netip.MustParsePrefix("2001:db8::1/128")}, "-f ipv6 -p icmpv6", "type=128"},
	}
	total := 0
	for _, c := range classes {
		p.Server.Fill(c.Class)
		total += c.Count
	}
	if got := p.Server.Count(); got != total {
		t.Errorf("count = %d, want %d", got, total)
	}
	if got := p.Server.ConntrackStats()["insert"]; got != total {
		t.Errorf("the kernel counted %d inserts, want %d", got, total)
	}
	for _, c := range classes {
		args := strings.Fields(strings.ReplaceAll(c.args, "--src-nat=0/0", "-w 0"))
		list := p.Server.ConntrackList(args...)
		if len(list) != c.Count {
			t.Errorf("conntrack -L %s shows %d entries, want %d", c.args, len(list), c.Count)
		}
		for _, line := range list {
			if !strings.Contains(line, c.state) {
				t.Errorf("conntrack -L %s: no %q in %q", c.args, c.state, line)
				break
			}
		}
	}
}

func TestFillTranslates(t *testing.T) {
	Require(t, "conntrack")
	r := Gateway(t)
	r.Gateway.Fill(Class{Count: 20, State: ct.TCPEstablished, SNAT: netip.MustParseAddr("203.0.113.2"),
		Sources: netip.MustParsePrefix("10.0.3.7/32"), Targets: r.Outside.Sources4})
	list := r.Gateway.ConntrackList("--src-nat")
	if len(list) != 20 {
		t.Errorf("%d of 20 entries are translated", len(list))
	}
	if len(list) > 0 && !strings.Contains(list[0], "dst=203.0.113.2") {
		t.Errorf("entry %q does not answer to the gateway's address", list[0])
	}
}

func TestFillIsFast(t *testing.T) {
	Require(t)
	p := Server(t)
	SharedLimits(t)
	const n = 200_000
	start := time.Now()
	p.Server.Fill(Class{Count: n, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	t.Logf("%d entries in %v", n, time.Since(start))
	if got := p.Server.Count(); got != n {
		t.Errorf("count = %d, want %d", got, n)
	}
}

func TestFillSaysThatTheTableIsFull(t *testing.T) {
	Require(t)
	l := ExclusiveLimits(t)
	p := Server(t)
	l.SetMax(2000)
	err := p.Server.TryFill(Class{Count: 3000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	if !errors.Is(err, unix.ENOMEM) {
		t.Errorf("error %v, want ENOMEM", err)
	}
	if got := p.Server.Count(); got != 2000 {
		t.Errorf("count = %d, want 2000", got)
	}
}
