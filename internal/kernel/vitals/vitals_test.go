package vitals

import (
	"os"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/pulse"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestSumsAsParseStat compares the quick reader with the careful one.
func TestSumsAsParseStat(t *testing.T) {
	const text = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n" +
		"00000005  00000001 00000002 00000000 000000ff 00000000 00000000 00000000 00000000 fffffff0 00000003 00000000 00000000  00000000 00000000 00000000 00000004\n" +
		"00000005  00000001 00000002 00000000 00000001 00000000 00000000 00000000 00000000 00000020 00000003 00000000 00000000  00000000 00000000 00000000 00000004\n"
	want, err := procfs.ParseStat(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	head, rows, _ := strings.Cut(text, "\n")
	columns := strings.Fields(head)
	sums := make([]uint32, len(columns))
	if !sumHex([]byte(rows), sums) {
		t.Fatal("not understood")
	}
	var got ct.Counters
	for i, n := range columns[1:] {
		got.SetByName(n, sums[i+1])
	}
	if got != want.Sum() {
		t.Errorf("got %+v\nwant %+v", got, want.Sum())
	}
	if sumHex([]byte("12 zz\n"), sums) {
		t.Error("took zz for a number")
	}
}

func FuzzSumHex(f *testing.F) {
	f.Add([]byte("00000001 00000002\n0000000a ffffffff\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sums := make([]uint32, 3)
		sumHex(b, sums)
	})
}

// TestAgainstTheKernel reads a namespace and compares with the readers that
// visit it.
func TestAgainstTheKernel(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	v, err := Open(p.Server.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p.Server.Fill(lab.Class{Count: 300})
	if limit, err := v.Max(); err != nil || limit <= 0 {
		t.Errorf("max %d, %v", limit, err)
	}
	if n, err := v.Buckets(); err != nil || n <= 0 {
		t.Errorf("buckets %d, %v", n, err)
	}
	var want pulse.Pulse
	if err := p.Server.Do(func() (err error) { want, err = pulse.Read(); return err }); err != nil {
		t.Fatal(err)
	}
	count, c, err := v.Counters()
	if count != int64(p.Server.Count()) || count < 300 {
		t.Errorf("%d entries, %d in the table", count, p.Server.Count())
	}
	if err != nil || uint64(c.Invalid) != want.Invalid || uint64(c.Drop) != want.Refused || c.Has == 0 {
		t.Errorf("counters %+v, want %+v; %v", c, want, err)
	}
	if r, err := v.Resets(); err != nil || r != want.Resets {
		t.Errorf("resets %d, want %d; %v", r, want.Resets, err)
	}
	if n := testing.AllocsPerRun(100, func() {
		_, _ = v.Max()
		_, _, _ = v.Counters()
		_, _ = v.Resets()
		_, _ = v.Buckets()
	}); n > 0 {
		t.Errorf("a reading allocates %v times", n)
	}
}

func BenchmarkReading(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	v, err := Open("")
	if err != nil {
		b.Skip(err)
	}
	defer v.Close()
	b.Run("max", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = v.Max()
		}
	})
	b.Run("counters", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = v.Counters()
		}
	})
	b.Run("resets", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = v.Resets()
		}
	})
}
