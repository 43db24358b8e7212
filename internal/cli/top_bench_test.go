package cli

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/tui"
)

// BenchmarkTop measures a reading of top with its frame, as the share of one
// processor that a reading every two seconds takes: on 200,000 entries, or on
// as many as CTWARDEN_BENCH_TOP says.
func BenchmarkTop(b *testing.B) {
	lab.Require(b)
	n, err := strconv.Atoi(os.Getenv("CTWARDEN_BENCH_TOP"))
	if err != nil {
		n = 200_000
	}
	if n > 200_000 {
		limits := lab.ExclusiveLimits(b)
		limits.SetBuckets(n)
		limits.SetMax(n + n/4)
	}
	h := lab.NewHost(b, "top")
	h.Fill(lab.Class{Count: n, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	env := &Env{Now: time.Now, Getenv: func(string) string { return "" }}
	tab, err := (&selection{netns: h.Name}).open(env)
	if err != nil {
		b.Fatal(err)
	}
	defer tab.Close()
	src := &topSource{topper: &topper{env: env, panel: 10_000}, table: tab, seed: 1}
	m := tui.New(b.Context(), src, tui.Options{Interval: 2 * time.Second})
	show := func() {
		r, err := src.Read(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		m.Show(r, nil)
		m.Frame()
	}
	show()
	show()
	used := procfs.CPUTime()
	for b.Loop() {
		show()
	}
	used = procfs.CPUTime() - used
	b.ReportMetric(100*used.Seconds()/float64(b.N)/2, "%cpu@2s")
}
