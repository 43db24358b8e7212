package ctwalk_test

import (
	"context"
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

func open(t *testing.T) *ctwalk.Walker {
	t.Helper()
	w, err := ctwalk.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// TestAgreesWithDump compares every field of entries of every kind with what
// ctnetlink sends of them.
func TestAgreesWithDump(t *testing.T) {
	lab.Require(t)
	w := open(t)
	for _, on := range []string{"0", "1"} {
		h := lab.NewHost(t, "walk")
		h.Track()
		h.SetSysctl("net.netfilter.nf_conntrack_acct", on)
		h.SetSysctl("net.netfilter.nf_conntrack_timestamp", on)
		c, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := c.NewBatch()
		for _, f := range lab.EveryKind() {
			if err := b.Create(&f); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		dumped := byTuple(t, func(fn func(*ct.Flow) error) error {
			_, err := c.Dump(context.Background(), ctnl.Query{}, fn)
			return err
		})
		walked := byTuple(t, func(fn func(*ct.Flow) error) error {
			s, err := w.Walk(context.Background(), ctwalk.Query{Netns: h.Path()}, fn)
			t.Logf("%+v", s)
			return err
		})
		if len(dumped) < 50 {
			t.Fatalf("only %d entries", len(dumped))
		}
		if diff := cmp.Diff(dumped, walked, cmp.Comparer(func(a, b ct.Tuple) bool { return a == b })); diff != "" {
			t.Errorf("dump - walk +, accounting %s:\n%s", on, diff)
		}
	}
}

func byTuple(t *testing.T, read func(func(*ct.Flow) error) error) (all []ct.Flow) {
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
	slices.SortFunc(all, func(a, b ct.Flow) int { return strings.Compare(a.Orig.String(), b.Orig.String()) })
	return all
}

// TestIDs compares the ids told with those that ctnetlink sends.
func TestIDs(t *testing.T) {
	lab.Require(t)
	w := open(t)
	h := lab.NewHost(t, "ids")
	h.Track()
	c, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := c.NewBatch()
	for _, f := range lab.EveryKind() {
		if err := b.Create(&f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	ids := make(map[uint32]ct.Tuple)
	_, err = c.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
		ids[f.ID] = f.Orig
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	q := ctwalk.Query{Netns: h.Path()}
	err = w.LearnIDs(context.Background(), q, func(f *ct.Flow) (uint32, bool, error) {
		var g ct.Flow
		err := c.Get(f.Orig, f.Zone, &g)
		return g.ID, err == nil && g.Reply == f.Reply, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	q.IDs = true
	n := 0
	_, err = w.Walk(context.Background(), q, func(f *ct.Flow) error {
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
