package klog

import (
	"encoding/binary"
)

// needles are fragments of which every message has at least one. They are long
// because the finder's stride is the length of the shortest.
var needles = []string{
	"conntrack: table full",
	"table full, dropping", // where colour codes split the prefix off
	"expectation table full",
	"callbacks suppresse", // some viewers cut the line here
	"messages suppressed.",
	" SYN flooding on port ",
	"eighbour table overflow",
	"eighbor table overflow",
	"Out of socket memory",
	"consider tuning tcp_mem",
	"too many orphaned sockets",
	"falling back to vmalloc",
	"automatic helper assignment",
	"conntrack version ",
	": dropping packet: ",
	"nf_ct_proto_1: ", "nf_ct_proto_6: ", "nf_ct_proto_17:", "nf_ct_proto_33:",
	"nf_ct_proto_47:", "nf_ct_proto_58:", "nf_ct_proto_132", "nf_ct_proto_136",
	" 'net/netfilter/nf_conntrack", // systemd-sysctl
	" 'net/nf_conntrack_max",
	"cannot stat /proc/sys/net/", // sysctl of procps
}

// finder finds many strings in one pass: Wu and Manber's algorithm with blocks
// of four bytes. Standing anywhere, it looks at the four bytes that would end
// the window of the shortest needle and skips as far as no needle can match.
// That is one load, one multiplication and one table look-up for about a dozen
// bytes of text; six lanes run side by side so that their latencies overlap.
type finder struct {
	window int // length of the shortest needle; of each only so much is hashed
	shift  [1 << shiftBits]uint8
	ending map[uint32][]string // needles by the hash of their window's last block
}

const (
	shiftBits = 12
	blockLen  = 4
	lanes     = 6
)

func newFinder(needles []string) *finder {
	f := &finder{window: 1 << 30, ending: map[uint32][]string{}}
	for _, n := range needles {
		f.window = min(f.window, len(n))
	}
	last := f.window - blockLen
	for i := range f.shift {
		f.shift[i] = uint8(last + 1)
	}
	for _, n := range needles {
		for i := range last + 1 {
			h := hashBlock(binary.LittleEndian.Uint32([]byte(n[i : i+blockLen])))
			f.shift[h] = min(f.shift[h], uint8(last-i))
			if i == last {
				f.ending[h] = append(f.ending[h], n)
			}
		}
	}
	return f
}

func hashBlock(x uint32) uint32 { return x * 0x9E3779B1 >> (32 - shiftBits) }

// find appends to hits the offsets in b at which a needle starts, ascending.
// Needles that reach over the end of b are not found.
func (f *finder) find(b []byte, hits []int) []int {
	if len(b) < f.window {
		return hits
	}
	// A lane owns the positions of a window's last block in its span.
	first := f.window - blockLen
	span := (len(b) - blockLen + 1 - first) / lanes
	if span < 64 {
		return f.findLane(b, first, len(b)-blockLen+1, hits)
	}
	var at [lanes]int
	var found [lanes][]int
	for l := range at {
		at[l] = first + l*span
	}
	for f.stride(b, &at, span) {
		for l := range at {
			if end := first + (l+1)*span; at[l] < end && f.shiftAt(b, at[l]) == 0 {
				found[l] = f.appendMatch(b, at[l], found[l])
				at[l]++
			}
		}
	}
	for l := range at {
		end := first + (l+1)*span
		if l == lanes-1 {
			end = len(b) - blockLen + 1
		}
		hits = append(hits, found[l]...)
		hits = f.findLane(b, at[l], end, hits)
	}
	return hits
}

// stride moves all lanes on until one of them stands on a candidate, and then
// returns true, or has used up its span.
func (f *finder) stride(b []byte, at *[lanes]int, span int) bool {
	p0, p1, p2, p3, p4, p5 := at[0], at[1], at[2], at[3], at[4], at[5]
	first := f.window - blockLen
	e0 := first + span
	e1, e2, e3, e4, e5 := e0+span, e0+2*span, e0+3*span, e0+4*span, e0+5*span
	candidate := false
	for p0 < e0 && p1 < e1 && p2 < e2 && p3 < e3 && p4 < e4 && p5 < e5 {
		s0, s1, s2 := f.shiftAt(b, p0), f.shiftAt(b, p1), f.shiftAt(b, p2)
		s3, s4, s5 := f.shiftAt(b, p3), f.shiftAt(b, p4), f.shiftAt(b, p5)
		if s0 == 0 || s1 == 0 || s2 == 0 || s3 == 0 || s4 == 0 || s5 == 0 {
			candidate = true
			break
		}
		p0, p1, p2, p3, p4, p5 = p0+s0, p1+s1, p2+s2, p3+s3, p4+s4, p5+s5
	}
	*at = [lanes]int{p0, p1, p2, p3, p4, p5}
	return candidate
}

func (f *finder) shiftAt(b []byte, p int) int {
	return int(f.shift[hashBlock(binary.LittleEndian.Uint32(b[p:]))])
}

// findLane is the plain algorithm over the positions from p to end.
func (f *finder) findLane(b []byte, p, end int, hits []int) []int {
	for p < end {
		s := f.shiftAt(b, p)
		if s == 0 {
			hits = f.appendMatch(b, p, hits)
			s = 1
		}
		p += s
	}
	return hits
}

// appendMatch appends the start of a needle whose window ends with the block
// at p, if there is one.
func (f *finder) appendMatch(b []byte, p int, hits []int) []int {
	start := p + blockLen - f.window
	for _, n := range f.ending[hashBlock(binary.LittleEndian.Uint32(b[p:]))] {
		if len(b)-start >= len(n) && string(b[start:start+len(n)]) == n {
			return append(hits, start)
		}
	}
	return hits
}
