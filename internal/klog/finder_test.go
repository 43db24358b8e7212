package klog

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// slowFind is the obvious way to do what finder.find does.
func slowFind(needles []string, b []byte) []int {
	var hits []int
	for i := range b {
		for _, n := range needles {
			if bytes.HasPrefix(b[i:], []byte(n)) {
				hits = append(hits, i)
				break
			}
		}
	}
	return hits
}

func TestFindEqualsSlowFind(t *testing.T) {
	f := newFinder(needles)
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		b := make([]byte, r.IntN(6000))
		for i := range b {
			b[i] = "nf_conntrack: tablefu,\n0"[r.IntN(24)]
		}
		for range r.IntN(20) {
			n := needles[r.IntN(len(needles))]
			if len(b) > len(n) {
				copy(b[r.IntN(len(b)):], n)
			}
		}
		if got, want := f.find(b, nil), slowFind(needles, b); !slices.Equal(got, want) {
			t.Fatalf("find(%q) = %v, want %v", b, got, want)
		}
	}
}

func FuzzFind(f *testing.F) {
	fd := newFinder(needles)
	for _, n := range needles {
		f.Add([]byte(n), uint8(3))
		f.Add([]byte("x"+n+n+"\n"), uint8(100))
	}
	f.Fuzz(func(t *testing.T, b []byte, times uint8) {
		b = bytes.Repeat(b, int(times)+1)
		if len(b) > 1<<16 {
			t.Skip()
		}
		if got, want := fd.find(b, nil), slowFind(needles, b); !slices.Equal(got, want) {
			t.Fatalf("find = %v, want %v", got, want)
		}
	})
}
