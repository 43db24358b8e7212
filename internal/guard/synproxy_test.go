package guard_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// flooded is a port under a flood that early drop cannot find room in.
func flooded() guard.SynProxyFacts {
	return guard.SynProxyFacts{Port: 80, Version: ct.KernelVersion{Major: 6, Minor: 1}, Module: true,
		Timestamps: true, SACK: true, WindowScale: 7, MSS: 1440,
		HalfOpen: 4000, Assured: 500, Count: 5000, Max: 5000, Refused: 30000, EarlyDropped: 10000}
}

func TestProposeSynProxy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*guard.SynProxyFacts)
		right  bool
		why    string
	}{
		"refused":         {func(*guard.SynProxyFacts) {}, true, "the kernel refuses 30000 packets a second"},
		"plain flood":     {func(f *guard.SynProxyFacts) { f.Refused = 0 }, false, "early drop and cookies"},
		"full of assured": {func(f *guard.SynProxyFacts) { f.Assured, f.Max = 4900, 5000 }, false, "room is what is missing"},
		"no flood":        {func(f *guard.SynProxyFacts) { f.HalfOpen = 100 }, false, "no SYN flood"},
		"empty":           {func(f *guard.SynProxyFacts) { f.Count, f.HalfOpen, f.Refused = 0, 0, 0 }, false, "no SYN flood"},
		"evicted and fragile": {func(f *guard.SynProxyFacts) { f.Refused, f.Fragile = 0, true }, true,
			"39.3 % of those that take 200ms are lost"},
		"evicted, near and fragile": {func(f *guard.SynProxyFacts) { f.Refused, f.Fragile, f.RoundTrip = 0, true, time.Millisecond }, false, "early drop and cookies"},
		"old":                       {func(f *guard.SynProxyFacts) { f.Version = ct.KernelVersion{Major: 4, Minor: 19} }, false, "Linux 5.3"},
		"not built":                 {func(f *guard.SynProxyFacts) { f.Module = false }, false, "nft_synproxy"},
		"translated":                {func(f *guard.SynProxyFacts) { f.Translated = true }, false, "not translated"},
		"untracked":                 {func(f *guard.SynProxyFacts) { f.Untracked = true }, false, "not tracked"},
		"strict":                    {func(f *guard.SynProxyFacts) { f.InvalidDropped = true }, false, "tcp_loose is 0"},
		"no port":                   {func(f *guard.SynProxyFacts) { f.Port = 0 }, false, "no port"},
	} {
		t.Run(name, func(t *testing.T) {
			f := flooded()
			c.change(&f)
			p := guard.ProposeSynProxy(f)
			if p.Right != c.right || !strings.Contains(p.Why, c.why) {
				t.Errorf("%v: %s", p.Right, p.Why)
			}
			if p.Right != (len(p.Add) > 0 && len(p.Undo) > 0 && len(p.Risks) > 0) {
				t.Errorf("right %v with %d commands", p.Right, len(p.Add))
			}
		})
	}
}

// TestSynProxyAsProposed carries the proposal out behind rules that drop what
// they do not know, floods the port, and takes it back.
func TestSynProxyAsProposed(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	blocked := lab.Nth(p.Client.Sources4, 13)
	p.Server.NFT(fmt.Sprintf(`table inet theirs {
	chain input {
		type filter hook input priority 0; policy drop
		iif lo accept
		ct state established,related accept
		ct state invalid drop
		meta l4proto ipv6-icmp accept
		ip saddr %s drop
		tcp dport 80 accept
	}
}
`, blocked))
	p.Server.SetSysctl("net.ipv4.conf.all.rp_filter", "1")
	if loose := p.Server.Sysctl("net.netfilter.nf_conntrack_tcp_loose"); loose != "1" {
		t.Fatalf("tcp_loose %s", loose)
	}
	proposal := guard.ProposeSynProxy(flooded())
	sh := func(commands []string) {
		for _, c := range commands {
			p.Server.Exec("sh", "-c", c)
		}
	}
	to, to6 := netip.AddrPortFrom(p.Server.Addr4, 80), netip.AddrPortFrom(p.Server.Addr6, 80)
	old := dial(t, p.Client, to, p.Client.Addr4)
	say(t, old)
	sh(proposal.Add)
	var conns []net.Conn
	for i := range uint32(10) {
		conns = append(conns, dial(t, p.Client, to, lab.Nth(p.Client.Sources4, i)))
	}
	before, received := p.Server.Count(), synsReceived(p.Server)
	if received < len(conns) {
		t.Errorf("%d SYNs were answered by SYNPROXY", received)
	}
	sent, err := p.Client.SYNFlood(t.Context(), to, p.Client.Spoof4, lab.Load{Packets: 3000})
	if err != nil {
		t.Fatal(err)
	}
	if now := p.Server.Count(); now > before {
		t.Errorf("%d entries before the flood, %d after it", before, now)
	}
	if n := synsReceived(p.Server) - received; n != sent.Packets {
		t.Errorf("%d of %d SYNs were answered by SYNPROXY", n, sent.Packets)
	}
	if c, err := p.Client.Dial(t.Context(), to, blocked, 300*time.Millisecond); err == nil {
		c.Close()
		t.Error("their block was passed by")
	}
	// IPv6 is as it was, whoever has verified the checksums.
	say(t, dial(t, p.Client, to6, p.Client.Addr6))
	if _, err := p.Client.SYNFlood(t.Context(), to6, p.Client.Spoof6, lab.Load{Packets: 50}); err != nil {
		t.Fatal(err)
	}
	if n := p.Server.Count(); n < before+50 {
		t.Errorf("%d entries after 50 SYNs of IPv6, %d before", n, before)
	}
	for _, c := range append(conns, old) {
		say(t, c)
	}

	sh(proposal.Undo)
	answered := synsReceived(p.Server)
	conns = append(conns, dial(t, p.Client, to, lab.Nth(p.Client.Sources4, 50)))
	if n := synsReceived(p.Server); n != answered {
		t.Errorf("after the undo SYNPROXY answered")
	}
	time.Sleep(300 * time.Millisecond) // long enough that timestamps differ
	for _, c := range append(conns, old) {
		say(t, c)
		c.Close()
	}
	sh(proposal.Finish)
	if out := p.Server.Exec("nft", "list", "tables"); strings.Contains(out, guard.SynProxyTable) {
		t.Errorf("left: %s", out)
	}
}

func dial(t *testing.T, h *lab.Host, to netip.AddrPort, from netip.Addr) net.Conn {
	t.Helper()
	c, err := h.Dial(t.Context(), to, from, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func say(t *testing.T, c net.Conn) {
	t.Helper()
	var b [1]byte
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write(b[:]); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(b[:]); err != nil {
		t.Error(err)
	}
}

// synsReceived reads the kernel's count, in hexadecimal, of all CPUs.
func synsReceived(h *lab.Host) (n int) {
	for line := range strings.Lines(h.Exec("cat", "/proc/thread-self/net/stat/synproxy")) {
		var entries, received int
		if k, _ := fmt.Sscanf(line, "%x %x", &entries, &received); k == 2 {
			n += received
		}
	}
	return n
}
