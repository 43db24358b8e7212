package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// TestScenesOnOtherKernels runs the scenes of check on Debian's kernels, where
// counters, defaults and messages differ.
func TestScenesOnOtherKernels(t *testing.T) {
	schema, err := filepath.Abs("../../docs/schema")
	if err != nil {
		t.Fatal(err)
	}
	run := "^Test(CheckNamesEachScene|CheckRaisesWhatIsProvoked|CheckLeavesHealthyMachineAlone|GuestProvokes)$"
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		if os.Getenv("CTWARDEN_LONG") == "" {
			if run = "^Test(CheckNamesEachScene|GuestProvokes)$"; k.Series != "6.1" {
				t.Skip("long: make kernels")
			}
		}
		k.Run(t, vm.Options{Package: "./internal/cli",
			Run:      run,
			Modules:  append([]string{"nft_objref"}, vm.NetfilterModules...),
			Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "veth"},
			Programs: []string{"ip", "nft", "conntrack", "sh", "sleep"},
			Files:    map[string]string{"docs/schema": schema},
			// Above 4 GiB the kernel's default maximum is 262,144.
			MemoryMiB: 4608, Timeout: 15 * time.Minute})
	})
}
