package guardd

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/flowrec"
	"github.com/ctwarden/ctwarden/internal/guard"
)

var defaults = ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})

// established is a silent connection of a source, with so much left.
func established(id uint32, src string, left uint32) *ct.Flow {
	f := &ct.Flow{ID: id, Orig: ct.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("192.0.2.1"), Proto: ct.TCP,
		SrcPort: uint16(1024 + id), DstPort: 443}, State: ct.TCPEstablished, TimeoutSeconds: left,
		Status: ct.StatusSeenReply | ct.StatusAssured, Fields: ct.HasTimeout | ct.HasProtoInfo | ct.HasID}
	f.Reply, _ = f.Orig.Invert()
	return f
}

func choose(t *testing.T, s *suspects, flows ...*ct.Flow) (ids []uint32) {
	t.Helper()
	for _, f := range flows {
		if err := s.take(f, 1); err != nil {
			t.Fatal(err)
		}
	}
	s.settleFirst()
	s.sel.Each(func(e *flowrec.Entry) bool {
		ids = append(ids, e.ID)
		return true
	})
	return ids
}

func plain(thin guard.Thin) *suspects {
	thin.Limit = 100
	return newSuspects(&thin, &around{}, new(evict.Guard), []ct.Timeouts{defaults}, time.Hour)
}

const day = 432_000

func TestChoosesBySilence(t *testing.T) {
	s := plain(guard.Thin{Classes: guard.Silent, MinIdle: 10 * time.Minute, Seconds: 5})
	got := choose(t, s,
		established(1, "10.0.0.1", day-601), // silent for ten minutes, truncated
		established(2, "10.0.0.1", day-300), // for five
		established(3, "10.0.0.1", 299),     // waits for an acknowledgement: busy
		established(4, "10.0.0.1", day+100), // more than anything allows: unknown
		established(5, "10.0.0.1", 4),       // nearly gone anyway
	)
	if !slices.Equal(got, []uint32{1}) {
		t.Errorf("chose %v", got)
	}
}

func TestSparesWhatLivedBefore(t *testing.T) {
	s := plain(guard.Thin{Classes: guard.Silent, MinIdle: time.Minute, Since: 50 * time.Minute, Seconds: 5})
	got := choose(t, s,
		established(1, "10.0.0.1", day-9*60),  // last heard of 9 minutes ago, after the beginning
		established(2, "10.0.0.1", day-11*60), // before it
	)
	if !slices.Equal(got, []uint32{1}) {
		t.Errorf("chose %v", got)
	}
}

// TestEverySetCounts: an entry under our own shorter timeout is younger than
// the namespace's timeout would make it.
func TestEverySetCounts(t *testing.T) {
	thin := guard.Thin{Classes: guard.Unreplied, MinIdle: 10 * time.Second, Seconds: 1, Limit: 10}
	base := defaults
	base.Set(ct.TimeoutUDP, 60)
	base.Set(ct.TimeoutUDPStream, 180)
	f := established(1, "10.0.0.1", 20)
	f.Orig.Proto, f.Reply.Proto, f.State, f.Status, f.Fields = ct.UDP, ct.UDP, 0, 0, ct.HasTimeout|ct.HasID
	if got := choose(t, newSuspects(&thin, &around{}, new(evict.Guard), []ct.Timeouts{base}, time.Hour), f); len(got) != 1 {
		t.Errorf("not chosen by the namespace's timeouts: %v", got)
	}
	var own ownTimeouts
	now := time.Unix(1000, 0)
	set := new(ct.Timeouts)
	set.Set(ct.TimeoutUDP, 25)
	own.change(set, now)
	sets, ok := own.sets(&base, now)
	if !ok || len(sets) != 1 {
		t.Fatalf("%d sets, %v", len(sets), ok)
	}
	if got := choose(t, newSuspects(&thin, &around{}, new(evict.Guard), append(sets, base), time.Hour), f); len(got) != 0 {
		t.Errorf("chosen though our timeout says that it is 4 s old: %v", got)
	}
	// It counts while flows that began under it may live, and not for ever.
	other := new(ct.Timeouts)
	other.Set(ct.TimeoutUDP, 20)
	own.change(other, now)
	if sets, _ := own.sets(&base, now.Add(24*time.Hour)); len(sets) != 2 {
		t.Errorf("%d sets while our table gives timeouts", len(sets))
	}
	own.change(nil, now)
	if sets, _ := own.sets(&base, now.Add(time.Minute)); len(sets) != 2 {
		t.Errorf("%d sets a minute after", len(sets))
	}
	if sets, _ := own.sets(&base, now.Add(time.Hour)); len(sets) != 0 {
		t.Errorf("%d sets an hour after", len(sets))
	}
	for i := range int32(2*mostSets + 2) {
		s := new(ct.Timeouts)
		s.Set(ct.TimeoutUDP, i+1)
		own.change(s, now)
	}
	if _, ok := own.sets(&base, now); ok {
		t.Error("claims to know more sets than it keeps")
	}
}

func TestFragileIsSpared(t *testing.T) {
	nat := established(2, "10.0.0.2", day-7200)
	nat.Reply.Dst = netip.MustParseAddr("203.0.113.1")
	syn := established(3, "10.0.0.3", 60)
	syn.State, syn.Status = ct.TCPSynSent, 0
	flows := []*ct.Flow{established(1, "10.0.0.1", day-7200), nat, syn}
	thin := guard.Thin{Classes: guard.Silent | guard.HalfOpen, MinIdle: 30 * time.Second, Seconds: 5, Limit: 10}
	for _, c := range []struct {
		machine, also bool
		want          []uint32
	}{
		{false, false, []uint32{1, 3}},
		{true, false, []uint32{3}},
		{true, true, []uint32{1, 2, 3}},
		{false, true, []uint32{1, 2, 3}},
	} {
		thin.Fragile = c.also
		a := &around{Surroundings: guard.Surroundings{Fragile: c.machine}}
		if got := choose(t, newSuspects(&thin, a, new(evict.Guard), []ct.Timeouts{defaults}, time.Hour), flows...); !slices.Equal(got, c.want) {
			t.Errorf("machine %v, also fragile ones %v: chose %v, want %v", c.machine, c.also, got, c.want)
		}
	}
}

// TestSourcesKeepTheirShare: the longest idle go, and each source keeps so many
// in all, those that are busy included.
func TestSourcesKeepTheirShare(t *testing.T) {
	s := plain(guard.Thin{Classes: guard.Silent, MinIdle: time.Minute, Seconds: 5, Keep: 2,
		Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.9.0.0/16")}})
	got := choose(t, s,
		established(1, "10.0.0.1", day-100), established(2, "10.0.0.1", day-300), established(3, "10.0.0.1", day-200),
		established(4, "10.0.0.1", 299), // busy
		established(5, "10.9.1.1", day-400), established(6, "10.9.2.2", day-500), established(7, "10.9.3.3", day-90),
		established(8, "10.0.0.2", day-9000), // of nobody that is named
	)
	if !slices.Equal(got, []uint32{6, 2, 3}) {
		t.Errorf("chose %v", got)
	}
}

func TestSparesWhatTheGuardSpares(t *testing.T) {
	thin := guard.Thin{Classes: guard.Silent, Seconds: 5, Limit: 10}
	g := &evict.Guard{SSHPeers: map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true}}
	s := newSuspects(&thin, &around{}, g, []ct.Timeouts{defaults}, time.Hour)
	if got := choose(t, s, established(1, "10.0.0.1", day-7200), established(2, "10.0.0.2", day-7200)); !slices.Equal(got, []uint32{2}) || s.spared != 1 {
		t.Errorf("chose %v, spared %d", got, s.spared)
	}
}

// TestFindsTheNarrowestSource compares with a walk over the list.
func TestFindsTheNarrowestSource(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(8))})
		}
		b := [16]byte{0xfd, 0, 0, 0, 0, 0, 0, byte(r.IntN(3)), 14: byte(r.IntN(2)), 15: byte(r.IntN(4))}
		return netip.AddrFrom16(b)
	}
	for range 300 {
		var list []netip.Prefix
		for range r.IntN(12) {
			a := address()
			bits := []int{a.BitLen(), a.BitLen() - 3, a.BitLen() / 2, 8, 0}[r.IntN(5)]
			if p, _ := a.Prefix(bits); !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
		s := newSources(list)
		for range 50 {
			a := address()
			want := int32(-1)
			for i, p := range list {
				if p.Contains(a) && (want < 0 || p.Bits() > list[want].Bits()) {
					want = int32(i)
				}
			}
			if got := s.find(a); got != want {
				t.Fatalf("%s in %v: %d, want %d", a, list, got, want)
			}
		}
	}
}

func TestSparesWhatTheConfigurationSpares(t *testing.T) {
	s := newSuspects(&guard.Thin{Classes: guard.Silent, MinIdle: time.Minute, Seconds: 5, Limit: 100},
		&around{keep: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}, new(evict.Guard), []ct.Timeouts{defaults}, time.Hour)
	got := choose(t, s, established(1, "10.9.3.4", day-601), established(2, "10.8.3.4", day-601))
	if !slices.Equal(got, []uint32{2}) || s.spared != 1 {
		t.Errorf("chose %v, %d spared", got, s.spared)
	}
}

// A look that could not see who is to be spared keeps who was.
func TestBlindLookForgetsNobody(t *testing.T) {
	admin := netip.MustParsePrefix("10.9.0.1/32")
	old := &around{sawOwn: true, spare: &evict.Guard{}}
	old.Protected = []netip.Prefix{admin}
	blind := &around{spare: new(evict.Guard)}
	blind.remember(old)
	if blind.spare != old.spare || !slices.Contains(blind.Protected, admin) {
		t.Error("forgotten")
	}
	seeing := &around{sawOwn: true, spare: new(evict.Guard)}
	seeing.remember(old)
	if seeing.spare == old.spare || slices.Contains(seeing.Protected, admin) {
		t.Error("what was seen does not count")
	}
}
