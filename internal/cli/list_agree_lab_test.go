package cli

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// TestListOnOtherKernels runs the agreement with conntrack(8) on Debian's
// kernels, where entries can also be offloaded to a flow table.
func TestListOnOtherKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		k.Run(t, vm.Options{Package: "./internal/cli", Run: "^TestListIsConntrack(Offloaded)?$",
			Modules:  append([]string{"nf_flow_table_inet", "nf_flow_table_ipv4", "nf_flow_table_ipv6"}, vm.NetfilterModules...),
			Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "veth"},
			Programs: []string{"ip", "nft", "conntrack", "sh"}})
	})
}

// TestListIsConntrack compares all that list -o conntrack prints, line for line,
// with conntrack -L -o extended.
func TestListIsConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	for _, acct := range []string{"0", "1"} {
		t.Run("acct="+acct, func(t *testing.T) {
			h := lab.NewHost(t, "agree")
			h.SetSysctl("net.netfilter.nf_conntrack_acct", acct)
			h.SetSysctl("net.netfilter.nf_conntrack_timestamp", acct)
			h.Track()
			h.NFT(lab.EveryKindRules)
			c, err := ctnl.Dial(ctnl.Options{Netns: h.Name})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			b := c.NewBatch()
			b.Refused = func(e *ctnl.EntryError) { t.Errorf("not created: %v", e) }
			flows := lab.EveryKind()
			for i := range flows {
				if err := b.Create(&flows[i]); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Flush(); err != nil {
				t.Fatal(err)
			}
			if n := agreeing(t, h); n != len(flows) {
				t.Errorf("%d entries agree, %d were made", n, len(flows))
			}
		})
	}
}

// TestListIsConntrackOffloaded compares entries whose packets a flow table
// handles: they have no state and, on most kernels, no timeout.
func TestListIsConntrackOffloaded(t *testing.T) {
	lab.Require(t, "conntrack")
	g := lab.Gateway(t)
	if err := g.Gateway.TryNFT(flowTable); err != nil {
		if strings.Contains(err.Error(), "No such file or directory") { // the module
			t.Skipf("this kernel has no flow table: %v", err)
		}
		t.Fatal(err)
	}
	g.Outside.ServeTCP(7, lab.Echo)
	conns, err := g.Inside.Connect(t.Context(), netip.MustParseAddrPort("203.0.113.1:7"), g.Inside.Sources4, 3)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		for _, c := range conns {
			if _, err := fmt.Fprintln(c, "x"); err != nil {
				t.Fatal(err)
			}
			c.Read(make([]byte, 16))
		}
	}
	if n := agreeing(t, g.Gateway); n < len(conns) {
		t.Errorf("%d entries agree, %d connections", n, len(conns))
	}
	s := ctw(t, "list", "--netns", g.Gateway.Name, "-o", "conntrack", "-u", "OFFLOAD")
	if n := strings.Count(s.out, "OFFLOAD] "); n != len(conns) || n != strings.Count(s.out, "\n") {
		t.Errorf("%d of %d connections are offloaded:\n%s%s", n, len(conns), s.out, s.err)
	}
	state := t.TempDir()
	if r, s := evicts(t, g.Gateway, state, "-p", "tcp", "--yes"); s.code != ExitOK || r.Changed != 0 || r.Spared["offload"] != uint64(len(conns)) {
		t.Errorf("evict: %+v\n%s", r, s.err)
	}
}

// flowTable offloads what the lab's gateway forwards of TCP.
const flowTable = `table inet ft {
	flowtable f { hook ingress priority 0; devices = { eth0, eth1 }; }
	chain passing { type filter hook forward priority 0; meta l4proto tcp flow add @f; }
}`

// agreeing compares our list of a table with conntrack's and returns how many
// lines are the same but for the second that passed.
func agreeing(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	before := time.Now()
	theirs := make(map[string]int)
	for _, fam := range []string{"ipv4", "ipv6"} {
		for _, l := range h.ConntrackList("-f", fam, "-o", "extended") {
			text, left := withoutTime(l)
			theirs[text] = left
		}
	}
	s := ctw(t, "list", "--netns", h.Name, "-o", "conntrack")
	if s.code != ExitOK {
		t.Fatalf("code %d: %s", s.code, s.err)
	}
	most := 1 + int((time.Since(before)+time.Second-1)/time.Second)
	for l := range strings.Lines(s.out) {
		text, left := withoutTime(strings.TrimSuffix(l, "\n"))
		their, ok := theirs[text]
		switch {
		case !ok:
			t.Errorf("only ours:   %s", l)
		case their < left || their-left > most:
			t.Errorf("%d s left, conntrack read %d: %s", left, their, l)
		default:
			n++
		}
		delete(theirs, text)
	}
	for text := range theirs {
		t.Errorf("only theirs: %s", text)
	}
	return n
}

var ageField = regexp.MustCompile(`delta-time=\d+`)

// withoutTime takes from a line what a second changes, and returns what is left
// of the timeout, 0 where there is none.
func withoutTime(l string) (text string, left int) {
	l = ageField.ReplaceAllString(l, "delta-time=N")
	if f := leftField.FindStringSubmatch(l); f != nil {
		left, _ = strconv.Atoi(f[2])
		l = strings.Replace(l, f[0], f[1], 1)
	}
	return l, left
}
