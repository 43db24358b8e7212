package lab

import (
	"strconv"
	"strings"
)

// ConntrackStats returns the counters of the host's table by name, summed over
// the CPUs, as conntrack -S prints them: a reader of the kernel's numbers that
// shares no code with ctwarden.
func (h *Host) ConntrackStats() map[string]int {
	h.t.Helper()
	total := make(map[string]int)
	for field := range strings.FieldsSeq(h.Exec("conntrack", "-S")) {
		name, value, ok := strings.Cut(field, "=")
		if !ok || name == "cpu" {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			h.t.Fatalf("lab: conntrack -S in %s: %v", h.Name, err)
		}
		total[name] += n
	}
	return total
}

// ConntrackList returns the lines of conntrack -L with the arguments given, an
// entry each, for both families unless the arguments name one.
func (h *Host) ConntrackList(args ...string) []string {
	h.t.Helper()
	var list []string
	for line := range strings.Lines(h.Exec("conntrack", append([]string{"-L"}, args...)...)) {
		list = append(list, strings.TrimSuffix(line, "\n"))
	}
	return list
}
