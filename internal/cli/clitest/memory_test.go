package clitest

import (
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// TestMemoryIsPricedRight compares what a plan says of an entry's price with
// the growth of the slabs that hold entries and their extensions.
func TestMemoryIsPricedRight(t *testing.T) {
	lab.Require(t)
	if testing.Short() {
		t.Skip("fills a table")
	}
	lab.SharedLimits(t)
	for _, tt := range []struct{ name, acct string }{{"bare", "0"}, {"with accounting", "1"}} {
		t.Run(tt.name, func(t *testing.T) {
			p := lab.Server(t)
			p.Server.SetSysctl(tune.Prefix+"acct", tt.acct)
			p.Server.SetSysctl(tune.Prefix+"udp_timeout", "600")
			p.Server.SetSysctl("net.ipv4.icmp_ratelimit", "0")
			const entries = 60_000
			entry, extension := slab(t, "nf_conntrack"), slab(t, "kmalloc-128")
			if _, err := p.Client.UDPFlood(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 9), p.Client.Sources4, 32, lab.Load{Packets: entries}); err != nil {
				t.Fatal(err)
			}
			n := p.Server.Count()
			if n < entries/2 {
				t.Fatalf("only %d entries", n)
			}
			grown := slab(t, "nf_conntrack") - entry
			if tt.acct == "1" {
				grown += slab(t, "kmalloc-128") - extension
			}
			s, err := observe.Machine(t.Context(), observe.Options{Netns: p.Server.Name})
			if err != nil {
				t.Fatal(err)
			}
			plan, err := tune.New(s, tune.Options{})
			if err != nil {
				t.Fatal(err)
			}
			predicted := int64(n) * plan.Demand.BytesPerEntry
			t.Logf("%d entries: predicted %d bytes (%s), grown by %d", n, predicted, plan.Demand.BytesFrom, grown)
			if math.Abs(float64(predicted-grown)) > 0.1*float64(grown) {
				t.Errorf("predicted %d bytes, grown by %d", predicted, grown)
			}
		})
	}
}

// slab is what the objects in use of a cache take, in bytes.
func slab(t *testing.T, name string) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == name {
			n, err1 := strconv.ParseInt(f[1], 10, 64)
			size, err2 := strconv.ParseInt(f[3], 10, 64)
			if err1 == nil && err2 == nil {
				return n * size
			}
		}
	}
	t.Fatalf("no slab %s", name)
	return 0
}
