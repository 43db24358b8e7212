package lab

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

func TestFloodsCountWhatTheKernelSees(t *testing.T) {
	Require(t)
	SharedLimits(t)
	for _, c := range []struct {
		name  string
		flood func(ctx context.Context, p *Pair, load Load) (Sent, error)
	}{
		{"syn4", func(ctx context.Context, p *Pair, load Load) (Sent, error) {
			return p.Client.SYNFlood(ctx, netip.AddrPortFrom(p.Server.Addr4, 80), p.Client.Spoof4, load)
		}},
		{"syn6", func(ctx context.Context, p *Pair, load Load) (Sent, error) {
			return p.Client.SYNFlood(ctx, netip.AddrPortFrom(p.Server.Addr6, 80), p.Client.Spoof6, load)
		}},
		{"udp4", func(ctx context.Context, p *Pair, load Load) (Sent, error) {
			return p.Client.UDPFlood(ctx, netip.AddrPortFrom(p.Server.Addr4, 53), p.Client.Spoof4, 33, load)
		}},
		{"ping4", func(ctx context.Context, p *Pair, load Load) (Sent, error) {
			return p.Client.Ping(ctx, p.Server.Addr4, p.Client.Spoof4, load)
		}},
		{"ping6", func(ctx context.Context, p *Pair, load Load) (Sent, error) {
			return p.Client.Ping(ctx, p.Server.Addr6, p.Client.Spoof6, load)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Server(t)
			p.Server.NFT(silence)
			const want = 20_000
			sent, err := c.flood(t.Context(), p, Load{Packets: want})
			if err != nil {
				t.Fatal(err)
			}
			if sent.Packets != want {
				t.Errorf("sent %d packets, want %d", sent.Packets, want)
			}
			if got := p.Server.counted(t); got != want {
				t.Errorf("the kernel saw %d packets, want %d", got, want)
			}
			if got := p.Server.Count(); got != want {
				t.Errorf("the table holds %d entries, want %d", got, want)
			}
			t.Logf("%d packets in %v, %.0f a second", sent.Packets, sent.Elapsed, float64(sent.Packets)/sent.Elapsed.Seconds())
		})
	}
}

// silence counts what comes in and drops every answer before it is tracked.
const silence = `table inet silence {
	chain in { type filter hook prerouting priority -500; ip daddr 192.0.2.1 ip saddr 10.0.0.0/8 counter comment "seen"; ip6 saddr fd00::/8 counter comment "seen"; }
	chain out { type filter hook output priority -500; ip daddr 10.0.0.0/8 drop; ip6 daddr fd00::/8 drop; }
}`

// counted is what the counters of the ruleset silence have counted.
func (h *Host) counted(t *testing.T) int {
	t.Helper()
	total := 0
	for line := range strings.Lines(h.Exec("nft", "list", "table", "inet", "silence")) {
		fields := strings.Fields(line)
		for i, f := range fields {
			if f == "packets" && i+1 < len(fields) {
				n, err := strconv.Atoi(fields[i+1])
				if err != nil {
					t.Fatal(err)
				}
				total += n
			}
		}
	}
	return total
}

func TestLoadIsBounded(t *testing.T) {
	Require(t)
	p := Server(t)
	target := netip.AddrPortFrom(p.Server.Addr4, 80)
	if _, err := p.Client.SYNFlood(t.Context(), target, p.Client.Spoof4, Load{}); err == nil {
		t.Error("a load without a bound was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sent, err := p.Client.SYNFlood(ctx, target, p.Client.Spoof4, Load{Packets: 1000})
	if err != nil || sent.Packets != 0 {
		t.Errorf("sent %d after the end of the context, error %v", sent.Packets, err)
	}
	sent, err = p.Client.SYNFlood(t.Context(), target, p.Client.Spoof4, Load{Packets: 1 << 30, PerSecond: 1000, Duration: 300 * time.Millisecond})
	if err != nil || sent.Packets < 1 || sent.Packets > 400 {
		t.Errorf("sent %d packets in 300 ms at 1000 a second, error %v", sent.Packets, err)
	}
}

func TestSpreadNeverRepeats(t *testing.T) {
	target := netip.MustParseAddrPort("192.0.2.1:80")
	for _, prefix := range []string{"10.2.0.0/32", "10.2.0.0/28", "fd02::/64"} {
		seen := make(map[ct.Tuple]bool)
		for i := range 60_000 {
			tuple := spread(ct.TCP, netip.MustParsePrefix(prefix), target, i)
			if seen[tuple] {
				t.Fatalf("%s: tuple %d, %s, came before", prefix, i, tuple)
			}
			if !netip.MustParsePrefix(prefix).Contains(tuple.Src) || tuple.SrcPort < 1024 {
				t.Fatalf("%s: tuple %d is %s", prefix, i, tuple)
			}
			seen[tuple] = true
		}
	}
}

// A churn's sockets keep off the ports from which connect chooses by itself.
func TestChurnsPortsAreNotConnects(t *testing.T) {
	target := netip.MustParseAddrPort("192.0.2.1:80")
	seen := make(map[ct.Tuple]bool)
	for i := range 31_744 * 4 {
		tuple := spreadOver(belowLocal, ct.TCP, netip.MustParsePrefix("10.2.0.0/30"), target, i)
		if seen[tuple] {
			t.Fatalf("tuple %d, %s, came before", i, tuple)
		}
		if tuple.SrcPort < 1024 || tuple.SrcPort >= 32768 {
			t.Fatalf("tuple %d is from port %d", i, tuple.SrcPort)
		}
		seen[tuple] = true
	}
}
