package simdiff

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
)

// TestNATRanges compares translations of every kind: to ranges of addresses and
// ports, persistent and random, of source and destination, and back to the
// inside. The model follows the kernel's draws; all else it must find itself.
func TestNATRanges(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	compareNATRanges(t, runningEra(t), max(*sequences/20, 40))
}

// TestGuestNATRanges runs inside a guest.
func TestGuestNATRanges(t *testing.T) {
	lab.SharedLimits(t)
	compareNATRanges(t, runningEra(t), max(*sequences/20, 40))
}

func compareNATRanges(t *testing.T, e sim.Era, each int) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	g := rand.New(rand.NewPCG(s, 3))
	rig := layCables(t)
	rig.tracker.SetSysctl("net.ipv4.conf.all.send_redirects", "0")
	// Sources are translated to addresses that the gateway has, as it should.
	for n := range 5 {
		rig.tracker.IP("address add "+natAddrs{}.out(n).String()+"/32 dev sv0",
			"address add "+natAddrs{true}.out(n).String()+"/128 dev sv0 nodad preferred_lft 0") // masquerade takes another
	}
	for i, c := range natCases() {
		t.Run(c.name, func(t *testing.T) {
			rig.t = t
			rig.tracker.NFT("flush ruleset\n" + c.ruleset())
			total, entries, movedPorts := 0, 0, 0
			for left, round := each, 0; left > 0; left, round = left-1000, round+1 {
				var list []natSequence
				for range min(left, 1000) {
					list = append(list, c.sequence(g, 8))
				}
				wait := -1
				if round%2 == 0 && (i%10 == 0 || each > 1000) {
					wait = 3 + g.IntN(4)
				}
				x := rig.runNAT(&c, e, list, wait)
				total, entries, movedPorts = total+x.packets, entries+x.entries, movedPorts+x.moved
				for _, d := range rig.suspectsNAT(&c, e, x, wait) {
					t.Errorf("seed %d: kernel and model differ\n%s", s, d)
				}
			}
			t.Logf("%d sequences, %d packets; %d entries compared, %d with another port", each, total, entries, movedPorts)
		})
	}
	rig.t = t
}

// suspectsNAT runs what has failed again, a few times together, and returns
// what keeps failing, of which it shrinks three.
func (r *Rig) suspectsNAT(c *natCase, e sim.Era, x *natRun, wait int) (told []string) {
	r.t.Helper()
	for range 2 {
		var list []natSequence
		for n := range x.diffs {
			list = append(list, x.sequences[n])
		}
		if len(list) == 0 {
			return nil
		}
		x = r.runNAT(c, e, list, wait)
	}
	for n, d := range x.diffs {
		if len(told) < 3 {
			d = r.shrinkNAT(c, e, x.sequences[n], d, wait)
		}
		told = append(told, d)
	}
	return told
}

// shrinkNAT removes steps of a sequence as long as it still fails.
func (r *Rig) shrinkNAT(c *natCase, e sim.Era, s natSequence, why string, wait int) string {
	for range 10 {
		var list []natSequence
		for i := range s {
			if len(s) > 1 {
				list = append(list, append(append(natSequence{}, s[:i]...), s[i+1:]...))
			}
		}
		x := r.runNAT(c, e, list, wait)
		shorter := false
		for i := range list {
			if !shorter && x.diffs[i] != "" {
				s, why, shorter = list[i], x.diffs[i], true
			}
		}
		if !shorter {
			break
		}
	}
	return s.String() + why
}
