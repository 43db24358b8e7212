// Package pulse reads the few totals by which one sees at once that a machine
// does worse: invalid packets, resets, refusals, memory.
package pulse

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// Pulse holds running totals of the calling thread's namespace, and memory.
type Pulse struct {
	Invalid, Refused, Resets   uint64
	AvailableBytes, TotalBytes int64
}

// Read takes the pulse.
func Read() (Pulse, error) {
	var p Pulse
	st, err := procfs.FS{}.ConntrackStat()
	if err != nil {
		return p, err
	}
	sum := st.Sum()
	p.Invalid, p.Refused = uint64(sum.Invalid), uint64(sum.Drop)
	total, available, err := procfs.FS{}.Meminfo()
	if err != nil {
		return p, err
	}
	p.TotalBytes, p.AvailableBytes = total.Or(0), available.Or(0)
	f, err := os.Open("/proc/thread-self/net/snmp")
	if err != nil {
		return p, err
	}
	defer f.Close()
	p.Resets, err = ParseResets(io.LimitReader(f, 64<<10))
	return p, err
}

// ParseResets adds OutRsts and EstabResets of the Tcp lines in /proc/net/snmp:
// resets sent, and connections that were reset.
func ParseResets(r io.Reader) (uint64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		return sumOf(names, f, "OutRsts", "EstabResets")
	}
	return 0, errors.New("no TCP totals in /proc/net/snmp")
}

func sumOf(names, values []string, want ...string) (uint64, error) {
	var sum uint64
	for i, n := range names[:min(len(names), len(values))] {
		for _, w := range want {
			if n != w {
				continue
			}
			v, err := strconv.ParseUint(values[i], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("total %s: %w", n, err)
			}
			sum += v
		}
	}
	return sum, nil
}
