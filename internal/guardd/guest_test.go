package guardd

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// TestOtherKernels runs what writes on Debian's kernels: on the one whose
// nftables knows no owners always, on the others with CTWARDEN_LONG.
func TestOtherKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		if k.Series != "5.10" && os.Getenv("CTWARDEN_LONG") == "" {
			t.Skip("long: make kernels")
		}
		k.Run(t, vm.Options{Package: "./internal/guardd", Run: "^Test(RaisesAndRestoresMax|KilledAtEveryPoint|GuestClockSteps|AnswersAreLost)$",
			Modules:  append([]string{"nft_objref"}, vm.NetfilterModules...),
			Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_tables"},
			Env:      []string{"CTWARDEN_LONG=" + os.Getenv("CTWARDEN_LONG")},
			Programs: []string{"ip", "nft", "conntrack", "sh"}, MemoryMiB: 768, Timeout: 10 * time.Minute})
	})
}

// TestGuestClockSteps steps the wall clock forth and back while entries are on
// probation: nothing is measured by it.
func TestGuestClockSteps(t *testing.T) {
	b := newBed(t, "conntrack")
	step := func(by time.Duration) {
		t.Helper()
		tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			t.Fatal(err)
		}
	}
	b.pair.Server.Fill(silent(20))
	c := begin(t, b.script(thinSilent(3), guard.Action{Kind: guard.KindReap, Why: "of the test"}))
	c.wants("thin-begin")
	time.Sleep(500 * time.Millisecond)
	step(24 * time.Hour)
	c.wants("thin-shortened")
	step(-48 * time.Hour)
	c.wants("script over")
	step(24 * time.Hour)
	if r := c.results(); len(r) != 2 || r[0].Selected != 20 || r[0].Active != 0 || r[0].Changed != 20 || r[0].Survived != 0 || r[1].err != "" {
		t.Errorf("results %+v", r)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
}
