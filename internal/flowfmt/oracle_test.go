package flowfmt

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// everyKind returns flows of both families: each protocol, each TCP and SCTP
// state, and each property that conntrack shows.
func everyKind() (flows []ct.Flow) {
	n := uint16(0)
	add := func(p ct.Proto, six bool, set func(*ct.Flow)) {
		n++
		f := ct.Flow{Fields: ct.HasTimeout, TimeoutSeconds: 3000 + uint32(n)}
		f.Orig = ct.Tuple{Src: nth("10.0.0.0", n), Dst: nth("192.0.2.0", n), Proto: p}
		if six {
			f.Orig.Src, f.Orig.Dst = nth("2001:db8::", n), nth("2001:db8:1::", n)
		}
		switch {
		case p.IsICMP():
			f.Orig.ICMPType, f.Orig.ICMPID = 8, n
			if p == ct.ICMPv6 {
				f.Orig.ICMPType = 128
			}
		case p.HasPorts() && p != ct.DCCP || p == ct.GRE:
			f.Orig.SrcPort, f.Orig.DstPort = 1024+n, n
		}
		if p.HasState() && p != ct.DCCP {
			f.Fields |= ct.HasProtoInfo
			f.State = 3
		}
		if set != nil {
			set(&f)
		}
		if !f.Reply.IsValid() {
			f.Reply, _ = f.Orig.Invert()
		}
		flows = append(flows, f)
	}
	for _, six := range []bool{false, true} {
		for _, p := range []ct.Proto{ct.TCP, ct.UDP, ct.UDPLite, ct.SCTP, ct.GRE, ct.DCCP, 2, 50, 89} {
			add(p, six, nil)
			add(p, six, func(f *ct.Flow) { f.Status = ct.StatusSeenReply })
			add(p, six, func(f *ct.Flow) { f.Status = ct.StatusSeenReply | ct.StatusAssured })
		}
		for s := range ct.NumTCPStates {
			add(ct.TCP, six, func(f *ct.Flow) { f.State = s })
		}
		for s := range ct.SCTPHeartbeatAcked {
			add(ct.SCTP, six, func(f *ct.Flow) { f.State = s })
		}
		add(ct.UDP, six, func(f *ct.Flow) { f.Mark, f.Fields = 0xdeadbeef, f.Fields|ct.HasMark })
		add(ct.UDP, six, func(f *ct.Flow) { f.Zone, f.Fields = 7, f.Fields|ct.HasZone })
		add(ct.UDP, six, func(f *ct.Flow) { f.ZoneOrig = 8 })
		add(ct.UDP, six, func(f *ct.Flow) { f.ZoneReply = 9 })
	}
	add(ct.ICMP, false, nil)
	add(ct.ICMPv6, true, nil)
	add(ct.UDP, true, func(f *ct.Flow) { f.Orig.Src = netip.MustParseAddr("::192.0.2.1") })
	add(ct.UDP, true, func(f *ct.Flow) { f.Orig.Dst = netip.MustParseAddr("::ffff:192.0.2.1") })
	add(ct.UDP, true, func(f *ct.Flow) { f.Orig.Src = netip.MustParseAddr("2001:db8:0:1:1:1:1:1") })
	add(ct.TCP, false, func(f *ct.Flow) {
		f.Status = ct.StatusSrcNAT | ct.StatusSeenReply
		f.Reply, _ = f.Orig.Invert()
		f.Reply.Dst, f.Reply.DstPort = netip.MustParseAddr("203.0.113.9"), 61000
	})
	return flows
}

func nth(base string, n uint16) netip.Addr {
	a := netip.MustParseAddr(base)
	raw := a.AsSlice()
	raw[len(raw)-2], raw[len(raw)-1] = byte(n>>8), byte(n)
	a, _ = netip.AddrFromSlice(raw)
	return a
}

// TestAgainstConntrack compares with what conntrack(8) itself prints.
func TestAgainstConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	for _, acct := range []string{"0", "1"} {
		t.Run("acct="+acct, func(t *testing.T) {
			h := lab.NewHost(t, "fmt")
			h.SetSysctl("net.netfilter.nf_conntrack_acct", acct)
			h.SetSysctl("net.netfilter.nf_conntrack_timestamp", acct)
			h.Track()
			h.NFT(`table inet nat { chain post { type nat hook postrouting priority 100; }; }
				table inet lab2 { chain in { type filter hook input priority 0; ct label set 5; }; }`)
			conn, err := ctnl.Dial(ctnl.Options{Netns: h.Name})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			b := conn.NewBatch()
			b.Refused = func(e *ctnl.EntryError) { t.Errorf("not created: %v", e) }
			flows := everyKind()
			for i := range flows {
				if err := b.Create(&flows[i]); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Flush(); err != nil {
				t.Fatal(err)
			}
			compare(t, h, conn, len(flows)-b.Failed())
		})
	}
}

func compare(t *testing.T, h *lab.Host, conn *ctnl.Conn, want int) {
	before := time.Now()
	theirs := append(lines(h.Exec("conntrack", "-L", "-f", "ipv4", "-o", "extended")),
		lines(h.Exec("conntrack", "-L", "-f", "ipv6", "-o", "extended"))...)
	var ours []string
	c := &Context{NowNanos: time.Now().UnixNano()}
	_, err := conn.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
		ours = append(ours, strings.TrimSuffix(string(c.AppendConntrack(nil, f)), "\n"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(ours) != want || len(theirs) != want {
		t.Errorf("%d entries made, %d ours, %d theirs", want, len(ours), len(theirs))
	}
	most := 1 + int(time.Since(before)/time.Second) // they read first
	left := map[string]string{}
	for _, l := range theirs {
		left[stable(l)] = l
	}
	for _, l := range ours {
		their, ok := left[stable(l)]
		if !ok {
			t.Errorf("only ours:   %s", l)
		} else if d := seconds(l) - seconds(their); d > 0 || d < -most {
			t.Errorf("timeouts differ:\n%s\n%s", l, their)
		}
		delete(left, stable(l))
	}
	for _, l := range left {
		t.Errorf("only theirs: %s", l)
	}
}

func lines(s string) []string {
	return slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return l == "" })
}

var (
	timeoutField = regexp.MustCompile(`^(\S+ +\d+ \S+ +\d+ )(\d+)( )`)
	deltaField   = regexp.MustCompile(`delta-time=\d+`)
)

// stable is a line without what a second changes.
func stable(l string) string {
	return deltaField.ReplaceAllString(timeoutField.ReplaceAllString(l, "${1}T${3}"), "delta-time=N")
}

func seconds(l string) int {
	m := timeoutField.FindStringSubmatch(l)
	if m == nil {
		panic(fmt.Sprintf("no timeout in %q", l))
	}
	n, _ := strconv.Atoi(m[2])
	return n
}
