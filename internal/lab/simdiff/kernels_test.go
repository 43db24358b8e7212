package simdiff

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

var guestSequences = flag.Int("simdiff.guest", 300, "how many random sequences to compare on each kernel under qemu")

func TestMain(m *testing.M) { vm.Main(m) }

// TestKernels compares the model with Debian's kernels, each with its era.
func TestKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		k.Run(t, vm.Options{Package: "./internal/lab/simdiff", Run: "^TestGuestRandom",
			Args:    []string{fmt.Sprintf("-simdiff.sequences=%d", *guestSequences), fmt.Sprintf("-simdiff.seed=%d", *seed)},
			Modules: vm.NetfilterModules, Load: []string{"nf_conntrack", "nf_conntrack_netlink"},
			Programs: []string{"ip", "nft", "conntrack"}, MemoryMiB: 1024, VirtualTime: true,
			Timeout: 30 * time.Minute})
	})
}

// TestGuestRandom runs inside a guest.
func TestGuestRandom(t *testing.T) {
	if !vm.InGuest() {
		return // TestRandom does the same here
	}
	lab.SharedLimits(t)
	compareRandom(t, runningEra(t), *sequences, false)
}

// TestGuestRandomNAT runs inside a guest.
func TestGuestRandomNAT(t *testing.T) {
	if !vm.InGuest() {
		return // TestRandom does the same here
	}
	lab.SharedLimits(t)
	compareRandom(t, runningEra(t), *sequences/4, true)
}
