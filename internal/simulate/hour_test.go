package simulate

import (
	"context"
	"math"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/hugepages"
	"github.com/ctwarden/ctwarden/internal/workload"
)

func hour(t testing.TB, length time.Duration) *workload.Spec {
	t.Helper()
	f, err := os.Open("testdata/hour.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec, err := workload.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	spec.Duration = workload.Duration(length)
	return spec
}

// BenchmarkHour simulates the first seconds of 20,000 connections a second, then
// a second of traffic with a table of two and a half million entries.
func BenchmarkHour(b *testing.B) {
	spec := hour(b, 130*time.Second)
	for b.Loop() {
		rs, err := Compare(context.Background(), []Setting{setting(b, "max=2500000,buckets=2097152")},
			func() (Traffic, error) { return &Generated{Spec: spec, Scale: 1}, nil }, Options{Memory: hugepages.Advise})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(rs[0].Packets)/b.Elapsed().Seconds()/1e6, "Mpkt/s")
		b.Log(rs[0].Packets, rs[0].Peak, rs[0].Refused, rs[0].EarlyDrop)
	}
}

// A thinned run has the occupancy, the refusals and the early drops of the run
// that it stands for, within 2 %.
func TestThinnedAgreesWithFull(t *testing.T) {
	spec := hour(t, 20*time.Minute)
	set := setting(t, "max=2500000,buckets=2097152")
	full, thin := 0.04, 0.008 // 800 and 160 connections a second
	compareScales(t, "twenty minutes of the hour", spec, set, full, thin)
}

// The hour itself takes four minutes of processor time: packet by packet, thinned,
// and a thinned day.
func TestHourAndDay(t *testing.T) {
	if os.Getenv("CTWARDEN_LONG") == "" {
		t.Skip("long: make sim-hour")
	}
	set := setting(t, "max=2500000,buckets=2097152")
	t.Run("hour", func(t *testing.T) { compareScales(t, "the hour", hour(t, time.Hour), set, 1, 0.05) })
	t.Run("day", func(t *testing.T) { runScale(t, "the day", hour(t, 24*time.Hour), set, 0.05) })
}

func runScale(t *testing.T, what string, spec *workload.Spec, set Setting, scale float64) *Result {
	t.Helper()
	begin, cpu := time.Now(), cpuTime(t)
	rs, err := Compare(context.Background(), []Setting{set},
		func() (Traffic, error) { return &Generated{Spec: spec, Scale: scale}, nil }, Options{Scale: scale, Memory: hugepages.Advise})
	if err != nil {
		t.Fatal(err)
	}
	r := &rs[0]
	t.Logf("%s at scale %g: %s of processor time, %s by the clock; standing for %s packets: mean %s entries, peak %s, %s refused, %s dropped early",
		what, scale, (cpuTime(t) - cpu).Round(100*time.Millisecond), time.Since(begin).Round(100*time.Millisecond),
		num(int(r.Packets)), num(int(meanCount(r))), num(r.Peak), num(int(r.Refused)), num(int(r.EarlyDrop)))
	return r
}

func compareScales(t *testing.T, what string, spec *workload.Spec, set Setting, full, thin float64) {
	t.Helper()
	a, b := runScale(t, what, spec, set, full), runScale(t, what, spec, set, thin)
	if a.Refused < 10000 || a.EarlyDrop < 10000 {
		t.Errorf("too little happens to compare: %d refused, %d dropped early", a.Refused, a.EarlyDrop)
	}
	worst := 0.0
	for i := range min(len(a.Points), len(b.Points)) {
		worst = max(worst, math.Abs(float64(a.Points[i].Count-b.Points[i].Count))/float64(set.Config.Max))
	}
	t.Logf("%s: thinned ÷ full: mean occupancy %.4f, peak %.4f, refused %.4f, early drops %.4f; farthest apart at one time: %.2f %% of max",
		what, meanCount(b)/meanCount(a), ratio(b.Peak, a.Peak), ratio(b.Refused, a.Refused), ratio(b.EarlyDrop, a.EarlyDrop), 100*worst)
	for _, c := range []struct {
		what string
		off  float64
	}{
		{"mean occupancy", meanCount(b)/meanCount(a) - 1},
		{"occupancy at one time, against max", worst},
		{"refusals", ratio(b.Refused, a.Refused) - 1},
		{"early drops", ratio(b.EarlyDrop, a.EarlyDrop) - 1},
	} {
		if math.Abs(c.off) > 0.02 {
			t.Errorf("%s differ by %.2f %%", c.what, 100*c.off)
		}
	}
}

func ratio[T int | uint64](a, b T) float64 { return float64(a) / float64(b) }

func meanCount(r *Result) float64 {
	sum := 0.0
	for _, p := range r.Points {
		sum += float64(p.Count)
	}
	return sum / float64(len(r.Points))
}

func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
