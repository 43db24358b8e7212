package diagnose

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// holder is one heavy hitter with what can be said of it for sure.
type holder struct {
	ct.Heavy
	// share is the least part of the entries read that it holds.
	share float64
}

// heaviest returns the first of a list of heavy hitters, by its sure share.
func (f *facts) heaviest(list []ct.Heavy) (holder, bool) {
	var best holder
	for _, h := range list {
		if s := f.c.Share(h.Entries - min(h.Error, h.Entries)); s > best.share {
			best = holder{h, s}
		}
	}
	return best, best.share > 0
}

func (h holder) addr() netip.Addr { return h.Prefix.Addr() }

// of is the part of the holder's own entries that n is: the numbers beside it
// are counted only while it was in the sketch, so they are compared with one
// another and not with its total.
func (h holder) of(n uint64) float64 {
	if seen := h.Replied + h.Unreplied; seen > 0 {
		return min(float64(n)/float64(seen), 1)
	}
	return 0
}

// silent is the part of its entries that nobody has answered in full.
func (h holder) silent() float64 { return max(h.of(h.Unreplied), h.of(h.HalfOpen)) }

// kind says what most of its entries are: "unanswered udp to port 53".
func (h holder) kind() string {
	what := "entries of many kinds"
	proto := "connections"
	if h.MainPortShare >= majority {
		proto = h.protoName()
	}
	switch {
	case h.of(h.HalfOpen) >= majority:
		what = "half-open TCP connections"
	case h.of(h.Unreplied) >= majority:
		what = "unanswered " + proto
	case h.of(h.Assured) >= majority:
		what = "lasting " + proto
	case h.of(h.Replied) >= majority:
		what = "answered, short-lived " + proto
	}
	if h.MainPortShare >= majority && h.MainPort != 0 {
		what += " to port " + strconv.Itoa(int(h.MainPort))
	}
	return what
}

func (h holder) protoName() string {
	switch h.MainProto {
	case ct.TCP:
		return "TCP connections"
	case ct.UDP:
		return "UDP"
	case ct.ICMP, ct.ICMPv6:
		return "pings"
	case 0:
		return "connections"
	}
	return h.MainProto.String()
}

// who says what is known of an address: this machine, a gateway, a nameserver,
// an address inside, or one outside.
func (f *facts) who(a netip.Addr) string {
	switch {
	case f.isSelf(a):
		return "this machine itself"
	case contains(f.s.Gateways, a):
		return "a gateway of this machine"
	case contains(f.s.Nameservers, a):
		return "a nameserver of this machine"
	case f.isInside(a):
		return "an address of a private network"
	}
	return "an address outside"
}

// forgeable says what half-open and unanswered entries prove of their source,
// "" where the address must be right.
func (f *facts) forgeable(h holder) string {
	if f.isSelf(h.addr()) || h.silent() < majority {
		return ""
	}
	s := "nobody answered these entries, so the address may be forged"
	if h.Replied > h.HalfOpen {
		s += fmt.Sprintf("; it does exist, for %s of its entries were answered", num(h.Replied-h.HalfOpen))
	}
	return s
}

// behind warns that a heavy source may stand for many people.
func (f *facts) behind(h holder) string {
	if f.isSelf(h.addr()) {
		return ""
	}
	return fmt.Sprintf("%s may be a proxy, a load balancer, a resolver or a NAT with many users behind it", h.addr())
}

// addresses words how many different sources were seen. In a sample there are
// fewer than in the table.
func (f *facts) addresses(n uint64) string {
	if f.c.Complete {
		return "about " + plural(n, "address", "addresses")
	}
	return "at least " + plural(n, "address", "addresses")
}

// perSource estimates how many entries of the table one source has on average.
// A sample that holds the share p of the table meets a source with k entries
// with probability 1 - (1-p)^k, so that it holds (1 - (1-p)^k) / k different
// sources for every entry of the table; k is found by halving.
func (f *facts) perSource() float64 {
	n, distinct := float64(f.c.Entries), float64(f.c.DistinctSources)
	if n == 0 || distinct == 0 {
		return 0
	}
	table := math.Max(float64(f.peak), n)
	p := n / table
	if f.c.Complete || p >= 1 {
		return n / distinct
	}
	low, high := 1.0, table
	for range 60 {
		k := (low + high) / 2
		if (1-math.Pow(1-p, k))/k*table > distinct {
			low = k
		} else {
			high = k
		}
	}
	return low
}

// sample says how far shares can be off, "" for a complete reading.
func (f *facts) sample() string {
	switch {
	case f.c.Short:
		return "the table changed or was resized while it was read, so shares are approximate"
	case !f.c.Complete && f.c.SampleError > 0:
		return fmt.Sprintf("%s entries of %s were read: shares are right within %s (--full reads all)",
			num(f.c.Entries), num(f.peak), pct(f.c.SampleError))
	}
	return ""
}
