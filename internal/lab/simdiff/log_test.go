package simdiff

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// TestGuestLog compares the lines that refusals leave in the kernel's log. The
// limiter of those lines is the whole machine's, so it runs inside a guest.
func TestGuestLog(t *testing.T) {
	if !vm.InGuest() {
		return
	}
	limits := lab.ExclusiveLimits(t)
	rig := NewRig(t, false)
	full := relief{max: 512, buckets: 512, assured: 1}
	limits.SetBuckets(full.buckets)
	limits.SetMax(full.max)
	var want []string
	c := sim.DefaultConfig(runningEra(t))
	c.Max, c.Buckets = full.max, full.buckets
	var st unix.Stat_t
	if err := unix.Stat(rig.tracker.Path(), &st); err != nil {
		t.Fatal(err)
	}
	c.Knobs.Netns = uint32(st.Ino)
	c.Log = func(_ sim.Time, line string) { want = append(want, line) }
	table, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	b := rig.conn.NewBatch()
	for n := range full.max {
		_, _ = table.Insert(full.resident(n), 0)
		if err := b.Create(full.resident(n)); err != nil {
			t.Fatal(err)
		}
	}
	_ = b.Flush()
	time.Sleep(6 * time.Second) // what logged before is over
	kmsg, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kmsg)
	if _, err := unix.Seek(kmsg, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, burst := range []int{3, 200, 0, 1, 30, 0, 1} {
		if burst == 0 {
			time.Sleep(5500 * time.Millisecond)
			continue
		}
		at := rig.now()
		w := rig.wires[0]
		for range burst {
			p := newcomer(n)
			n++
			w.frames[w.n] = simtest.AppendFrame(w.frames[w.n][:0], w.eth, &p, nil, simtest.NoDefect, 0)
			w.n++
			table.Packet(at, &p)
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	got := conntrackLines(kmsg)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("kernel %q\nmodel  %q", got, want)
	}
	t.Logf("%d refused: %d lines, the last %q", n, len(got), got[max(0, len(got)-1):])
}

// conntrackLines reads what the kernel has logged of refusals.
func conntrackLines(kmsg int) (lines []string) {
	var buf [8192]byte
	for {
		n, err := unix.Read(kmsg, buf[:])
		if err != nil {
			return lines
		}
		_, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		if strings.Contains(text, "table full") || strings.Contains(text, "callbacks suppressed") {
			lines = append(lines, text)
		}
	}
}
