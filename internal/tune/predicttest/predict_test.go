package predicttest

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/tune"
)

func TestMain(m *testing.M) { vm.Main(m) }

// TestPredictionsHold: for five workloads the peak that a plan predicts from a
// few seconds is what the kernel then shows, within a tenth.
func TestPredictionsHold(t *testing.T) {
	if testing.Short() {
		t.Skip("boots kernels")
	}
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			vm.Need(t, series).Run(t, vm.Options{Package: "./internal/tune/predicttest", Run: "^TestGuestPredictions$",
				Modules: vm.NetfilterModules, Load: []string{"nf_conntrack", "nf_conntrack_netlink"},
				VirtualTime: true, MemoryMiB: 1024, Timeout: 8 * time.Minute})
		})
	}
}

// part is one class of flows: so many a second, each left alone until its
// timeout ends; or so many once, that stay.
type part struct {
	flow    ct.Flow
	timeout ct.TimeoutKey
	seconds int32
	per     int
	once    int
}

func tcp(s ct.State, st ct.Status) ct.Flow {
	f := ct.Flow{Orig: ct.Tuple{Proto: ct.TCP, DstPort: 443}, State: s, Status: st | ct.StatusConfirmed}
	f.Fields = ct.HasTimeout | ct.HasProtoInfo
	return f
}

func udp(st ct.Status) ct.Flow {
	return ct.Flow{Orig: ct.Tuple{Proto: ct.UDP, DstPort: 53}, Status: st | ct.StatusConfirmed, Fields: ct.HasTimeout}
}

const both = ct.StatusSeenReply | ct.StatusAssured

func TestGuestPredictions(t *testing.T) {
	// A guest of little memory has a small table.
	for _, key := range []string{tune.KeyBuckets, tune.KeyMax} {
		if _, err := (sysctl.Tree{}).Write(key, "65536"); err != nil {
			t.Fatal(err)
		}
	}
	timeWait := part{tcp(ct.TCPTimeWait, both), ct.TimeoutTCPTimeWait, 30, 200, 0}
	asked := part{udp(ct.StatusSeenReply), ct.TimeoutUDP, 20, 200, 0}
	halfOpen := part{tcp(ct.TCPSynRecv, ct.StatusSeenReply), ct.TimeoutTCPSynRecv, 60, 150, 0}
	streams := part{udp(both), ct.TimeoutUDPStream, 40, 100, 0}
	held := part{tcp(ct.TCPEstablished, both), ct.TimeoutTCPEstablished, 432000, 0, 8000}
	for _, w := range []struct {
		name  string
		parts []part
	}{
		{"short TCP connections", []part{timeWait}},
		{"questions to a resolver", []part{asked}},
		{"handshakes without an end", []part{halfOpen}},
		{"UDP streams", []part{streams}},
		{"web traffic beside held connections", []part{timeWait, asked, held}},
	} {
		t.Run(w.name, func(t *testing.T) { predict(t, w.parts) })
	}
}

func predict(t *testing.T, parts []part) {
	l := &load{t: t}
	var err error
	if l.conn, err = ctnl.Dial(ctnl.Options{}); err != nil {
		t.Fatal(err)
	}
	defer l.conn.Close()
	offered := 0
	for _, p := range parts {
		if _, err := (sysctl.Tree{}).Write(tune.TimeoutSetting(p.timeout), strconv.Itoa(int(p.seconds))); err != nil {
			t.Fatal(err)
		}
		offered += p.per
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx, parts) }()
	// Past the first pass, whose pace is that of an empty table, and until
	// every class is full.
	time.Sleep(130 * time.Second)
	s, err := observe.Machine(t.Context(), observe.Options{Observe: 8 * time.Second, Full: true})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := tune.New(s, tune.Options{For: tune.RoleServer, PeakNew: float64(offered)})
	if err != nil {
		t.Fatal(err)
	}
	highest := int64(0)
	for range 300 {
		time.Sleep(500 * time.Millisecond)
		n, err := (sysctl.Tree{}).Int(sysctl.Count)
		if err != nil {
			t.Fatal(err)
		}
		highest = max(highest, n)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	d := plan.Demand
	off := d.PeakBefore/float64(highest) - 1
	t.Logf("%.0f new a second of %d offered, lag %.1f s: predicted %.0f, highest %d (%+.1f %%)",
		d.NewPerSecond, offered, d.LagBeforeSeconds, d.PeakBefore, highest, 100*off)
	if math.Abs(off) > 0.1 {
		t.Errorf("predicted %.0f, highest %d; classes %+v", d.PeakBefore, highest, d.Classes)
	}
	time.Sleep(3 * time.Minute) // what is there runs out
}

// load makes entries as a workload does, by ctnetlink.
type load struct {
	t    *testing.T
	conn *ctnl.Conn
	made uint32
}

func (l *load) run(ctx context.Context, parts []part) error {
	b := l.conn.NewBatch()
	for _, p := range parts {
		if err := l.add(b, p, p.once, 7200); err != nil {
			return err
		}
	}
	const ticks = 4 // a second
	tick := time.NewTicker(time.Second / ticks)
	defer tick.Stop()
	for {
		for _, p := range parts {
			if err := l.add(b, p, p.per/ticks, uint32(p.seconds)); err != nil {
				return err
			}
		}
		if err := b.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (l *load) add(b *ctnl.Batch, p part, n int, left uint32) error {
	for range n {
		f := p.flow
		l.made++
		f.Orig.Src = netip.AddrFrom4([4]byte{10, byte(l.made >> 16), byte(l.made >> 8), byte(l.made)})
		f.Orig.Dst = netip.AddrFrom4([4]byte{192, 0, 2, 1})
		f.Orig.SrcPort = uint16(1024 + l.made%60000)
		var ok bool
		if f.Reply, ok = f.Orig.Invert(); !ok {
			return errors.New("no answer to this tuple")
		}
		f.TimeoutSeconds = left
		if err := b.Create(&f); err != nil {
			return err
		}
	}
	return nil
}
