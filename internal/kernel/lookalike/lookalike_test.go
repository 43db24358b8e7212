package lookalike

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctwarden/ctwarden/ct"
)

func TestLiveMachineIsRead(t *testing.T) {
	if _, err := os.Stat("/proc/net/netstat"); err != nil {
		t.Skip("no /proc/net/netstat on this system")
	}
	l := Source{}.Read()
	for name, v := range map[string]ct.Value{
		"arp limit": l.ARPLimit, "listen overflows": l.ListenOverflows, "tcp mem limit": l.TCPMemLimitPages,
		"first port": l.PortFirst, "last port": l.PortLast, "arp entries": l.ARPEntries, "arp refusals": l.ARPTableFulls,
	} {
		if !v.Known {
			t.Errorf("%s is unknown", name)
		}
	}
	if l.PortFirst.N >= l.PortLast.N || l.TCPMemLimitPages.N <= 0 {
		t.Errorf("ports %v to %v, tcp memory %v", l.PortFirst, l.PortLast, l.TCPMemLimitPages)
	}
}

func TestParseNetlink(t *testing.T) {
	const text = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000350dc358 7   0          00000000 0        0        0     2        0        7
0000000000000001 12  4242       00000007 212992   0        0     2        17       99
0000000000000002 12  4294963200 00000001 0        0        0     2        0        98
0000000000000003 12  77         00000200 5        0        0     2        1        97
0000000000000004 12
`
	want := []ct.EventListener{{Pid: 4242, Groups: 7, QueueBytes: 212992, Drops: 17}, {Pid: -4096, Groups: 1}}
	if d := cmp.Diff(want, ParseNetlink(strings.NewReader(text))); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestParseNeighbourStat(t *testing.T) {
	entries, fulls := ParseNeighbourStat(strings.NewReader(
		"entries  allocs table_fulls\n00000400  00000049 00000010\n00000400  00000055 00000001\n"))
	if entries != ct.Known(1024) || fulls != ct.Known(17) {
		t.Errorf("entries %v, refusals %v", entries, fulls)
	}
	if _, fulls := ParseNeighbourStat(strings.NewReader("entries\n00000001\n")); fulls.Known {
		t.Error("a kernel without the column has refusals")
	}
}

func TestAllowance(t *testing.T) {
	a, ok := allowance("eth0", map[string]uint64{"conntrack_allowance_exceeded": 5, "conntrack_allowance_available": 136812})
	if !ok || a.Exceeded != 5 || a.Available != ct.Known(136812) {
		t.Errorf("%+v, %v", a, ok)
	}
	if _, ok := allowance("eth0", map[string]uint64{"rx_packets": 1}); ok {
		t.Error("an interface without the counters has an allowance")
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("TcpExt: A B\nTcpExt: 1 2\n")
	f.Add("sk Eth Pid Groups\n1 12 5 3\n")
	f.Fuzz(func(_ *testing.T, text string) {
		ParseNetlink(strings.NewReader(text))
		ParseNeighbourStat(strings.NewReader(text))
		ParsePairs(strings.NewReader(text))
		ParseSockstat(strings.NewReader(text))
	})
}
