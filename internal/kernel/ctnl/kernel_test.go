package ctnl_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// newTable returns an empty namespace and a connection to its table.
func newTable(t testing.TB, tools ...string) (*lab.Host, *ctnl.Conn) {
	t.Helper()
	lab.Require(t, tools...)
	h := lab.NewHost(t, "ctnl")
	return h, dial(t, h)
}

func dial(t testing.TB, h *lab.Host) *ctnl.Conn {
	t.Helper()
	c, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// create makes entries, none of which may be refused.
func create(t testing.TB, c *ctnl.Conn, flows ...ct.Flow) {
	t.Helper()
	b := c.NewBatch()
	b.Refused = func(e *ctnl.EntryError) { t.Errorf("create: %v", e) }
	for i := range flows {
		if err := b.Create(&flows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
}

// dump returns copies of all entries.
func dump(t testing.TB, c *ctnl.Conn, q ctnl.Query) ([]ct.Flow, ctnl.Summary) {
	t.Helper()
	var all []ct.Flow
	s, err := c.Dump(t.Context(), q, func(f *ct.Flow) error {
		all = append(all, *f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, s
}

// flowN returns the nth of a family of established TCP flows.
func flowN(n int) ct.Flow {
	return flow(ct.Tuple{
		Src:   netip.AddrFrom4([4]byte{10, byte(n >> 24), byte(n >> 16), byte(n >> 8)}),
		Dst:   netip.AddrFrom4([4]byte{192, 0, 2, 1}),
		Proto: ct.TCP, SrcPort: 1024 + uint16(n&0xff), DstPort: 443,
	}, ct.TCPEstablished)
}

// flow returns an entry without translation.
func flow(orig ct.Tuple, state ct.State) ct.Flow {
	reply, _ := orig.Invert()
	f := ct.Flow{Orig: orig, Reply: reply, Status: ct.StatusSeenReply | ct.StatusAssured,
		State: state, TimeoutSeconds: 3600}
	if orig.Proto.HasState() {
		f.Fields = ct.HasProtoInfo
	}
	return f
}

func flows(n int) []ct.Flow {
	all := make([]ct.Flow, n)
	for i := range all {
		all[i] = flowN(i)
	}
	return all
}

func TestDumpAndCounters(t *testing.T) {
	_, c := newTable(t)
	const n = 10_000
	create(t, c, flows(n)...)
	all, s := dump(t, c, ctnl.Query{})
	seen := make(map[ct.Tuple]bool)
	for _, f := range all {
		if f.StateName() != "ESTABLISHED" || !f.Assured() || !f.Replied() || f.Has(ct.HasUnknown) {
			t.Fatalf("flow %+v", f)
		}
		seen[f.Orig] = true
	}
	if s.Entries != n || s.Received != n || len(seen) != n || s.Short() != 0 || s.Resized() || s.Stopped ||
		s.Filtered || s.KernelFiltered || s.CountBefore != n || s.CountAfter != n || s.BucketsBefore == 0 {
		t.Errorf("%+v, %d different", s, len(seen))
	}
	g, err := c.GlobalStats()
	if err != nil || g.Count != n || !g.HasMax || g.Max < n {
		t.Errorf("%+v, %v", g, err)
	}
	stats, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var sum ct.Counters
	for _, s := range stats {
		sum.Add(s.Counters)
	}
	if sum.Insert != n {
		t.Errorf("counters %+v", sum)
	}
}

// TestPanel stops early, twice, and goes on with the same connection.
func TestPanel(t *testing.T) {
	_, c := newTable(t)
	create(t, c, flows(5_000)...)
	first, s := dump(t, c, ctnl.Query{Limit: 500})
	second, _ := dump(t, c, ctnl.Query{Limit: 500})
	if len(first) != 500 || !s.Stopped || s.Short() != 0 {
		t.Errorf("%d entries, %+v", len(first), s)
	}
	for i := range second {
		if first[i].ID != second[i].ID {
			t.Fatalf("the panels differ at %d", i)
		}
	}
	stop := errors.New("enough")
	if _, err := c.Dump(t.Context(), ctnl.Query{}, func(*ct.Flow) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("callback's error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Dump(ctx, ctnl.Query{}, func(*ct.Flow) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || !s.Stopped || s.Entries == 5000 {
		t.Errorf("cancelled: %+v, %v", s, err)
	}
	if all, _ := dump(t, c, ctnl.Query{}); len(all) != 5000 {
		t.Errorf("%d entries after early ends", len(all))
	}
}

// TestChanges changes, rereads and deletes entries, and attributes refusals.
func TestChanges(t *testing.T) {
	_, c := newTable(t)
	half := flowN(1)
	half.Status = 0
	zoned := flowN(1)
	zoned.Zone = 9
	oneWay := flowN(2)
	oneWay.ZoneOrig = 8
	create(t, c, flowN(0), half, zoned, oneWay)
	all, _ := dump(t, c, ctnl.Query{})
	keys := make(map[uint16]ctnl.Key) // by zone; 1 for flowN(0)
	for _, f := range all {
		k, err := ctnl.KeyOf(&f)
		if err != nil {
			t.Fatal(err)
		}
		zone := f.Zone + f.ZoneOrig
		if f.Assured() && zone == 0 {
			zone = 1
		}
		keys[zone] = k
	}
	if len(keys) != 4 {
		t.Fatalf("entries %+v", all)
	}

	b := c.NewBatch()
	refused := make(map[int]error)
	b.Refused = func(e *ctnl.EntryError) {
		if !e.Orig.IsValid() {
			t.Errorf("refusal %d without tuple", e.Index)
		}
		refused[e.Index] = e.Err
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(b.Update(keys[9], ctnl.Change{TimeoutSeconds: 77, Mark: 0xff, MarkMask: 0xf}))
	do(b.Update(keys[8], ctnl.Change{TimeoutSeconds: 88}))
	do(b.Update(keys[0], ctnl.Change{Status: ct.StatusAssured | ct.StatusSeenReply | ct.StatusFixedTimeout}))
	do(b.Update(keys[0], ctnl.Change{TimeoutSeconds: 5}))             // 3: fixed
	do(b.Update(keys[0], ctnl.Change{Status: ct.StatusFixedTimeout})) // 4: key's status lacks ASSURED
	do(b.Create(&zoned))                                              // 5: exists
	do(b.Delete(keys[1]))                                             // 6
	do(b.Delete(keys[1]))                                             // 7: gone
	do(b.Update(keys[1], ctnl.Change{TimeoutSeconds: 1}))             // 8: gone, and not made
	if err := b.Update(keys[1], ctnl.Change{}); err == nil {
		t.Error("an update of nothing was taken")
	}
	do(b.Flush())
	wants := map[int]error{3: unix.EPERM, 4: unix.EBUSY, 5: unix.EEXIST, 7: ctnl.ErrNotFound, 8: ctnl.ErrNotFound}
	if !kernelHas(6, 0) {
		delete(wants, 3) // FIXED_TIMEOUT binds packets only
	}
	for i, want := range wants {
		if !errors.Is(refused[i], want) {
			t.Errorf("refusal %d: %v, want %v", i, refused[i], want)
		}
	}
	if len(refused) != len(wants) || b.Sent() != 9 || b.Failed() != len(wants) {
		t.Errorf("%d sent, %d failed, refused %v", b.Sent(), b.Failed(), refused)
	}

	var f ct.Flow
	do(c.Reread(keys[9], &f))
	if f.Mark != 0xf || f.TimeoutSeconds > 77 || f.TimeoutSeconds < 75 || f.Zone != 9 {
		t.Errorf("zone 9: %+v", f)
	}
	do(c.Reread(keys[8], &f))
	if f.TimeoutSeconds > 88 || f.TimeoutSeconds < 86 || f.ZoneOrig != 8 {
		t.Errorf("zone 8: %+v", f)
	}
	do(c.Get(half.Orig, 0, &f))
	if !f.Status.Has(ct.StatusAssured|ct.StatusFixedTimeout) || f.TimeoutSeconds < 3000 && kernelHas(6, 0) {
		t.Errorf("default zone: %+v", f)
	}
	if err := c.Reread(keys[1], &f); !errors.Is(err, ctnl.ErrNotFound) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("reread of a dead entry: %v", err)
	}
	if err := c.Get(half.Orig, 7, &f); !errors.Is(err, ctnl.ErrNotFound) {
		t.Errorf("get in the wrong zone: %v", err)
	}
}

// TestReplacedEntry: another entry with the tuple of a key is neither deleted
// nor reread by it. Others are made in between to take the memory of the first,
// or the id would be the same.
func TestReplacedEntry(t *testing.T) {
	_, c := newTable(t)
	create(t, c, flowN(0))
	all, _ := dump(t, c, ctnl.Query{})
	k, err := ctnl.KeyOf(&all[0])
	if err != nil {
		t.Fatal(err)
	}
	b := c.NewBatch()
	var refused error
	b.Refused = func(e *ctnl.EntryError) { refused = e }
	if err := errors.Join(b.Delete(k), b.Flush()); err != nil {
		t.Fatal(err)
	}
	var f ct.Flow
	others := flows(10_001)
	for i := 1; ; i += 1000 {
		create(t, c, others[i:i+1000]...)
		create(t, c, others[0])
		if err := c.Get(k.Orig(), 0, &f); err != nil {
			t.Fatal(err)
		}
		if f.ID != k.ID() {
			break
		}
		if i+2000 > len(others) {
			t.Fatal("each new entry got the memory of the first")
		}
		if err := errors.Join(b.Delete(k), b.Flush()); err != nil { // it lies where the first did
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Delete(k), b.Flush()); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(refused, ctnl.ErrNotFound) || b.Failed() != 1 {
		t.Errorf("%d refusals, %v", b.Failed(), refused)
	}
	if err := c.Get(k.Orig(), 0, &f); err != nil || f.ID == k.ID() {
		t.Errorf("the new entry: id %d, %v", f.ID, err)
	}
	if err := c.Reread(k, &f); !errors.Is(err, ctnl.ErrNotFound) {
		t.Errorf("reread: %v", err)
	}
}

// TestManyRefusals refuses every message of many batches.
func TestManyRefusals(t *testing.T) {
	_, c := newTable(t)
	const n = 20_000
	create(t, c, flows(n)...)
	b := c.NewBatch()
	next := 0
	b.Refused = func(e *ctnl.EntryError) {
		if e.Index != next || e.Orig != flowN(next).Orig || !errors.Is(e, unix.EEXIST) {
			t.Fatalf("refusal %d, want %d: %v", e.Index, next, e)
		}
		next++
	}
	for i := range n {
		f := flowN(i)
		if err := b.Create(&f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil || next != n {
		t.Errorf("%d refusals of %d, %v", next, n, err)
	}
}

// TestReap lets entries expire that nothing walks, and removes them through
// another namespace.
func TestReap(t *testing.T) {
	h, c := newTable(t)
	other := dial(t, lab.NewHost(t, "other"))
	short := flows(5000)
	for i := range short {
		short[i].TimeoutSeconds = 1
	}
	create(t, c, short...)
	time.Sleep(1500 * time.Millisecond)
	before := h.Count()
	if err := other.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := h.Count(); after != 0 {
		t.Errorf("%d entries before, %d after", before, after)
	}
}

// TestNamespaceChanged puts another namespace under the name of a connection's,
// which must not be reopened there.
func TestNamespaceChanged(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "gone")
	c := dial(t, h)
	create(t, c, flows(1000)...)
	if c.NetnsInode() == 0 {
		t.Error("no inode")
	}
	dump(t, c, ctnl.Query{Limit: 1})
	// A different namespace under the old name.
	if err := unix.Unmount(h.Path(), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	other := lab.NewHost(t, "other")
	if err := unix.Mount(other.Path(), h.Path(), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GlobalStats(); !errors.Is(err, ctnl.ErrNamespaceGone) {
		t.Errorf("reopened in another namespace: %v", err)
	}
}

func TestNoAllocationPerEntry(t *testing.T) {
	_, c := newTable(t)
	const n = 5000
	create(t, c, flows(n)...)
	got := testing.AllocsPerRun(3, func() {
		if _, err := c.Dump(context.Background(), ctnl.Query{}, func(*ct.Flow) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
	if got > 50 {
		t.Errorf("%v allocations for %d entries", got, n)
	}
}

// TestRelease: a released connection does not keep its namespace alive, and
// finds back into one that lives.
func TestRelease(t *testing.T) {
	h, c := newTable(t)
	create(t, c, flows(10)...)
	for range 2 {
		if err := c.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if all, _ := dump(t, c, ctnl.Query{}); len(all) != 10 {
		t.Errorf("%d entries after a release", len(all))
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	// The name is gone, as if the container had ended.
	if err := unix.Unmount(h.Path(), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GlobalStats(); err == nil {
		t.Error("a namespace without a name was found again")
	}
}

// TestClosed: a closed connection says so.
func TestClosed(t *testing.T) {
	_, c := newTable(t)
	c.Close()
	if _, err := c.GlobalStats(); err == nil {
		t.Error("a closed connection answered")
	}
	if err := c.Close(); err == nil {
		t.Error("closed twice")
	}
}
