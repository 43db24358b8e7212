package guardd

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/vitals"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// BenchmarkPeace measures what a guard costs while nothing happens: processor
// time in parts of a core, and resident memory, for a second of peace an
// iteration. BENCH=Peace BENCHTIME=60x make bench tells it for a minute.
func BenchmarkPeace(b *testing.B) {
	for _, enforce := range []bool{false, true} {
		b.Run(map[bool]string{false: "observe", true: "enforce"}[enforce], func(b *testing.B) {
			lab.Require(b)
			p := lab.Server(b)
			c := begin(b, script{Netns: p.Server.Name, State: b.TempDir(), Run: b.TempDir(), Enforce: enforce, Real: true})
			pid := c.cmd.Process.Pid
			time.Sleep(2 * time.Second) // what is done once, at the start
			before := cpuSeconds(b, pid)
			n := 0
			for b.Loop() {
				time.Sleep(time.Second)
				n++
			}
			b.ReportMetric(100*(cpuSeconds(b, pid)-before)/float64(n), "%core")
			b.ReportMetric(residentMiB(b, pid), "MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuSeconds reads the processor time of all threads that a process has and
// had, in nanoseconds: /proc/PID/stat has it only in ticks of 10 ms.
func cpuSeconds(b *testing.B, pid int) float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { // CPUCLOCK_SCHED
		b.Fatal(err)
	}
	return float64(ts.Nano()) / 1e9
}

func residentMiB(b testing.TB, pid int) float64 {
	s, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(s), "VmRSS:")
	kib := 0
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}

// TestStepsWithoutAllocating: what is read at each tick allocates nothing.
func TestStepsWithoutAllocating(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	v, err := vitals.Open(p.Server.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	d := &daemon{log: &logger{}, vitals: v, began: time.Now()}
	if n := testing.AllocsPerRun(100, func() {
		if !d.read() {
			t.Fatal("not read")
		}
	}); n > 0 {
		t.Errorf("a reading allocates %v times", n)
	}
}
