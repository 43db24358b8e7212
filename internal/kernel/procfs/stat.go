package procfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// ErrNoHeader is the error of a statistics file without a line of names.
var ErrNoHeader = errors.New("no header of column names")

// Stat is /proc/net/stat/nf_conntrack.
type Stat struct {
	// Entries is the count of the namespace; every line repeats it.
	Entries ct.Value
	// PerCPU has one element for each possible CPU.
	PerCPU []ct.Counters
}

// Sum adds up the CPUs.
func (s Stat) Sum() ct.Counters {
	var c ct.Counters
	for _, o := range s.PerCPU {
		c.Add(o)
	}
	return c
}

// ConntrackStat reads the counters of the namespace. They need no rights.
func (f FS) ConntrackStat() (Stat, error) {
	st, err := openNet(f, "stat/nf_conntrack", "the tracking counters", ParseStat)
	if err == nil || exists(f.net("stat/nf_conntrack")) {
		return st, err
	}
	if old, oldErr := openNet(f, "stat/ip_conntrack", "the tracking counters", ParseStat); oldErr == nil {
		return old, nil
	}
	return st, err
}

// maxCPUs bounds the lines taken; the kernel's NR_CPUS is at most 8192.
const maxCPUs = 16384

// ParseStat reads counters by the names of the header line: their set and
// their order differ between kernels. Values are hexadecimal, 32 bits, and
// wrap. Unknown columns are passed over; a line cut short gives the columns
// that it has.
func ParseStat(r io.Reader) (Stat, error) {
	var st Stat
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes*4))
	if !sc.Scan() {
		return st, errors.Join(ErrNoHeader, sc.Err())
	}
	columns := strings.Fields(sc.Text())
	if len(columns) == 0 || columns[0] != "entries" {
		return st, ErrNoHeader
	}
	for sc.Scan() && len(st.PerCPU) < maxCPUs {
		fields := strings.Fields(sc.Text())
		if len(fields) == 0 {
			continue
		}
		var c ct.Counters
		for i, f := range fields[:min(len(fields), len(columns))] {
			n, err := strconv.ParseUint(f, 16, 32)
			if err != nil {
				return st, fmt.Errorf("line %d, column %s: %q is not a hexadecimal number of 32 bits",
					len(st.PerCPU)+2, columns[i], clip(f))
			}
			if columns[i] == "entries" {
				st.Entries = ct.Known(int64(n))
				continue
			}
			c.SetByName(columns[i], uint32(n))
		}
		st.PerCPU = append(st.PerCPU, c)
	}
	return st, sc.Err()
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
