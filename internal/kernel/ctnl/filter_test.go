package ctnl

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func TestFilterMatch(t *testing.T) {
	addr := netip.MustParseAddr
	f := ct.Flow{
		Orig:  ct.Tuple{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), Proto: ct.TCP, SrcPort: 40000, DstPort: 443},
		Reply: ct.Tuple{Src: addr("10.0.0.2"), Dst: addr("192.0.2.9"), Proto: ct.TCP, SrcPort: 443, DstPort: 1024},
		Mark:  0x15, Status: ct.StatusSeenReply | ct.StatusConfirmed, ZoneOrig: 7,
	}
	for name, q := range map[string]struct {
		Filter
		want bool
	}{
		"all":             {Filter{}, true},
		"family":          {Filter{Family: 2}, true},
		"other family":    {Filter{Family: 10}, false},
		"mark":            {Filter{Mark: 5, MarkMask: 0xf}, true},
		"other mark":      {Filter{Mark: 5, MarkMask: 0xff}, false},
		"mark under mask": {Filter{Mark: 0xf5, MarkMask: 0xf}, true},
		"status":          {Filter{Status: 0, StatusMask: ct.StatusAssured}, true},
		"other status":    {Filter{Status: ct.StatusAssured, StatusMask: ct.StatusAssured}, false},
		"zone":            {Filter{Zone: 7, HasZone: true}, true},
		"default zone":    {Filter{HasZone: true}, false},
		"orig":            {Filter{Orig: TupleFilter{Src: addr("10.0.0.1"), Proto: ct.TCP, DstPort: 443, HasDstPort: true}}, true},
		"other port":      {Filter{Orig: TupleFilter{HasDstPort: true}}, false},
		"other proto":     {Filter{Orig: TupleFilter{Proto: ct.UDP}}, false},
		"reply":           {Filter{Reply: TupleFilter{Dst: addr("192.0.2.9"), SrcPort: 443, HasSrcPort: true}}, true},
		"other reply":     {Filter{Reply: TupleFilter{Dst: addr("192.0.2.8")}}, false},
		"other source":    {Filter{Reply: TupleFilter{Src: addr("192.0.2.8")}}, false},
	} {
		if got := q.Match(&f); got != q.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestRecent compares the memory of the last entries with a map and a list,
// under ids that collide a lot.
func TestRecent(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	var got recent
	var order []ct.Flow
	pool := make([]ct.Flow, 1000)
	for i := range pool {
		pool[i] = randFlow(r)
		pool[i].ID = r.Uint32N(3)
	}
	for range 50_000 {
		f := pool[r.IntN(len(pool))]
		want := false
		for _, o := range order {
			want = want || o.Orig == f.Orig && o.ID == f.ID
		}
		if got.seen(&f) != want {
			t.Fatalf("seen %v, want %v", !want, want)
		}
		if want {
			continue
		}
		if order = append(order, f); len(order) > recentLen {
			order = order[1:]
		}
	}
}
