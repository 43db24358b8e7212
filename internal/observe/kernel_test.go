package observe

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func machine(t *testing.T, o Options) *ct.Snapshot {
	t.Helper()
	if o.Seed == 0 {
		o.Seed = 1
	}
	s, err := Machine(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mix is a table of many kinds of entries, none of which expires during a test.
var mix = []lab.Class{
	{Count: 4000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 400000},
	{Count: 3000, TimeoutSeconds: 100_000, State: ct.TCPSynSent, Sources: netip.MustParsePrefix("10.2.0.0/15"), Port: 80},
	{Count: 2000, TimeoutSeconds: 100_000, Proto: ct.UDP, Status: ct.StatusSeenReply, Sources: netip.MustParsePrefix("10.0.3.7/32")},
	{Count: 500, TimeoutSeconds: 100_000, Proto: ct.UDP, Sources: netip.MustParsePrefix("fd01::/64"), Targets: netip.MustParsePrefix("2001:db8::1/128")},
	{Count: 200, TimeoutSeconds: 100_000, Proto: ct.ICMP, Zone: 7},
	{Count: 300, TimeoutSeconds: 100_000, State: ct.TCPTimeWait, Status: ct.StatusSeenReply | ct.StatusAssured, Sources: netip.MustParsePrefix("10.9.0.0/16"), SNAT: netip.MustParseAddr("203.0.113.9")},
}

// TestAgainstConntrack compares a full reading with what conntrack(8) says of
// the same table.
func TestAgainstConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	h := lab.NewHost(t, "mix")
	h.Track()
	h.Fill(mix...)
	for _, full := range []bool{true, false} {
		s := machine(t, Options{Netns: h.Path(), Full: full})
		c := s.Census
		if c == nil || !c.Complete || c.Short || c.SampleError != 0 {
			t.Fatalf("full %v: census %+v; blind %+v", full, c, s.Blind)
		}
		lines := func(args ...string) uint64 { return uint64(len(h.ConntrackList(args...))) }
		sum := func(keep func(ct.ClassKey) bool) uint64 { return c.Sum(keep) }
		for what, pair := range map[string][2]uint64{
			"entries":     {c.Entries, lines()},
			"count":       {uint64(s.Limits.Count.N), uint64(h.Count())},
			"IPv6":        {c.V6, lines("-f", "ipv6")},
			"tcp":         {sum(func(k ct.ClassKey) bool { return k.Proto == ct.TCP }), lines("-p", "tcp")},
			"syn_sent":    {sum(func(k ct.ClassKey) bool { return k.Proto == ct.TCP && k.State == ct.TCPSynSent }), lines("-p", "tcp", "--state", "SYN_SENT")},
			"assured":     {sum(func(k ct.ClassKey) bool { return k.Assured }), lines("-u", "ASSURED")},
			"unreplied":   {sum(func(k ct.ClassKey) bool { return !k.Replied }), lines("-u", "UNREPLIED")},
			"translated":  {sum(func(k ct.ClassKey) bool { return k.NAT }), lines("--src-nat")},
			"one source":  {heavy(c.Sources, "10.0.3.7/32").Entries, lines("-s", "10.0.3.7")},
			"destination": {heavy(c.Destinations, "192.0.2.1/32").Entries, lines("-d", "192.0.2.1")},
			"udp to 53":   {port(c.Ports, ct.UDP, 53).Entries, lines("-p", "udp", "--orig-port-dst", "53")},
		} {
			if pair[0] != pair[1] {
				t.Errorf("full %v: %s: %d, conntrack says %d", full, what, pair[0], pair[1])
			}
		}
		if c.Zones != 2 {
			t.Errorf("%d zones", c.Zones)
		}
		if hv := heavy(c.Sources, "10.0.3.7/32"); hv.MainPort != 53 || hv.MainProto != ct.UDP || hv.MainPortShare != 1 || hv.DistinctPeers != 1 || hv.Replied != hv.Entries {
			t.Errorf("make-up %+v", hv)
		}
		stats := h.ConntrackStats()
		for name, v := range s.Counters.All {
			if want, ok := stats[name]; ok && want != int(v) {
				t.Errorf("%s: %d, conntrack -S says %d", name, v, want)
			}
		}
		if s.Counters.Has&(ct.CounterInsert|ct.CounterExpectNew|ct.CounterChainTooLong) != ct.CounterInsert|ct.CounterExpectNew|ct.CounterChainTooLong {
			t.Errorf("counters offered: %b", s.Counters.Has)
		}
		if s.Tracking.Active != ct.Yes || s.Tracking.NAT != ct.Yes {
			t.Errorf("tracking %+v", s.Tracking)
		}
	}
}

func heavy(list []ct.Heavy, prefix string) ct.Heavy {
	i := slices.IndexFunc(list, func(h ct.Heavy) bool { return h.Prefix == netip.MustParsePrefix(prefix) })
	if i < 0 {
		return ct.Heavy{}
	}
	return list[i]
}

func port(list []ct.Heavy, p ct.Proto, n uint16) ct.Heavy {
	i := slices.IndexFunc(list, func(h ct.Heavy) bool { return h.Proto == p && h.Port == n })
	if i < 0 {
		return ct.Heavy{}
	}
	return list[i]
}

// TestPanelStandsForTheTable compares the shares of a panel with the table.
func TestPanelStandsForTheTable(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "panel")
	h.Fill(mix...)
	s := machine(t, Options{Netns: h.Path(), Panel: 2000})
	c := s.Census
	if c == nil || c.Complete || c.Entries != 2000 || c.SampleError <= 0 {
		t.Fatalf("census %+v", c)
	}
	got := c.Share(c.Sum(func(k ct.ClassKey) bool { return k.State == ct.TCPSynSent }))
	if want := 0.3; got < want-1.5*c.SampleError || got > want+1.5*c.SampleError {
		t.Errorf("share of SYN_SENT %.3f, in truth %.3f, error %.3f", got, want, c.SampleError)
	}
	again := machine(t, Options{Netns: h.Path(), Panel: 2000})
	if again.Census.Classes[0] != c.Classes[0] {
		t.Errorf("the panel read again is another: %+v and %+v", again.Census.Classes[0], c.Classes[0])
	}
}

// TestRates makes and removes known numbers of entries between the readings.
func TestRates(t *testing.T) {
	lab.Require(t, "conntrack")
	for name, panel := range map[string]int{"whole": 0, "panel": 4000} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t, "rates")
			h.Track()
			h.Fill(lab.Class{Count: 8000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured},
				lab.Class{Count: 2000, Proto: ct.UDP, TimeoutSeconds: 100_000, Sources: netip.MustParsePrefix("10.7.0.0/16")})
			acted := false
			s := machine(t, Options{Netns: h.Path(), Panel: panel, Observe: 2 * time.Second, Progress: func(doing string, _ float64) {
				if doing != "observing" || acted {
					return
				}
				acted = true
				h.Exec("conntrack", "-D", "-p", "udp")
				h.Fill(lab.Class{Count: 4000, State: ct.TCPSynSent, TimeoutSeconds: 100_000, Sources: netip.MustParsePrefix("10.8.0.0/16")})
			}})
			r := s.Rates
			if r == nil || !r.Panel || s.Census == nil {
				t.Fatalf("rates %+v; blind %+v", r, s.Blind)
			}
			within := func(what string, got, want, tolerance float64) {
				t.Helper()
				if got < want*(1-tolerance) || got > want*(1+tolerance) {
					t.Errorf("%s: %.1f a second, in truth %.1f", what, got, want)
				}
			}
			sec := r.Interval.Seconds()
			tolerance := 0.05
			if panel > 0 {
				tolerance = 0.2
			}
			within("births", r.BirthsPerSecond, 4000/sec, tolerance)
			within("deaths", r.DeathsPerSecond, 2000/sec, tolerance)
			if r.CountStart != ct.Known(10000) || r.CountEnd != ct.Known(12000) {
				t.Errorf("count %v to %v", r.CountStart, r.CountEnd)
			}
			if len(r.BirthsByClass) != 1 || r.BirthsByClass[0].State != ct.TCPSynSent {
				t.Errorf("births by class %+v", r.BirthsByClass)
			}
			if r.Rearmed != 0 {
				t.Errorf("renewed %v of entries that nothing touches", r.Rearmed)
			}
			if r.Counters.Insert != 4000 {
				t.Errorf("insert grew by %d", r.Counters.Insert)
			}
		})
	}
}

func TestTrackingSeenFromMovement(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "idle")
	h.Fill(lab.Class{Count: 10, TimeoutSeconds: 100_000})
	if s := machine(t, Options{Netns: h.Path(), Observe: 200 * time.Millisecond}); s.Tracking.Active != ct.No || s.Tracking.NAT != ct.No || s.Tracking.DropsUntracked != ct.No {
		t.Errorf("no rules: %+v", s.Tracking)
	}
	h.NFT("table inet t {\nchain c {\ntype filter hook input priority 0; policy drop;\nct state established accept\n}\n}\n")
	if s := machine(t, Options{Netns: h.Path()}); s.Tracking.Active != ct.Yes || s.Tracking.DropsUntracked != ct.Yes || len(s.Tracking.Users) != 1 {
		t.Errorf("with rules: %+v", s.Tracking)
	}
}

func TestNamespaces(t *testing.T) {
	lab.Require(t)
	routed := lab.Gateway(t)
	h := routed.Inside
	inode, err := netns.Inode(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{h.Path(), h.Name} {
		s := machine(t, Options{Netns: ref})
		if s.Netns.Inode != inode || s.Netns.Initial != ct.No || s.Limits.MaxWritable != ct.No {
			t.Errorf("%s: %+v, max writable %v", ref, s.Netns, s.Limits.MaxWritable)
		}
		if !slices.Contains(s.SelfAddresses, h.Addr6) || !slices.Contains(s.Gateways, routed.Gateway.Addr4) ||
			!slices.Contains(s.Gateways, routed.Gateway.Addr6) {
			t.Errorf("addresses %v, gateways %v", s.SelfAddresses, s.Gateways)
		}
	}
	if s := machine(t, Options{}); s.Netns.Inode == inode {
		t.Error("the reader stayed in the namespace")
	}
	if _, err := Machine(context.Background(), Options{Netns: "ctw-no-such"}); !errors.Is(err, netns.ErrNotFound) {
		t.Errorf("a namespace that is not there: %v", err)
	}
	if s := machine(t, Options{Netns: strconv.Itoa(os.Getpid())}); s.Limits.Count.Known != true {
		t.Errorf("by process: %+v", s.Limits)
	}
}

func TestEndsWithItsContext(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "end")
	h.Track()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := Machine(ctx, Options{Netns: h.Path(), Observe: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestReadingMakesNothing compares what can be compared before and after.
func TestReadingMakesNothing(t *testing.T) {
	lab.Require(t, "iptables-legacy")
	h := lab.NewHost(t, "still")
	h.Track()
	look := func() string {
		return strings.Join([]string{h.Exec("nft", "list", "ruleset"), h.Exec("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"),
			h.Sysctl("net.netfilter.nf_conntrack_acct"), h.Sysctl("net.netfilter.nf_conntrack_timestamp"), h.Sysctl("net.netfilter.nf_conntrack_events")}, "\n")
	}
	before := look()
	machine(t, Options{Netns: h.Path(), Observe: 100 * time.Millisecond, Full: true})
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
