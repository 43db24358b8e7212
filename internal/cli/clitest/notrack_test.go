package clitest

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/cli"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

func TestNotrackOnTrial(t *testing.T) {
	lab.Require(t, "nft")
	p := lab.Server(t)
	p.Server.ServeDNS(53)
	b := newBench(t, p.Server)
	target := netip.AddrPortFrom(p.Server.Addr4, 53)
	ask := func() lab.Churned {
		t.Helper()
		c, err := p.Client.DNSChurn(t.Context(), target, p.Client.Sources4, lab.Load{Packets: 50, PerSecond: 200})
		if err != nil || c.Answered < 45 {
			t.Fatalf("%+v, %v", c, err)
		}
		return c
	}
	ask()
	if n := p.Server.Count(); n < 45 {
		t.Fatalf("%d entries before", n)
	}
	out := b.mustRun("notrack", "--proto", "udp", "--dport", "53", "--install", "--yes", "--trial", "8s")
	if !strings.Contains(out, "proven, it can do without") || !strings.Contains(out, "50 entries exist now") {
		t.Errorf("it said:\n%s", out)
	}
	p.Server.Exec("conntrack", "-F")
	ask()
	if n := p.Server.Count(); n > 2 {
		t.Errorf("%d entries although untracked", n)
	}
	within(t, time.Minute, "the trial is over", func() bool { return b.last().State == journal.Reverted })
	if text, err := p.Server.TryExec("nft", "list", "table", "inet", notrack.Table); err == nil {
		t.Errorf("the table is still there:\n%s", text)
	}
	ask()
	if n := p.Server.Count(); n < 45 {
		t.Errorf("%d entries after the trial", n)
	}
}

// TestNotrackInstalledByAProgram: the document is all that stdout holds.
func TestNotrackInstalledByAProgram(t *testing.T) {
	lab.Require(t, "nft")
	p := lab.Server(t)
	p.Server.ServeDNS(53)
	b := newBench(t, p.Server)
	out, err := b.command("notrack", "--dport", "53", "--install", "--yes", "--trial", "1m", "--json").Output()
	if err != nil || !json.Valid(out) || b.last().State != journal.Verified {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNotrackRefuses: what is not proven is not installed.
func TestNotrackRefuses(t *testing.T) {
	lab.Require(t, "nft")
	p := lab.Server(t)
	p.Server.ServeDNS(53)
	b := newBench(t, p.Server)
	for _, tt := range []struct{ name, rules, want string }{
		{"policy drop", `table inet ctwfw { chain in { type filter hook input priority 0; policy drop; ct state established accept; udp dport 53 accept; }
}`, "missing"},
		{"translation", `table ip ctwfw { chain p { type nat hook postrouting priority 100; oifname "eth9" masquerade; }
}`, "translate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(b.dir+"/rules", []byte(tt.rules), 0o600); err != nil {
				t.Fatal(err)
			}
			p.Server.Exec("nft", "-f", b.dir+"/rules")
			defer p.Server.TryExec("nft", "delete", "table", strings.Fields(tt.rules)[1], "ctwfw")
			out, code := b.run("notrack", "--dport", "53", "--install", "--yes")
			if code != cli.ExitFound || !strings.Contains(out, "not proven") || !strings.Contains(out, tt.want) {
				t.Errorf("%d\n%s", code, out)
			}
			if _, err := p.Server.TryExec("nft", "list", "table", "inet", notrack.Table); err == nil {
				t.Error("rules were installed")
			}
		})
	}
	if out, code := b.run("notrack", "--dport", "4053"); code != cli.ExitFound || !strings.Contains(out, "nothing listens") {
		t.Errorf("%d\n%s", code, out)
	}
}

// TestNotrackClient: the way back of a client is opened for the servers named
// and the ephemeral ports alone, and not where a service waits among those.
func TestNotrackClient(t *testing.T) {
	lab.Require(t, "nft", "conntrack")
	p := lab.Server(t)
	p.Client.Track()
	p.Server.ServeDNS(53)
	b := newBench(t, p.Client)
	server := netip.AddrPortFrom(p.Server.Addr4, 53)
	ask := func() {
		t.Helper()
		conns, err := p.Client.ConnectUDP(server, netip.PrefixFrom(p.Client.Addr4, 32), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer conns[0].Close()
		if err := conns[0].SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conns[0].Write(make([]byte, 17)); err != nil {
			t.Fatal(err)
		}
		if _, err := conns[0].Read(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if n := p.Client.Count(); n != 1 {
		t.Fatalf("%d entries of one question", n)
	}
	if out, code := b.run("notrack", "--dport", "53", "--install", "--yes"); code != cli.ExitFound || !strings.Contains(out, "anybody who sends from it") {
		t.Errorf("by source port alone: %d\n%s", code, out)
	}
	args := []string{"notrack", "--dport", "53", "--to", p.Server.Addr4.String(), "--install", "--yes", "--trial", "1m"}
	if out := b.mustRun(args...); !strings.Contains(out, "1 entries exist now") {
		t.Errorf("the entry was not counted:\n%s", out)
	}
	p.Client.Exec("conntrack", "-F")
	ask()
	if n := p.Client.Count(); n != 0 {
		t.Errorf("%d entries although untracked", n)
	}
	b.mustRun("revert")
	p.Client.ServeUDP(45000)
	if out, code := b.run(args...); code != cli.ExitFound || !strings.Contains(out, "45000") || !strings.Contains(out, "refuted") {
		t.Errorf("with a service among the ephemeral ports: %d\n%s", code, out)
	}
	if out, err := p.Client.TryExec("nft", "list", "table", "inet", notrack.Table); err == nil {
		t.Errorf("rules were installed:\n%s", out)
	}
}
