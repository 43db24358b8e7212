package predicttest

import (
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// TestMemoryIsPricedRight: what a plan says of an entry's price is what the
// slabs of entries and extensions grow by, within a tenth.
func TestMemoryIsPricedRight(t *testing.T) {
	if testing.Short() {
		t.Skip("boots kernels")
	}
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			vm.Need(t, series).Run(t, vm.Options{Package: "./internal/tune/predicttest", Run: "^TestGuestMemory$",
				Modules: vm.NetfilterModules, Load: []string{"nf_conntrack enable_hooks=1", "nf_conntrack_netlink"},
				Programs: []string{"ip"}, MemoryMiB: 1024, VirtualTime: true, Timeout: 5 * time.Minute})
		})
	}
}

func TestGuestMemory(t *testing.T) {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for key, v := range map[string]string{tune.KeyMax: "65536", tune.Prefix + "udp_timeout": "600"} {
		if _, err := (sysctl.Tree{}).Write(key, v); err != nil {
			t.Fatal(err)
		}
	}
	for i, tt := range []struct{ name, acct string }{{"bare", "0"}, {"with accounting", "1"}} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := (sysctl.Tree{}).Write(tune.Prefix+"acct", tt.acct); err != nil {
				t.Fatal(err)
			}
			before, entries := slabs(t), count(t)
			send(t, byte(i+1), 20_000)
			grown, n := slabs(t)-before, count(t)-entries
			s, err := observe.Machine(t.Context(), observe.Options{})
			if err != nil {
				t.Fatal(err)
			}
			plan, err := tune.New(s, tune.Options{})
			if err != nil {
				t.Fatal(err)
			}
			predicted := n * plan.Demand.BytesPerEntry
			off := float64(predicted)/float64(grown) - 1
			t.Logf("%d entries: predicted %d bytes (%s), grown by %d (%+.1f %%)", n, predicted, plan.Demand.BytesFrom, grown, 100*off)
			if n < 15_000 || math.Abs(off) > 0.1 {
				t.Errorf("%d entries, predicted %d bytes, grown by %d", n, predicted, grown)
			}
		})
	}
}

// send makes an entry for each packet: all go to addresses of their own.
func send(t *testing.T, net16 byte, n int) {
	t.Helper()
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range n {
		to := &net.UDPAddr{IP: net.IPv4(127, net16, byte(i>>8), byte(i)), Port: 9}
		if _, err := c.WriteToUDP([]byte("x"), to); err != nil {
			t.Fatal(err)
		}
	}
}

func count(t *testing.T) int64 {
	t.Helper()
	n, err := (sysctl.Tree{}).Int(sysctl.Count)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// slabs is what entries and their extensions take, in bytes.
func slabs(t *testing.T) (sum int64) {
	t.Helper()
	data, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "nf_conntrack" && f[0] != "kmalloc-128" {
			continue
		}
		n, err1 := strconv.ParseInt(f[1], 10, 64)
		size, err2 := strconv.ParseInt(f[3], 10, 64)
		if err1 == nil && err2 == nil {
			sum += n * size
		}
	}
	return sum
}
