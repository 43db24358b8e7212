package ctnl_test

import (
	"errors"
	"os"
	"testing"

	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// TestOtherKernels runs the tests against the kernel on Debian's kernels, with
// ctnetlink loaded.
func TestOtherKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		k.Run(t, vm.Options{Package: "./internal/kernel/ctnl",
			Run:      "^Test(DumpAndCounters|Panel|Changes|ReplacedEntry|Reap|Filters|KernelFiltersOutIPv6Match|AgreesWithConntrack|CreatedAsAsked|Events|Expectations|Policies|Dying)$",
			Modules:  vm.NetfilterModules,
			Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_conntrack_ftp", "nfnetlink_cttimeout", "nf_nat"},
			Programs: []string{"ip", "nft", "conntrack", "sh"},
			// Above 1 GiB the kernel's default maximum is 65,536.
			MemoryMiB: 1536})
	})
}

// TestNothingIsLoaded runs the guest's test on a kernel where ctnetlink could
// be loaded and is not.
func TestNothingIsLoaded(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		k.Run(t, vm.Options{Package: "./internal/kernel/ctnl", Run: "^TestGuestLoadsNothing$", Modules: vm.NetfilterModules})
	})
}

func TestGuestLoadsNothing(t *testing.T) {
	before, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ctnl.Dial(ctnl.Options{}); !errors.Is(err, ctnl.ErrNotLoaded) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := ctnl.Listen(ctnl.ListenOptions{Groups: ctnl.GroupsFlows}); !errors.Is(err, ctnl.ErrNotLoaded) {
		t.Errorf("Listen: %v", err)
	}
	after, err := os.ReadFile("/proc/modules")
	if err != nil || string(after) != string(before) {
		t.Errorf("modules before:\n%s\nafter:\n%s%v", before, after, err)
	}
}
