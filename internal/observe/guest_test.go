package observe

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// TestLoadsNoModule reads modular kernels in every condition that they can be
// in; each must have the same modules afterwards.
func TestLoadsNoModule(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		tests := "^TestGuestLoadsNoModule$"
		if os.Getenv("CTWARDEN_LONG") != "" {
			tests = "^TestGuest"
		}
		k.Run(t, vm.Options{Package: "./internal/observe", Run: tests,
			Modules:  append(slices.Clone(vm.NetfilterModules), "nfnetlink_hook", "nf_flow_table_inet"),
			Programs: []string{"ip", "ping", "nft", "conntrack"}, MemoryMiB: 1024})
	})
}

// still reads the machine and fails if that loaded or unloaded a module.
func still(t *testing.T, when string) *ct.Snapshot {
	t.Helper()
	before := loadedModules(t)
	s := machine(t, Options{Observe: 50 * time.Millisecond, Full: true})
	if after := loadedModules(t); after != before {
		t.Errorf("%s: modules %q became %q", when, before, after)
	}
	return s
}

func loadedModules(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		names = append(names, strings.Fields(line)[0])
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func load(t *testing.T, modules ...string) {
	t.Helper()
	for _, m := range modules {
		name, params, _ := strings.Cut(m, " ")
		if err := vm.LoadModule(name, params); err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

func TestGuestLoadsNoModule(t *testing.T) {
	run(t, "ip link set lo up")
	s := still(t, "nothing loaded")
	if s.Tracking.ModuleLoaded != ct.No || s.Tracking.Active != ct.No || s.Census != nil {
		t.Errorf("nothing loaded: %+v", s.Tracking)
	}

	load(t, "nf_conntrack enable_hooks=1")
	run(t, "ping -c1 127.0.0.1")
	s = still(t, "only the tracker")
	if s.Tracking.ModuleLoaded != ct.Yes || s.Census == nil || s.Census.Entries != 1 || s.Census.Classes[0].Proto != ct.ICMP {
		t.Errorf("only the tracker: %+v, census %+v, blind %+v", s.Tracking, s.Census, s.Blind)
	}

	load(t, "nf_conntrack_netlink")
	s = still(t, "with ctnetlink")
	if s.Census == nil || s.Census.Entries != 1 || !s.Census.Complete {
		t.Errorf("with ctnetlink: census %+v, blind %+v", s.Census, s.Blind)
	}

	// From 5.14 where it is built; Debian has it from 6.12 on.
	if err := vm.LoadModule("nfnetlink_hook", ""); err == nil {
		if s = still(t, "with hooks"); s.Tracking.Active != ct.Yes {
			t.Errorf("with hooks: %+v", s.Tracking)
		}
	}

	load(t, "iptable_filter")
	still(t, "with an iptables table")

	load(t, "nf_tables")
	still(t, "with nftables")
	run(t, "nft add table inet t")
	run(t, "nft add chain inet t c { type filter hook input priority 0 ; }")
	run(t, "nft add rule inet t c ct state invalid drop")
	s = still(t, "with a rule")
	if s.Tracking.DropsUntracked != ct.Yes || !slices.Contains(s.Tracking.Users, "nft inet t c: ct state") {
		t.Errorf("with a rule: %+v", s.Tracking)
	}

	load(t, "nf_flow_table_inet", "nft_flow_offload")
	run(t, "nft add flowtable inet t f { hook ingress priority 0 ; devices = { lo } ; }")
	if s = still(t, "with a flow table"); s.Tracking.Offload != ct.Yes {
		t.Errorf("with a flow table: %+v", s.Tracking)
	}
}
