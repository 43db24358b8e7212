package simdiff

import (
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

var guestSequences = flag.Int("simdiff.guest", 300, "how many random sequences to compare on each kernel under qemu")

var guestRun = flag.String("simdiff.guestrun", "", "which tests to run under qemu; what takes long is left out if empty")

// guestTests are the tests to run on a kernel. Collection is watched on one
// kernel only, and translation in full on none, unless asked for.
func guestTests(k vm.Kernel) string {
	switch {
	case *guestRun != "":
		return *guestRun
	case strings.HasPrefix(k.Release, "6.12."):
		return "^TestGuest(Random|RandomNAT|Scenarios|Relief)$"
	}
	return "^TestGuest(Random|RandomNAT|Scenarios)$"
}

// guestScenarios is where guests have the scenario files.
const guestScenarios = "/scenarios"

func TestMain(m *testing.M) { vm.Main(m) }

// TestKernels compares the model with Debian's kernels, each with its era.
func TestKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		scenarios, err := filepath.Abs("../../../sim/testdata")
		if err != nil {
			t.Fatal(err)
		}
		k.Run(t, vm.Options{Package: "./internal/lab/simdiff", Run: guestTests(k),
			Files:   map[string]string{guestScenarios: scenarios},
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

// TestGuestScenarios runs inside a guest. The files hold what a newer kernel
// does; here only kernel and model of the guest's era are compared.
func TestGuestScenarios(t *testing.T) {
	lab.SharedLimits(t)
	files, err := filepath.Glob(guestScenarios + "/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	e := runningEra(t)
	rigs := map[bool]*Rig{}
	for _, file := range files {
		s := readScenario(t, file)
		if rigs[s.NAT] == nil {
			rigs[s.NAT] = NewRig(t, s.NAT)
		}
		kernel, model := rigs[s.NAT].Play(s, e)
		compareCases(t, s, kernel, model)
	}
}
