package lookalike

import (
	"net"
	"strings"

	"github.com/safchain/ethtool"

	"github.com/ctwarden/ctwarden/ct"
)

// allowances asks the drivers of physical interfaces for the counters with
// which AWS's ENA shows the instance's own limit. Interfaces without a device
// behind them are not asked.
func allowances() []ct.Allowance {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		return nil
	}
	defer e.Close()
	var out []ct.Allowance
	for _, i := range ifs {
		if i.Flags&net.FlagLoopback != 0 || strings.HasPrefix(i.Name, "veth") {
			continue
		}
		stats, err := e.Stats(i.Name)
		if err != nil {
			continue
		}
		if a, ok := allowance(i.Name, stats); ok {
			out = append(out, a)
		}
	}
	return out
}

func allowance(name string, stats map[string]uint64) (ct.Allowance, bool) {
	exceeded, ok := stats["conntrack_allowance_exceeded"]
	if !ok {
		return ct.Allowance{}, false
	}
	a := ct.Allowance{Interface: name, Exceeded: exceeded}
	if n, ok := stats["conntrack_allowance_available"]; ok {
		a.Available = ct.Known(int64(n))
	}
	return a, true
}
