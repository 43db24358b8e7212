package guardtable_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// guestModules are further modules of nftables that older kernels have apart.
var guestModules = append([]string{"nft_objref"}, vm.NetfilterModules...)

// TestOtherKernels runs the tests against the kernel on Debian's kernels: on
// the one that knows no owners always, on the others with CTWARDEN_LONG.
func TestOtherKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		run := "TableAsListed|KilledGuard|NextGuard|TableOfSomebodyElse|SecondGuard|NewTimeouts|Limited|GuestAbilities"
		switch long := os.Getenv("CTWARDEN_LONG") != ""; {
		case k.Series == "5.10":
			run += "|ChangedByOthers"
		case !long:
			t.Skip("long: make kernels")
		default:
			run += "|NobodyElseTakesItAway|TimeoutsEndWithTheGuard|NeighboursOfLimited|Counted|CountsOrNot"
		}
		k.Run(t, vm.Options{Package: "./internal/kernel/guardtable", Run: "^Test(" + run + ")$", Modules: guestModules,
			Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_tables"},
			Programs: []string{"ip", "nft", "conntrack", "ping", "sh"}, MemoryMiB: 768, Timeout: 10 * time.Minute})
	})
}

// TestGuestAbilities tells what a kernel can do.
func TestGuestAbilities(t *testing.T) {
	g := open(t, lab.NewHost(t, "abilities"))
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must(t, err)
	t.Logf("%s: persistent %v, policies %v, admission %v, counts %v", release, g.Persistent(), g.Policies(), g.Admission(), g.Counts())
	if !g.Policies() || !g.Admission() {
		t.Error("all kernels tested have both")
	}
}

// TestModules opens the table on a kernel that has loaded nothing yet.
func TestModules(t *testing.T) {
	k := vm.Need(t, "6.1")
	k.Run(t, vm.Options{Package: "./internal/kernel/guardtable", Run: "^TestGuestLoads$", Modules: guestModules, Programs: []string{"ip"}})
}

func TestGuestLoads(t *testing.T) {
	modules := func() string {
		b, err := os.ReadFile("/proc/modules")
		must(t, err)
		return string(b)
	}
	before := modules()
	if found, err := guardtable.Remove(""); found || err != nil {
		t.Errorf("Remove: %v, %v", found, err)
	}
	if now := modules(); now != before {
		t.Errorf("Remove loaded\n%s", now)
	}
	g, err := guardtable.Open("")
	must(t, err)
	for _, m := range []string{"nf_tables ", "nft_ct ", "nf_conntrack "} {
		if !strings.Contains(modules(), m) {
			t.Errorf("%s is not loaded", m)
		}
	}
	if !g.Policies() || !g.Admission() {
		t.Errorf("policies %v, admission %v", g.Policies(), g.Admission())
	}
	// The loopback is down, so that the count is tried elsewhere.
	counts := g.Counts()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, g.Close())
	g, err = guardtable.Open("")
	must(t, err)
	if here := g.Counts(); here != counts || !here {
		t.Errorf("counting right: %v elsewhere, %v here", counts, here)
	}
	must(t, g.Close())
}

// TestOtherKernelsWithout opens the table on a kernel that has no nf_tables.
func TestOtherKernelsWithout(t *testing.T) {
	k := vm.Need(t, "6.1")
	if os.Getenv("CTWARDEN_LONG") == "" {
		t.Skip("long: make kernels")
	}
	k.Run(t, vm.Options{Package: "./internal/kernel/guardtable", Run: "^TestGuestWithout$", Modules: []string{"nfnetlink"}})
}

func TestGuestWithout(t *testing.T) {
	if _, err := guardtable.Open(""); !errors.Is(err, guardtable.ErrUnsupported) {
		t.Errorf("Open: %v", err)
	}
	if found, err := guardtable.Remove(""); found || err != nil {
		t.Errorf("Remove: %v, %v", found, err)
	}
}
