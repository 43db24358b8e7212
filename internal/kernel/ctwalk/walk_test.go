package ctwalk_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// TestOtherKernels walks the tables of Debian's kernels, of which 5.10 has not
// what it takes.
func TestOtherKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		run := "^Test(AgreesWithDump|IDs|Filters|Expired|Reaper)$"
		if k.Series == "5.10" {
			run = "^TestGuestTooOld$"
		}
		k.Run(t, vm.Options{Package: "./internal/kernel/ctwalk", Run: run,
			Modules:  vm.NetfilterModules,
			Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_conntrack_ftp", "nf_nat"},
			Programs: []string{"ip", "nft", "sh"}})
	})
}

// TestGuestTooOld runs on a kernel without bpf_loop.
func TestGuestTooOld(t *testing.T) {
	w, err := ctwalk.Open()
	if err == nil {
		_ = w.Close()
		t.Error("opened")
	}
	t.Log(err)
}

func open(t *testing.T) *ctwalk.Walker {
	t.Helper()
	w, err := ctwalk.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// filled returns a table with entries of every kind, and more that only a helper
// makes.
func filled(t *testing.T, on string) (*lab.Host, *ctnl.Conn) {
	t.Helper()
	h := lab.NewHost(t, "walk")
	h.Track()
	h.NFT(lab.EveryKindRules)
	h.SetSysctl("net.netfilter.nf_conntrack_acct", on)
	h.SetSysctl("net.netfilter.nf_conntrack_timestamp", on)
	c, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	b := c.NewBatch()
	b.Refused = func(e *ctnl.EntryError) { t.Errorf("create: %v", e) }
	all := lab.EveryKind()
	for _, f := range append(all, ofHelpers(all[len(all)-1])...) {
		if err := b.Create(&f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	return h, c
}

// ofHelpers returns entries like f that have a helper, a master and adjusted
// sequence numbers.
func ofHelpers(f ct.Flow) (all []ct.Flow) {
	master := all
	for i, set := range []func(*ct.Flow){
		func(f *ct.Flow) { f.Helper, f.Fields = "ftp", f.Fields|ct.HasHelper },
		func(f *ct.Flow) { f.Master, f.Fields = all[0].Orig, f.Fields|ct.HasMaster },
		func(f *ct.Flow) {
			f.SeqAdjOrig = ct.SeqAdj{CorrectionPos: 100, OffsetBefore: 3, OffsetAfter: 5}
			f.SeqAdjReply, f.Fields = f.SeqAdjOrig, f.Fields|ct.HasSeqAdj
		},
		func(f *ct.Flow) {
			f.SynProxy, f.Fields = ct.SynProxy{ISN: 1, ITS: 2, TSOff: 3}, f.Fields|ct.HasSynProxy
		},
	} {
		g := f
		g.Orig.Proto, g.Status, g.Fields = ct.TCP, ct.StatusSeenReply|ct.StatusAssured, ct.HasTimeout|ct.HasProtoInfo
		g.Orig.SrcPort, g.Orig.DstPort, g.State = 40_000+uint16(i), 21, ct.TCPEstablished
		g.Reply, _ = g.Orig.Invert()
		set(&g)
		all = append(all, g)
	}
	return append(master, all...)
}

// TestAgreesWithDump compares every field of entries of every kind with what
// ctnetlink sends of them.
func TestAgreesWithDump(t *testing.T) {
	lab.Require(t)
	w := open(t)
	for _, on := range []string{"0", "1"} {
		h, c := filled(t, on)
		dumped := read(t, func(fn func(*ct.Flow) error) error {
			_, err := c.Dump(t.Context(), ctnl.Query{}, fn)
			return err
		})
		walked := read(t, func(fn func(*ct.Flow) error) error {
			_, err := w.Walk(t.Context(), ctwalk.Query{Netns: h.Path()}, fn)
			return err
		})
		if len(dumped) < 100 {
			t.Fatalf("only %d entries", len(dumped))
		}
		var all ct.Fields
		for _, f := range dumped {
			all |= f.Fields
		}
		const seen = ct.HasTimeout | ct.HasProtoInfo | ct.HasMark | ct.HasZone | ct.HasLabels | ct.HasMaster | ct.HasSeqAdj | ct.HasHelper | ct.HasUse
		if all&seen != seen {
			t.Errorf("no entry has %b", seen&^all)
		}
		if diff := cmp.Diff(dumped, walked, sameTuple, aboutSame); diff != "" {
			t.Errorf("dump - walk +, accounting %s:\n%s", on, diff)
		}
	}
}

var (
	sameTuple = cmp.Comparer(func(a, b ct.Tuple) bool { return a == b })
	// aboutSame lets a second pass between two readings.
	aboutSame = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".TimeoutSeconds" },
		cmp.Comparer(func(a, b uint32) bool { return a-b+1 <= 2 }))
)

// read returns the entries in the order of their tuples, without ids.
func read(t *testing.T, read func(func(*ct.Flow) error) error) (all []ct.Flow) {
	t.Helper()
	err := read(func(f *ct.Flow) error {
		g := *f
		g.ID, g.Fields = 0, g.Fields&^ct.HasID
		all = append(all, g)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b ct.Flow) int {
		return strings.Compare(a.Orig.String(), b.Orig.String())
	})
	return all
}

// TestIDs compares the ids told with those that ctnetlink sends. Where they
// cannot be told, that must be said.
func TestIDs(t *testing.T) {
	lab.Require(t)
	w := open(t)
	h, c := filled(t, "0")
	ids := make(map[uint32]ct.Tuple)
	_, err := c.Dump(t.Context(), ctnl.Query{}, func(f *ct.Flow) error {
		ids[f.ID] = f.Orig
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	q := ctwalk.Query{Netns: h.Path()}
	wrong := func(f *ct.Flow) (uint32, bool, error) { return 4711, true, nil }
	other, err := ctwalk.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.LearnIDs(t.Context(), q, wrong); !errors.Is(err, ctwalk.ErrNoIDs) {
		t.Errorf("ids that are not the kernel's were found a key for: %v", err)
	}
	if _, err := other.Walk(t.Context(), ctwalk.Query{Netns: h.Path(), IDs: true}, nil); !errors.Is(err, ctwalk.ErrNoIDs) {
		t.Errorf("walk for ids without a key: %v", err)
	}
	err = w.LearnIDs(t.Context(), q, func(f *ct.Flow) (uint32, bool, error) {
		var g ct.Flow
		err := c.Get(f.Orig, f.Zone, &g)
		return g.ID, err == nil && g.Reply == f.Reply, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	q.IDs = true
	n := 0
	_, err = w.Walk(t.Context(), q, func(f *ct.Flow) error {
		n++
		if orig, ok := ids[f.ID]; !ok || orig != f.Orig {
			t.Errorf("%s has id %#x, which is that of %s", f.Orig, f.ID, orig)
		}
		return nil
	})
	if err != nil || n != len(ids) {
		t.Errorf("%d entries, want %d: %v", n, len(ids), err)
	}
}

// TestFilters has the program choose.
func TestFilters(t *testing.T) {
	lab.Require(t)
	w := open(t)
	h, c := filled(t, "1")
	other := lab.NewHost(t, "other")
	other.Track()
	for name, q := range map[string]ctnl.Filter{
		"status":  {Status: ct.StatusSeenReply, StatusMask: ct.StatusAssured | ct.StatusSeenReply},
		"mark":    {Mark: 0xbeef, MarkMask: 0xffff},
		"family":  {Family: 10},
		"nothing": {Status: ct.StatusDying, StatusMask: ct.StatusDying},
		"all":     {},
		"network": {Orig: ctnl.TupleFilter{SrcNet: around(t, c, ct.TCP, false, 29)}},
		"IPv6":    {Orig: ctnl.TupleFilter{DstNet: around(t, c, ct.UDP, true, 61), Proto: ct.UDP}},
		"ports":   {Orig: ctnl.TupleFilter{Proto: ct.TCP, HasDstPort: true, DstPort: 21, SrcPort: 40_002, HasSrcPort: true}},
	} {
		want := read(t, func(fn func(*ct.Flow) error) error {
			_, err := c.Dump(t.Context(), ctnl.Query{}, func(f *ct.Flow) error {
				if !q.Match(f) {
					return nil
				}
				return fn(f)
			})
			return err
		})
		wq := ctwalk.Query{Netns: h.Path(), Status: q.Status, StatusMask: q.StatusMask, Mark: q.Mark, MarkMask: q.MarkMask, Family: q.Family,
			Orig: ctwalk.TupleQuery{Src: q.Orig.SrcNet, Dst: q.Orig.DstNet, Proto: q.Orig.Proto,
				SrcPort: q.Orig.SrcPort, HasSrcPort: q.Orig.HasSrcPort, DstPort: q.Orig.DstPort, HasDstPort: q.Orig.HasDstPort}}
		got := read(t, func(fn func(*ct.Flow) error) error {
			_, err := w.Walk(t.Context(), wq, fn)
			return err
		})
		if diff := cmp.Diff(want, got, sameTuple, aboutSame); diff != "" || len(got) == 0 != (name == "nothing") {
			t.Errorf("%s: %d entries\n%s", name, len(got), diff)
		}
		wq.Netns = other.Path()
		if s, err := w.Walk(t.Context(), wq, func(*ct.Flow) error { return nil }); err != nil || s.Entries != 0 {
			t.Errorf("%s: the empty namespace has %d entries: %v", name, s.Entries, err)
		}
	}
}

// around returns a network that the source of an entry lies in, or its destination
// where it is IPv6.
func around(t *testing.T, c *ctnl.Conn, p ct.Proto, v6 bool, bits int) (n netip.Prefix) {
	t.Helper()
	if _, err := c.Dump(t.Context(), ctnl.Query{}, func(f *ct.Flow) error {
		if f.Orig.Proto != p || f.Orig.Is4() == v6 {
			return nil
		}
		if n, _ = f.Orig.Src.Prefix(bits); v6 {
			n, _ = f.Orig.Dst.Prefix(bits)
		}
		return ctnl.ErrStop
	}); err != nil || !n.IsValid() {
		t.Fatalf("no such entry: %v", err)
	}
	return n
}

// TestExpired passes over entries that are over, and leaves them in the table.
func TestExpired(t *testing.T) {
	lab.Require(t)
	w := open(t)
	h, c := filled(t, "0")
	before := h.Count()
	b := c.NewBatch()
	for i := range 20 {
		f := ct.Flow{Orig: lab.EveryKind()[0].Orig} // expired as it is born
		f.Orig.SrcPort = 50_000 + uint16(i)
		f.Reply, _ = f.Orig.Invert()
		if err := b.Create(&f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	s, err := w.Walk(t.Context(), ctwalk.Query{Netns: h.Path()}, func(f *ct.Flow) error {
		if f.Orig.SrcPort >= 50_000 {
			t.Errorf("shown: %s", f.Orig)
		}
		return nil
	})
	// The kernel's own collection may have come in between.
	if err != nil || s.Entries != before || s.Expired > 20 || s.Expired+s.Entries > h.Count()+20 {
		t.Errorf("%d entries before, %+v, %d after, %v", before, s, h.Count(), err)
	}
	if _, err := w.Walk(t.Context(), ctwalk.Query{Netns: h.Path(), NetnsInode: 1}, func(*ct.Flow) error { return nil }); err == nil {
		t.Error("a namespace with another inode number was walked")
	}
	stopped, err := w.Walk(t.Context(), ctwalk.Query{Netns: h.Path()}, func(*ct.Flow) error { return ctwalk.ErrStop })
	if err != nil || !stopped.Stopped || stopped.Entries != 1 {
		t.Errorf("stopped at the first: %+v, %v", stopped, err)
	}
}
