package flowgroup

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
)

func flow(src string, dport uint16) *ct.Flow {
	a := netip.MustParseAddr(src)
	dst := netip.MustParseAddr("192.0.2.1")
	if a.Is6() {
		dst = netip.MustParseAddr("2001:db8:ffff::1")
	}
	f := &ct.Flow{Orig: ct.Tuple{Src: a, Dst: dst, Proto: ct.TCP, SrcPort: 1000, DstPort: dport},
		Fields: ct.HasProtoInfo, State: ct.TCPSynSent}
	f.Reply, _ = f.Orig.Invert()
	return f
}

func keys(groups []Group) string {
	var out []string
	for _, g := range groups {
		out = append(out, fmt.Sprintf("%s=%d", strings.Join(g.Key, "+"), g.Entries))
	}
	return strings.Join(out, " ")
}

func TestGroups(t *testing.T) {
	flows := []*ct.Flow{flow("10.0.0.1", 80), flow("10.0.0.1", 80), flow("10.0.0.2", 443),
		flow("10.0.1.1", 80), flow("2001:db8::1", 80), flow("2001:db8::2", 80), flow("2001:db8:0:1::1", 80)}
	flows[0].Status = ct.StatusAssured | ct.StatusSeenReply
	flows[0].Mark, flows[1].Zone = 255, 7
	ping := &ct.Flow{Orig: ct.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("192.0.2.1"), Proto: ct.ICMP, ICMPType: 8}}
	ping.Reply.Src = netip.MustParseAddr("192.0.2.9")
	flows = append(flows, ping)
	for by, want := range map[string]string{
		"src,dst,reply_src": "10.0.0.1+192.0.2.1+192.0.2.1=2 10.0.0.1+192.0.2.1+192.0.2.9=1 " +
			"10.0.0.2+192.0.2.1+192.0.2.1=1 10.0.1.1+192.0.2.1+192.0.2.1=1 " +
			"2001:db8::1+2001:db8:ffff::1+2001:db8:ffff::1=1 2001:db8::2+2001:db8:ffff::1+2001:db8:ffff::1=1 " +
			"2001:db8:0:1::1+2001:db8:ffff::1+2001:db8:ffff::1=1",
		"src":         "10.0.0.1=3 10.0.0.2=1 10.0.1.1=1 2001:db8::1=1 2001:db8::2=1 2001:db8:0:1::1=1",
		"src/24":      "10.0.0.0/24=4 2001:db8::/64=2 10.0.1.0/24=1 2001:db8:0:1::/64=1",
		"src/16/32":   "10.0.0.0/16=5 2001:db8::/32=3",
		"dport":       "80=6 -=1 443=1",
		"proto,dport": "tcp+80=6 icmp+-=1 tcp+443=1",
		"state":       "SYN_SENT=7 -=1",
		"family":      "ipv4=5 ipv6=3",
		"zone":        "0=7 7=1",
		"mark":        "0x0=7 0xff=1",
		"helper":      "-=8",
	} {
		b, err := Parse(by, nil)
		if err != nil {
			t.Fatal(err)
		}
		tab := New(b, 0)
		for _, f := range flows {
			tab.Add(f)
		}
		if got := keys(tab.Top(0, Orders["entries"])); got != want {
			t.Errorf("by %s: %s\nwant %s", by, got, want)
		}
		if tab.Total().Entries != 8 || tab.Total().Assured != 1 {
			t.Errorf("by %s: total %+v", by, tab.Total())
		}
	}
	for _, bad := range []string{"", "port", "src/33", "src/24/129", "dport/8", "src,,dst"} {
		if _, err := Parse(bad, nil); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestWhere(t *testing.T) {
	for by, tc := range map[string]struct {
		key  []string
		want string
	}{
		"src":          {[]string{"10.0.0.1"}, "src == 10.0.0.1"},
		"dst/24,dport": {[]string{"10.0.0.0/24", "443"}, "dst in 10.0.0.0/24 && dport == 443"},
		"proto,state":  {[]string{"tcp", "SYN_SENT"}, `proto == "tcp" && state == "SYN_SENT"`},
		"mark":         {[]string{"0xff"}, "mark == 0xff"},
		"dport":        {[]string{"-"}, ""},
		"process":      {[]string{"nginx"}, ""},
	} {
		b, err := Parse(by, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := b.Where(tc.key)
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s %v: %q, want %q", by, tc.key, got, tc.want)
		}
		if ok {
			if _, err := flowexpr.Compile(got); err != nil {
				t.Errorf("%s: %v", by, err)
			}
		}
	}
}

// TestTopAgainstSorting compares the heap with sorting everything.
func TestTopAgainstSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	by, _ := Parse("src", nil)
	tab := New(by, 0)
	counts := map[string]uint64{}
	for range 20000 {
		src := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.ExpFloat64() * 20)}).String()
		counts[src]++
		tab.Add(flow(src, 80))
	}
	if tab.Groups() != len(counts) {
		t.Fatalf("%d groups, want %d", tab.Groups(), len(counts))
	}
	all := tab.Top(0, Orders["entries"])
	if !slices.IsSortedFunc(all, func(a, b Group) int { return int(b.Entries) - int(a.Entries) }) {
		t.Error("not sorted")
	}
	for _, g := range all {
		if counts[g.Key[0]] != g.Entries {
			t.Errorf("%s has %d entries, want %d", g.Key[0], g.Entries, counts[g.Key[0]])
		}
	}
	for _, n := range []int{1, 7, 20, len(all)} {
		if d := cmp.Diff(all[:n], tab.Top(n, Orders["entries"])); d != "" {
			t.Errorf("top %d: %s", n, d)
		}
	}
}

// TestBoundHolds fills a table beyond its bound: no group may claim more than
// the truth, nor lack more than the stated error.
func TestBoundHolds(t *testing.T) {
	for _, fields := range []string{"src", "src,dst,reply_src,reply_dst,mark"} { // short and long keys
		t.Run(fields, func(t *testing.T) { boundHolds(t, fields) })
	}
}

func boundHolds(t *testing.T, fields string) {
	r := rand.New(rand.NewPCG(3, 4))
	by, _ := Parse(fields, nil)
	tab := New(by, 100)
	truth := map[string]uint64{}
	for range 30000 {
		src := netip.AddrFrom4([4]byte{10, 0, byte(r.ExpFloat64() * 3), byte(r.IntN(256))}).String()
		truth[src]++
		f := flow(src, 80)
		f.OrigCounters = ct.DirCounters{Packets: 1, Bytes: 10}
		tab.Add(f)
		if tab.Groups() > 100 {
			t.Fatal("bound exceeded")
		}
	}
	lack, forgotten := tab.Error()
	if forgotten == 0 {
		t.Fatal("the bound was never reached")
	}
	for _, g := range tab.Top(0, Orders["entries"]) {
		if n := truth[g.Key[0]]; g.Entries > n || g.Entries+lack < n {
			t.Errorf("%s: %d counted, %d true, error stated as %d", g.Key[0], g.Entries, n, lack)
		}
		if g.Packets != g.Entries || g.Bytes != 10*g.Entries {
			t.Errorf("%s: %d packets, %d bytes in %d entries", g.Key[0], g.Packets, g.Bytes, g.Entries)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, sources := range []int{1000, 1_000_000} {
		by, _ := Parse("src", nil)
		tab := New(by, 0)
		f := flow("10.0.0.1", 80)
		r := rand.New(rand.NewPCG(5, 6))
		b.Run(fmt.Sprint(sources), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := r.IntN(sources)
				f.Orig.Src = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
				tab.Add(f)
			}
		})
	}
}
