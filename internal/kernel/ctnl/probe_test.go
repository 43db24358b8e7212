package ctnl_test

import (
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

// TestProbe asks for entries of which some have gone, some have expired and
// some have been replaced, among others in zones and of IPv6.
func TestProbe(t *testing.T) {
	h, c := newTable(t)
	all := flows(1000)
	for i := range all {
		switch i % 4 {
		case 1:
			all[i].TimeoutSeconds = 1
		case 2:
			all[i].Zone, all[i].Fields = 7, all[i].Fields|ct.HasZone
		case 3:
			all[i] = flow(zooTuple(i/4, ct.UDP, false), 0)
		}
	}
	create(t, c, all...)
	read, _ := dump(t, c, ctnl.Query{})
	b := c.NewBatch()
	for i := range read {
		k, err := ctnl.KeyOf(&read[i])
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := b.Delete(k); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	want := 0
	for i := range read {
		if i%10 != 0 && read[i].TimeoutSeconds > 1 {
			want++
		}
	}
	time.Sleep(1100 * time.Millisecond)
	seen := make(map[uint32]bool)
	p := c.NewProbe(func(f *ct.Flow) error { seen[f.ID] = true; return nil })
	for i := range read {
		k, err := ctnl.KeyOf(&read[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Ask(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(seen) != want {
		t.Errorf("%d entries answer, want %d", len(seen), want)
	}
	// The expired ones have gone by being asked for.
	if g, err := dial(t, h).GlobalStats(); err != nil || int(g.Count) != want {
		t.Errorf("%d entries counted, want %d, %v", g.Count, want, err)
	}
	if err := p.Ask(t.Context(), ctnl.Key{}); err == nil {
		t.Error("the zero key was asked for")
	}
}
