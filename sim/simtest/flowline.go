package simtest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// FlowLine prints an entry for scenario files: protocol, state, seconds left,
// both tuples, status, and of TCP the scales and flags of both sides.
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
