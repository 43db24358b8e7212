package simtest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Simpler returns sequences that are simpler than s by one change each, the
// simplest first: without some steps, over IPv4, with plainer packets.
func Simpler(s *Sequence) []*Sequence {
	var list []*Sequence
	n := len(s.Steps)
	for cut := n / 2; cut >= 1; cut /= 2 {
		for at := n - cut; at >= 0; at -= cut {
			c := s.Clone()
			c.Steps = append(c.Steps[:at:at], c.Steps[at+cut:]...)
			if len(c.Steps) > 0 {
				list = append(list, c)
			}
		}
	}
	if s.V6 && !usesICMP(s) {
		c := s.Clone()
		c.V6 = false
		list = append(list, c)
	}
	for i := range s.Steps {
		for _, change := range plainer {
			c := s.Clone()
			st := &c.Steps[i]
			before := fmt.Sprint(*st)
			change(st)
			if fmt.Sprint(*st) != before {
				list = append(list, c)
			}
		}
	}
	return list
}

func usesICMP(s *Sequence) bool {
	for i := range s.Steps {
		if s.Steps[i].P.Tuple.Proto.IsICMP() {
			return true
		}
	}
	return false
}

var plainer = []func(*Step){
	func(st *Step) { st.Wait = 0 },
	func(st *Step) { st.Options = nil },
	func(st *Step) { st.Defect = NoDefect },
	func(st *Step) { st.P.TCP.PayloadLen = 0 },
	func(st *Step) { st.P.TCP.Flags &^= sim.TCPPsh | sim.TCPUrg | sim.TCPEce | sim.TCPCwr },
	func(st *Step) { st.P.TCP.Window = 1000 },
	func(st *Step) {
		if len(st.P.SCTP.Chunks) > 1 {
			st.P.SCTP.Chunks = st.P.SCTP.Chunks[:1]
		}
	},
}

// String prints the sequence, a step a line.
func (s *Sequence) String() string {
	var b strings.Builder
	if s.V6 {
		b.WriteString("IPv6\n")
	}
	for i := range s.Steps {
		fmt.Fprintf(&b, "%2d %s\n", i+1, s.Steps[i].String())
	}
	return b.String()
}

var defectNames = [...]string{"", "bad-checksum", "truncated", "no-checksum", "bad-length"}

// String prints a step as scenario files do.
func (st *Step) String() string {
	var b strings.Builder
	b.WriteByte(">"[0])
	if st.Reply {
		b.Reset()
		b.WriteByte('<')
	}
	p := &st.P
	fmt.Fprintf(&b, " %s", p.Tuple.Proto)
	switch p.Tuple.Proto {
	case ct.TCP:
		fmt.Fprintf(&b, " %s seq=%d", flagText(p.TCP.Flags), p.TCP.Seq)
		if p.TCP.Flags&sim.TCPAck != 0 || p.TCP.Ack != 0 {
			fmt.Fprintf(&b, " ack=%d", p.TCP.Ack)
		}
		fmt.Fprintf(&b, " win=%d", p.TCP.Window)
		if p.TCP.PayloadLen > 0 {
			fmt.Fprintf(&b, " len=%d", p.TCP.PayloadLen)
		}
		if len(st.Options) > 0 {
			fmt.Fprintf(&b, " opt=%x", st.Options)
		}
	case ct.ICMP, ct.ICMPv6:
		fmt.Fprintf(&b, " type=%d code=%d", p.Tuple.ICMPType, p.Tuple.ICMPCode)
		if st.About != AboutNothing {
			fmt.Fprintf(&b, " about=%s/%s", aboutNames[st.About], st.InnerProto)
		}
	case ct.GRE:
		if p.Tuple.DstPort != 0 {
			fmt.Fprintf(&b, " call=%d", p.Tuple.DstPort)
		}
	case ct.SCTP:
		fmt.Fprintf(&b, " vtag=%d", p.SCTP.VTag)
		for i := range p.SCTP.Chunks {
			c := &p.SCTP.Chunks[i]
			fmt.Fprintf(&b, " chunk=%s", chunkText(c))
		}
	case ct.DCCP:
		fmt.Fprintf(&b, " type=%d seq=%d ack=%d", p.DCCP.Type, p.DCCP.Seq, p.DCCP.Ack)
	}
	if st.Alt != 0 {
		fmt.Fprintf(&b, " alt=%d", st.Alt)
	}
	if st.Defect != NoDefect {
		fmt.Fprintf(&b, " %s", defectNames[st.Defect])
	}
	return b.String()
}

var aboutNames = [...]string{"nothing", "own", "other", "stray"}

const flagLetters = "FSRPAUEC"

// flagText prints TCP flags by their first letters; none is ".".
func flagText(flags uint8) string {
	s := ""
	for i := range 8 {
		if flags&(1<<i) != 0 {
			s += flagLetters[i : i+1]
		}
	}
	if s == "" {
		return "."
	}
	return s
}

func chunkText(c *sim.SCTPChunk) string {
	s := strconv.Itoa(int(c.Type))
	for name, typ := range sctpNames {
		if typ == c.Type {
			s = name
		}
	}
	if c.Type == 1 || c.Type == 2 {
		s += fmt.Sprintf(":%d", c.InitTag)
	}
	if c.Flags != 0 {
		s += "/T"
	}
	if c.Length == 0 {
		s += "/empty"
	}
	return s
}
