package procfs

import (
	"bufio"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Slab is what the slab allocator holds for entries of all namespaces.
type Slab struct {
	// Objects in use; whole slabs of a CPU count as in use even when free.
	Objects     int64
	ObjectBytes int64
	Bytes       int64 // of the pages behind them
}

// ErrNoSlab is the error of a slab list without a cache for entries.
var ErrNoSlab = errors.New("no nf_conntrack cache in the list")

// ConntrackSlab reads /proc/slabinfo, which is root's.
func (f FS) ConntrackSlab() (Slab, error) {
	return open(f.path("proc/slabinfo"), "the slab of entries", func(r io.Reader) (Slab, error) {
		return ParseSlab(r, f.pageBytes())
	})
}

// pageBytes is the page size; a recorded machine is taken to have 4 KiB.
func (f FS) pageBytes() int64 {
	if f.Live() {
		return livePageBytes()
	}
	return 4096
}

// ParseSlab sums up the caches of entries: nf_conntrack, the nf_conntrack_PTR
// of each namespace (2.6.39 to 4.6) and ip_conntrack, without those of
// expectations.
func ParseSlab(r io.Reader, pageBytes int64) (Slab, error) {
	var s Slab
	found := false
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 6 || !isEntryCache(f[0]) {
			continue
		}
		active, err1 := parseCount(f[1])
		total, err2 := parseCount(f[2])
		size, err3 := parseCount(f[3])
		perSlab, err4 := parseCount(f[4])
		pages, err5 := parseCount(f[5])
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			return s, err
		}
		found = true
		s.Objects = addCapped(s.Objects, active)
		s.ObjectBytes = max(s.ObjectBytes, size)
		if perSlab > 0 {
			slabs := (total + perSlab - 1) / perSlab
			s.Bytes = addCapped(s.Bytes, mulCapped(slabs, mulCapped(pages, pageBytes)))
		}
	}
	if err := sc.Err(); err != nil {
		return s, err
	}
	if !found {
		return s, ErrNoSlab
	}
	return s, nil
}

func isEntryCache(name string) bool {
	if name == "nf_conntrack" || name == "ip_conntrack" {
		return true
	}
	rest, ok := strings.CutPrefix(name, "nf_conntrack_")
	return ok && isHex(rest)
}

// isHex tells the address of a namespace from the names of other caches.
func isHex(s string) bool {
	_, err := strconv.ParseUint(s, 16, 64)
	return err == nil && len(s) >= 8
}

// parseCount reads a number that a sum cannot overflow.
func parseCount(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err
}

func addCapped(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func mulCapped(a, b int64) int64 {
	if a != 0 && b > math.MaxInt64/a {
		return math.MaxInt64
	}
	return a * b
}

// Meminfo returns the total and the available memory in bytes. Available is
// unknown before 3.14.
func (f FS) Meminfo() (total, available ct.Value, err error) {
	m, err := open(f.path("proc/meminfo"), "the memory", ParseMeminfo)
	return m["MemTotal"], m["MemAvailable"], err
}

// ParseMeminfo reads /proc/meminfo into bytes. Lines that are not of the form
// "Name: number kB" are passed over.
func ParseMeminfo(r io.Reader) (map[string]ct.Value, error) {
	m := make(map[string]ct.Value)
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	for sc.Scan() {
		name, rest, ok := strings.Cut(sc.Text(), ":")
		f := strings.Fields(rest)
		if !ok || len(f) != 2 || f[1] != "kB" {
			continue
		}
		if n, err := strconv.ParseUint(f[0], 10, 52); err == nil {
			m[name] = ct.Known(int64(n) << 10)
		}
	}
	return m, sc.Err()
}
