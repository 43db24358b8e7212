package simulate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

const flood = `
version: 1
duration: 120s
seed: 3
classes:
  - name: users
    kind: tcp
    arrivals: {rate: 20/s}
    sources: 10.0.0.0/16
    destinations: 192.0.2.1/32
    lifetime: {mean: 2s}
    retries: 1
  - name: bots
    kind: handshake-flood
    arrivals: {rate: 100/s}
    sources: 10.2.0.0/15
    destinations: 192.0.2.1/32
`

func traffic(t testing.TB, text string) func() (Traffic, error) {
	t.Helper()
	spec, err := workload.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return func() (Traffic, error) { return &Generated{Spec: spec, Scale: 1}, nil }
}

func setting(t testing.TB, text string) Setting {
	t.Helper()
	s, err := ParseSetting(text, Base(sim.Latest(), nil, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCompare(t *testing.T) {
	rs, err := Compare(context.Background(), []Setting{setting(t, "max=4096,buckets=4096"), setting(t, "max=65536,buckets=65536")}, traffic(t, flood), Options{})
	if err != nil {
		t.Fatal(err)
	}
	small, large := rs[0], rs[1]
	if small.Peak != 4096 || small.FullAt < 20 || small.FullAt > 60 || small.Refused == 0 {
		t.Errorf("small table: peak %d, full after %.1f s, %d refused", small.Peak, small.FullAt, small.Refused)
	}
	if large.Refused != 0 || large.FullAt != -1 || large.Peak < 12000 {
		t.Errorf("large table: peak %d, full after %.1f s, %d refused", large.Peak, large.FullAt, large.Refused)
	}
	s1, _ := small.LegitimateServed()
	s2, ok := large.LegitimateServed()
	if !ok || s1 > 0.9 || s2 != 1 {
		t.Errorf("served %.3f and %.3f", s1, s2)
	}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"text": func(b *bytes.Buffer) error { return WriteText(b, rs, "") },
		"csv":  func(b *bytes.Buffer) error { return WriteCSV(b, rs) },
		"html": func(b *bytes.Buffer) error { return WriteHTML(b, rs, Caption{}) },
		"svg":  func(b *bytes.Buffer) error { return WriteSVG(b, rs, Caption{}) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil || b.Len() < 100 {
			t.Errorf("%s: %d bytes, %v", name, b.Len(), err)
		}
		if name == "text" && !strings.HasPrefix(b.String(), "Setting B holds") {
			t.Errorf("the first line is not the answer:\n%s", b.String())
		}
		if strings.Contains(b.String(), "http://") && name == "html" && strings.Count(b.String(), "http://") != 1 {
			t.Error("the page refers to something outside")
		}
	}
}

// The same seed gives the same result, whatever runs beside it.
func TestDeterministic(t *testing.T) {
	one := []Setting{setting(t, "max=4096,buckets=512")}
	a, err := Compare(context.Background(), one, traffic(t, flood), Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Compare(context.Background(), append(one, one[0], one[0]), traffic(t, flood), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a[0].Refused != b[2].Refused || a[0].EarlyDrop != b[2].EarlyDrop || a[0].P50 != b[2].P50 {
		t.Errorf("%d refused and %d evicted, then %d and %d", a[0].Refused, a[0].EarlyDrop, b[2].Refused, b[2].EarlyDrop)
	}
}

func TestFind(t *testing.T) {
	target, err := ParseTarget("refused == 0")
	if err != nil {
		t.Fatal(err)
	}
	base := setting(t, "buckets=65536")
	f, err := Find(context.Background(), base, "max", 1, 1<<20, target, traffic(t, flood), Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	over := base
	over.Config.Max = f.Value - 1
	rs, err := Compare(context.Background(), []Setting{over}, traffic(t, flood), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if rs[0].Refused == 0 {
		t.Errorf("max=%d was found, and %d is enough too", f.Value, f.Value-1)
	}
	if len(f.Runs) > 25 {
		t.Errorf("%d runs for a search", len(f.Runs))
	}
	if _, err := Find(context.Background(), base, "max", 1, 100, target, traffic(t, flood), Options{}, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("an impossible search: %v", err)
	}
	if _, err := ParseTarget("refused = 0"); err == nil {
		t.Error("a target that is no condition was taken")
	}
}

func TestParseSetting(t *testing.T) {
	s := setting(t, "name=x, net.netfilter.nf_conntrack_max=7,tcp_timeout_time_wait=30,era=5.10,tcp_loose=0")
	if s.Name != "x" || s.Config.Max != 7 || s.Config.Era.Name != "5.10" || s.Config.Knobs.TCPLoose {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{"max", "max=lots", "maxx=5", "buckets=0", "era=3.3", "tcp_max_retrans=300"} {
		if _, err := ParseSetting(bad, Base(sim.Latest(), nil, 1), false); !errors.Is(err, ErrSetting) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A target that speaks of the limit is met just above the peak.
func TestFindAboveThePeak(t *testing.T) {
	target, err := ParseTarget("full_at < 0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Find(t.Context(), setting(t, "buckets=65536"), "max", 1, 1<<20, target, traffic(t, flood), Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last := f.Runs[len(f.Runs)-1]; f.Value != last.Peak+1 || f.Value != last.Max {
		t.Errorf("%d found, with a peak of %d", f.Value, last.Peak)
	}
}

// Of timeouts the longest is wanted.
func TestFindLongest(t *testing.T) {
	target, err := ParseTarget("refused == 0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Find(t.Context(), setting(t, "max=8192,buckets=8192"), "tcp_timeout_established", 1, 100_000, target, traffic(t, flood), Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.Value < 20 || f.Value > 119 || f.Which() != "longest" {
		t.Errorf("%s %d", f.Which(), f.Value)
	}
}

// A search that is called off finds nothing.
func TestFindCalledOff(t *testing.T) {
	target, err := ParseTarget("refused == 0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	// The traffic of a capture ends where it is called off, and refuses nothing.
	captured := func() (Traffic, error) { return &Captured{Source: ended{}}, nil }
	f, err := Find(ctx, setting(t, "max=100"), "max", 1, 1000, target, captured, Options{}, func(int, bool) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", f, err)
	}
}

// ended is a capture without packets.
type ended struct{}

func (ended) Next(*sim.Packet) (sim.Time, error) { return 0, io.EOF }

func TestEraBringsItsDefaults(t *testing.T) {
	latest := Base(sim.Latest(), nil, 1)
	for _, text := range []string{"era=5.10,max=7", "max=7,era=5.10"} {
		s, err := ParseSetting(text, latest, false)
		if err != nil {
			t.Fatal(err)
		}
		e := s.Config.Era
		if s.Config.Max != 7 || s.Config.Buckets != e.DefaultBuckets() || s.Config.Timeouts != e.Timeouts() {
			t.Errorf("%s: %d of %d, %d buckets", text, s.Config.Max, e.DefaultMax(), s.Config.Buckets)
		}
		live, err := ParseSetting(text, latest, true)
		if err != nil || live.Config.Buckets != latest.Buckets {
			t.Errorf("%s over a live machine: %d buckets, %v", text, live.Config.Buckets, err)
		}
	}
	if _, err := ParseSetting("tcp_timeout_established=8589935", latest, false); !errors.Is(err, ErrSetting) {
		t.Errorf("a timeout that the kernel refuses: %v", err)
	}
}

// captured plays the packets of a workload as if they had been captured.
type captured struct {
	at []sim.Time
	ps []sim.Packet
}

func (c *captured) Next(p *sim.Packet) (sim.Time, error) {
	if len(c.at) == 0 {
		return 0, io.EOF
	}
	at := c.at[0]
	*p, c.at, c.ps = c.ps[0], c.at[1:], c.ps[1:]
	return at, nil
}

// Of a capture, which has no classes, the result names who was refused.
func TestWhoWasRefused(t *testing.T) {
	c := new(captured)
	for n := range 300 {
		p := sim.Packet{Tuple: ct.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(n / 100)}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
			Proto: ct.UDP, SrcPort: uint16(1024 + n), DstPort: 53}}
		c.at, c.ps = append(c.at, sim.Time(n)), append(c.ps, p)
	}
	// With so many buckets early drop finds nothing.
	rs, err := Stream(t.Context(), []Setting{setting(t, "max=150,buckets=1000000")}, c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	from := rs[0].RefusedFrom
	if rs[0].Refused != 150 || len(from) != 2 || from[0] != (Refusee{netip.MustParseAddr("10.0.0.2"), 100}) || from[1].Packets != 50 {
		t.Errorf("%d refused, from %v", rs[0].Refused, from)
	}
	var b bytes.Buffer
	if err := WriteText(&b, rs, ""); err != nil || !strings.Contains(b.String(), "most packets refused: 10.0.0.2 (100), 10.0.0.1 (50)") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
