package simtest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// FlowLine prints an entry for scenario files: protocol, state, seconds left,
// both tuples, status, of TCP the scales and flags of both sides, and packets and
// bytes where they are counted.
func FlowLine(f *ct.Flow) string {
	state := f.StateName()
	if state == "" {
		state = "-"
	}
	s := fmt.Sprintf("%s %s %ds %s | %s", f.Orig.Proto, state, f.TimeoutSeconds, f.Orig, f.Reply)
	if st := f.Status &^ ct.StatusConfirmed; st != 0 {
		s += " " + st.String()
	}
	if f.Orig.Proto == ct.TCP {
		s += fmt.Sprintf(" scale=%d/%d flags=%s/%s", f.TCP.WScaleOrig, f.TCP.WScaleReply,
			tcpFlagText(f.TCP.FlagsOrig), tcpFlagText(f.TCP.FlagsReply))
	}
	if f.Fields&ct.HasCounters != 0 {
		s += fmt.Sprintf(" packets=%d/%d bytes=%d/%d", f.OrigCounters.Packets, f.ReplyCounters.Packets,
			f.OrigCounters.Bytes, f.ReplyCounters.Bytes)
	}
	return s
}

// tcpFlagNames are the flags of one side, IP_CT_TCP_FLAG_*.
var tcpFlagNames = [...]string{"ws", "sack", "close", "liberal", "unacked", "maxack", "challenge", "simultaneous"}

func tcpFlagText(flags uint8) string {
	var names []string
	for i, n := range tcpFlagNames {
		if flags&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if names == nil {
		return "-"
	}
	return strings.Join(names, "+")
}

// SplitTimeout takes the seconds out of a line of [FlowLine], -1 if there are
// none.
func SplitTimeout(line string) (seconds int, rest string) {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) < 4 || !strings.HasSuffix(fields[2], "s") {
		return -1, line
	}
	n, err := strconv.Atoi(strings.TrimSuffix(fields[2], "s"))
	if err != nil {
		return -1, line
	}
	return n, fields[0] + " " + fields[1] + " " + fields[3]
}

// Agree reports whether two outcomes in lines agree, timeouts within a second.
// The first line of each is the verdict; the flows may stand in any order, as a
// second more or less moves a line.
func Agree(a, b []string) bool {
	return slices.EqualFunc(byFlow(a), byFlow(b), func(x, y string) bool {
		xt, xs := SplitTimeout(x)
		yt, ys := SplitTimeout(y)
		return xs == ys && xt <= yt+1 && yt <= xt+1
	})
}

func byFlow(lines []string) []string {
	out := slices.Clone(lines)
	if len(out) > 1 {
		slices.SortFunc(out[1:], func(x, y string) int {
			xt, xs := SplitTimeout(x)
			yt, ys := SplitTimeout(y)
			return cmp.Or(cmp.Compare(xs, ys), cmp.Compare(xt, yt))
		})
	}
	return out
}

// VerdictLine prints a packet's fate for scenario files. Refused and lost
// packets are both "dropped": from outside they look alike.
func VerdictLine(r sim.Result) string {
	switch {
	case r.Verdict == sim.Refused || r.Verdict == sim.Lost:
		return "dropped"
	case r.Verdict != sim.Accepted:
		return r.Verdict.String()
	case r.Reply:
		return r.Info.String() + " reply"
	}
	return r.Info.String() + " original"
}

// Lines prints an outcome as scenario files do.
func Lines(r sim.Result, flows []ct.Flow) []string {
	lines := []string{VerdictLine(r)}
	for i := range flows {
		lines = append(lines, FlowLine(&flows[i]))
	}
	slices.Sort(lines[1:])
	return lines
}
