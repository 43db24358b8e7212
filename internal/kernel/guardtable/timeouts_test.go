package guardtable_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// left returns the seconds that conntrack shows for entries whose line holds
// all the words: the least and the most, and how many there are.
func left(t *testing.T, h *lab.Host, words ...string) (least, most, n int) {
	t.Helper()
	least = 1 << 30
	for _, family := range []string{"ipv4", "ipv6"} {
	lines:
		for _, line := range h.ConntrackList("-f", family) {
			for _, w := range words {
				if !strings.Contains(line+" ", w) {
					continue lines
				}
			}
			s, err := strconv.Atoi(strings.Fields(line)[2])
			if err != nil {
				t.Fatalf("conntrack says %q", line)
			}
			least, most, n = min(least, s), max(most, s), n+1
		}
	}
	return least, most, n
}

// What entries have left without our timeouts: UDP's are 30 and, once they have
// lasted 2 s, 120 (180 before 5.0, and 5.17 for the 2 s).
const defaultEstablished, plainLeft = 432000, 120

// lag is how long an emulated machine may take from a packet to its reading.
const lag = 95

// wantLeft checks that entries exist and have about so many seconds left, once
// all data is acknowledged, which takes up to 40 ms more. The seconds that the
// tests set differ by more than lag.
func wantLeft(t *testing.T, h *lab.Host, seconds int, words ...string) {
	t.Helper()
	var least, most, n int
	for range 10 {
		least, most, n = left(t, h, words...)
		if n > 0 && most <= seconds && least >= seconds-lag {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%q: %d entries with %d to %d s left, want about %d", words, n, least, most, seconds)
}

// talker is a connection whose client port tells its entry.
type talker struct {
	net.Conn
	t *testing.T
}

func (c talker) port() string {
	_, p, _ := net.SplitHostPort(c.LocalAddr().String())
	return "sport=" + p + " "
}

func (c talker) say() {
	c.t.Helper()
	var b [1]byte
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write(b[:]); err != nil {
		c.t.Error(err)
	}
	if _, err := c.Read(b[:]); err != nil {
		c.t.Error(err)
	}
}

// TestNewTimeouts compares what conntrack shows of flows that began before,
// while and after timeouts were set.
func TestNewTimeouts(t *testing.T) {
	lab.Require(t, "conntrack", "ping")
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	p.Server.ServeUDP(53)
	g := open(t, p.Server)
	for _, family := range []struct {
		name           string
		server, client netip.Addr
	}{{"IPv4", p.Server.Addr4, p.Client.Addr4}, {"IPv6", p.Server.Addr6, p.Client.Addr6}} {
		t.Run(family.name, func(t *testing.T) {
			from := netip.PrefixFrom(family.client, family.client.BitLen())
			connect := func() talker {
				list, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(family.server, 80), from, 1)
				must(t, err)
				c := talker{list[0], t}
				c.say()
				return c
			}
			udp := func() talker {
				list, err := p.Client.ConnectUDP(netip.AddrPortFrom(family.server, 53), from, 1)
				must(t, err)
				return talker{list[0], t}
			}
			old, oldUDP := connect(), udp()
			oldUDP.say()
			must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutTCPSynSent), 230, int32(ct.TimeoutTCPEstablished), 7440,
				int32(ct.TimeoutUDP), 400, int32(ct.TimeoutUDPStream), 500, int32(ct.TimeoutICMP), 300, int32(ct.TimeoutICMPv6), 300)))
			old.say()
			oldUDP.say()
			wantLeft(t, p.Server, defaultEstablished, "ESTABLISHED", old.port())
			wantLeft(t, p.Server, plainLeft, "udp", oldUDP.port())
			young, youngUDP := connect(), udp()
			wantLeft(t, p.Server, 7440, "ESTABLISHED", young.port())
			youngUDP.say()
			wantLeft(t, p.Server, 400, "udp", youngUDP.port())
			pings(p.Client, family.server)
			wantLeft(t, p.Server, 300, "icmp", "src="+family.client.String()+" ")
			// What the server itself begins: a SYN that nobody answers.
			nowhere := lab.Nth(p.Client.Spoof4, 7)
			if family.client.Is6() {
				nowhere = lab.Nth(p.Client.Spoof6, 7)
			}
			if c, err := p.Server.Dial(t.Context(), netip.AddrPortFrom(nowhere, 81), family.server, 200*time.Millisecond); err == nil {
				c.Close()
				t.Error("somebody answered")
			}
			wantLeft(t, p.Server, 230, "SYN_SENT", "dst="+nowhere.String()+" ")

			// The next set reaches flows that begin from then on.
			must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutTCPEstablished), 3000)))
			younger, bareUDP := connect(), udp()
			bareUDP.say()
			young.say()
			wantLeft(t, p.Server, 3000, "ESTABLISHED", younger.port())
			wantLeft(t, p.Server, 7440, "ESTABLISHED", young.port())
			wantLeft(t, p.Server, plainLeft, "udp", bareUDP.port())

			must(t, g.SetTimeouts(ct.Timeouts{}))
			wantLeft(t, p.Server, 3000, "ESTABLISHED", younger.port())
			for _, c := range []talker{old, young, younger, connect()} {
				c.say()
				wantLeft(t, p.Server, defaultEstablished, "ESTABLISHED", c.port())
			}
			for _, c := range []talker{youngUDP, bareUDP} {
				c.say()
				wantLeft(t, p.Server, plainLeft, "udp", c.port())
			}
		})
	}
}

func pings(h *lab.Host, to netip.Addr) {
	h.Exec("ping", "-c1", "-W2", to.String())
}

// TestTimeoutsEndWithTheGuard kills the guard and looks at a flow that began
// under it.
func TestTimeoutsEndWithTheGuard(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.ServeUDP(53)
	kill := startGuard(t, p.Server)
	persistent := strings.Contains(listed(p.Server), "chain owner_")
	list, err := p.Client.ConnectUDP(netip.AddrPortFrom(p.Server.Addr4, 53), netip.PrefixFrom(p.Client.Addr4, 32), 1)
	must(t, err)
	c := talker{list[0], t}
	c.say()
	wantLeft(t, p.Server, 400, "udp", c.port())
	kill()
	if persistent {
		if _, err := guardtable.Remove(p.Server.Name); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the table is gone", func() bool { return listed(p.Server) == "" })
	wantLeft(t, p.Server, 400, "udp", c.port())
	c.say()
	wantLeft(t, p.Server, plainLeft, "udp", c.port())
}

// TestManyTimeouts sets more than are kept, again and again.
func TestManyTimeouts(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "many")
	g := open(t, h)
	for round := range 3 {
		for i := range int32(12) {
			must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutTCPSynSent), 15+i, int32(ct.TimeoutUDP), 20)))
		}
		out := listed(h)
		if n := strings.Count(out, "ct timeout tcp_"); n < 2 || n > 9 {
			t.Errorf("round %d: %d objects of TCP:\n%s", round, n, out)
		}
		if n := strings.Count(out, "ct timeout udp_"); n != 1 {
			t.Errorf("round %d: %d objects of UDP", round, n)
		}
		if !strings.Contains(out, "syn_sent : 26") {
			t.Errorf("round %d: the last is not there:\n%s", round, out)
		}
	}
	must(t, g.SetTimeouts(ct.Timeouts{}))
	if out := listed(h); strings.Contains(out, "ct timeout") {
		t.Errorf("objects stayed:\n%s", out)
	}
}

func TestTimeoutsThatCannotBe(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "range")
	g := open(t, h)
	before := listed(h)
	for _, pair := range [][]int32{
		{int32(ct.TimeoutTCPSynSent), 0}, {int32(ct.TimeoutUDP), -1}, {int32(ct.TimeoutUDP), 1<<31 - 1},
		{int32(ct.TimeoutGeneric), 60}, {int32(ct.TimeoutSCTPClosed), 10},
	} {
		set := timeouts(append(pair, int32(ct.TimeoutICMP), 20)...)
		if err := g.SetTimeouts(set); !errors.Is(err, guardtable.ErrRange) {
			t.Errorf("%s of %d s: %v", ct.TimeoutKey(pair[0]), pair[1], err)
		}
	}
	if now := listed(h); now != before {
		t.Errorf("something changed:\n%s", now)
	}
	reach := ""
	for k := range ct.NumTimeouts {
		if guardtable.Reaches(k) {
			reach += fmt.Sprintf("%s ", k)
		}
	}
	const want = "tcp_timeout_syn_sent tcp_timeout_syn_recv tcp_timeout_established tcp_timeout_fin_wait " +
		"tcp_timeout_close_wait tcp_timeout_last_ack tcp_timeout_time_wait tcp_timeout_close tcp_timeout_max_retrans " +
		"tcp_timeout_unacknowledged udp_timeout udp_timeout_stream icmp_timeout icmpv6_timeout "
	if reach != want {
		t.Errorf("reached: %s", reach)
	}
}
