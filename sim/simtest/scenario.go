package simtest

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Scenario is a file of cases: conversations between two hosts each, and the
// expected outcome of every step. Lines that begin with # are comments. The
// settings come first and hold for all cases:
//
//	ipv6
//	nat
//	timeout tcp_timeout_close=2 udp_timeout=3
//	knob loose=0 liberal=1 max_retrans=2 checksum=0 ignore_invalid_rst=1
//
// A case begins with "== NAME". A step is "> PACKET" from the client or
// "< PACKET" from the server, or "wait 2.5s"; what is expected follows, indented
// by a tab: the verdict, then a line for each entry.
//
// The cases run side by side, step by step, so all wait where one does.
type Scenario struct {
	V6, NAT  bool
	Timeouts map[ct.TimeoutKey]int32
	Knobs    sim.Knobs
	Cases    []Case

	lines []string // the file without what is expected
}

// Case is one conversation of a scenario.
type Case struct {
	Name     string
	Sequence Sequence
	Want     [][]string // the expected lines of each step
	stepAt   []int      // the line of each step
}

// ParseScenario reads a scenario. Errors name the line.
func ParseScenario(r io.Reader) (*Scenario, error) {
	s := &Scenario{Knobs: sim.DefaultKnobs(), Timeouts: map[ct.TimeoutKey]int32{}}
	sc := bufio.NewScanner(r)
	wait := time.Duration(0)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		var err error
		if outcome, ok := strings.CutPrefix(line, "\t"); ok {
			err = s.outcome(outcome)
		} else {
			s.lines = append(s.lines, line)
			err = s.line(strings.TrimSpace(line), &wait)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	for i := range s.Cases {
		s.Cases[i].Sequence.V6 = s.V6
	}
	return s, sc.Err()
}

func (s *Scenario) last() *Case {
	if len(s.Cases) == 0 {
		s.Cases = append(s.Cases, Case{})
	}
	return &s.Cases[len(s.Cases)-1]
}

func (s *Scenario) outcome(line string) error {
	c := s.last()
	if len(c.Want) == 0 {
		return errors.New("an outcome before the first step")
	}
	c.Want[len(c.Want)-1] = append(c.Want[len(c.Want)-1], line)
	return nil
}

func (s *Scenario) line(line string, wait *time.Duration) error {
	fields := strings.Fields(line)
	if len(fields) == 0 || strings.HasPrefix(line, "#") {
		return nil
	}
	switch fields[0] {
	case "ipv6":
		s.V6 = true
	case "nat":
		s.NAT = true
	case "timeout":
		return s.timeouts(fields[1:])
	case "knob":
		return s.knobs(fields[1:])
	case "==":
		s.Cases = append(s.Cases, Case{Name: strings.Join(fields[1:], " ")})
	case "wait":
		if len(fields) != 2 {
			return errors.New("wait needs one duration")
		}
		d, err := time.ParseDuration(fields[1])
		*wait = d
		return err
	case ">", "<":
		st, err := parseStep(fields)
		if err != nil {
			return err
		}
		st.Wait, *wait = *wait, 0
		c := s.last()
		c.Sequence.Steps = append(c.Sequence.Steps, st)
		c.Want = append(c.Want, nil)
		c.stepAt = append(c.stepAt, len(s.lines)-1)
	default:
		return fmt.Errorf("%q is neither a setting nor a step", fields[0])
	}
	return nil
}

func (s *Scenario) timeouts(fields []string) error {
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		k, ok := ct.ParseTimeoutKey(name)
		v, err := strconv.ParseInt(value, 10, 32)
		if !ok || err != nil {
			return fmt.Errorf("%q is no timeout", f)
		}
		s.Timeouts[k] = int32(v)
	}
	return nil
}

func (s *Scenario) knobs(fields []string) error {
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		v, err := strconv.ParseUint(value, 10, 8)
		if err != nil {
			return fmt.Errorf("%q is no knob", f)
		}
		k := &s.Knobs
		switch name {
		case "loose":
			k.TCPLoose = v != 0
		case "liberal":
			k.TCPBeLiberal = v != 0
		case "ignore_invalid_rst":
			k.TCPIgnoreInvalidRST = v != 0
		case "checksum":
			k.Checksum = v != 0
		case "max_retrans":
			k.TCPMaxRetrans = uint8(v)
		default:
			return fmt.Errorf("%q is no knob", f)
		}
	}
	return nil
}

// With returns the file's text with other outcomes, by case and step. A line
// whose timeout is off by a second only stays as it was.
func (s *Scenario) With(outcomes [][][]string) string {
	at := map[int][]string{}
	for i := range s.Cases {
		c := &s.Cases[i]
		for step, line := range c.stepAt {
			at[line] = outcomes[i][step]
			if Agree(c.Want[step], outcomes[i][step]) {
				at[line] = c.Want[step]
			}
		}
	}
	var b strings.Builder
	for i, line := range s.lines {
		b.WriteString(line + "\n")
		for _, o := range at[i] {
			b.WriteString("\t" + o + "\n")
		}
	}
	return b.String()
}

// parseStep reads "> tcp S seq=1 win=1000" and the like.
func parseStep(fields []string) (st Step, err error) {
	if len(fields) < 2 {
		return st, fmt.Errorf("a step needs a protocol")
	}
	st.Reply = fields[0] == "<"
	p, ok := ct.ParseProto(fields[1])
	if !ok {
		return st, fmt.Errorf("unknown protocol %q", fields[1])
	}
	st.P.Tuple.Proto = p
	st.P.TCP.Window = 1000
	if p == ct.ICMPv6 {
		st.P.Tuple.ICMPType = 128
	} else if p == ct.ICMP {
		st.P.Tuple.ICMPType = 8
	}
	rest := fields[2:]
	if p == ct.TCP {
		if len(rest) == 0 {
			return st, fmt.Errorf("a TCP segment needs flags")
		}
		if st.P.TCP.Flags, err = parseFlags(rest[0]); err != nil {
			return st, err
		}
		rest = rest[1:]
	}
	for _, f := range rest {
		if err := st.field(f); err != nil {
			return st, err
		}
	}
	return st, nil
}

func parseFlags(s string) (flags uint8, err error) {
	if s == "." {
		return 0, nil
	}
	for _, c := range s {
		i := strings.IndexRune(flagLetters, c)
		if i < 0 {
			return 0, fmt.Errorf("TCP flags %q hold other letters than %s", s, flagLetters)
		}
		flags |= 1 << i
	}
	return flags, nil
}

func (st *Step) field(f string) error {
	name, value, _ := strings.Cut(f, "=")
	for i, d := range defectNames {
		if d == name && d != "" {
			st.Defect = Defect(i)
			return nil
		}
	}
	switch name {
	case "sackok":
		st.Options = append(st.Options, 1, 1, 4, 2)
		return nil
	case "ts":
		st.Options = append(st.Options, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0)
		return nil
	case "opt":
		b, err := hex.DecodeString(value)
		st.Options = append(st.Options, b...)
		return err
	case "chunk":
		return st.chunk(value)
	case "about":
		return st.about(value)
	}
	v, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return fmt.Errorf("%q: %w", f, err)
	}
	switch name {
	case "seq":
		st.P.TCP.Seq, st.P.DCCP.Seq = uint32(v), uint64(v)
	case "ack":
		st.P.TCP.Ack, st.P.DCCP.Ack = uint32(v), uint64(v)
	case "win":
		st.P.TCP.Window = uint16(v)
	case "len":
		st.P.TCP.PayloadLen = uint32(v)
	case "ws":
		st.Options = append(st.Options, 1, 3, 3, byte(v))
	case "sack":
		e := uint32(v)
		st.Options = append(st.Options, 1, 1, 5, 10, 0, 0, 0, 0, byte(e>>24), byte(e>>16), byte(e>>8), byte(e))
	case "type":
		st.P.Tuple.ICMPType, st.P.DCCP.Type = uint8(v), uint8(v)
	case "code":
		st.P.Tuple.ICMPCode = uint8(v)
	case "call":
		st.P.Tuple.DstPort = uint16(v)
	case "vtag":
		st.P.SCTP.VTag = uint32(v)
	case "alt":
		st.Alt = uint8(v)
	default:
		return fmt.Errorf("unknown field %q", f)
	}
	return nil
}

func (st *Step) about(value string) error {
	what, proto, _ := strings.Cut(value, "/")
	p, ok := ct.ParseProto(proto)
	if !ok {
		return fmt.Errorf("about=%s names no protocol", value)
	}
	st.InnerProto = p
	for i, n := range aboutNames {
		if n == what {
			st.About = About(i)
			return nil
		}
	}
	return fmt.Errorf("about=%s: have own, other and stray", value)
}

// sctpNames are the chunk types by name.
var sctpNames = map[string]uint8{
	"data": 0, "init": 1, "init_ack": 2, "sack": 3, "heartbeat": 4, "heartbeat_ack": 5,
	"abort": 6, "shutdown": 7, "shutdown_ack": 8, "error": 9, "cookie_echo": 10,
	"cookie_ack": 11, "shutdown_complete": 14,
}

// chunk reads NAME or NUMBER, then :TAG, /T and /empty.
func (st *Step) chunk(value string) error {
	parts := strings.Split(value, "/")
	name, tag, _ := strings.Cut(parts[0], ":")
	typ, ok := sctpNames[name]
	if !ok {
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return fmt.Errorf("unknown chunk %q", name)
		}
		typ = uint8(n)
	}
	c := sim.SCTPChunk{Type: typ, Length: 4}
	switch typ {
	case 1, 2:
		c.Length = 20
	case 0:
		c.Length = 20
	}
	if tag != "" {
		v, err := strconv.ParseUint(tag, 10, 32)
		if err != nil {
			return fmt.Errorf("chunk %q: %w", value, err)
		}
		c.InitTag = uint32(v)
	}
	for _, p := range parts[1:] {
		switch p {
		case "T":
			c.Flags = 1
		case "empty":
			c.Length = 0
		default:
			return fmt.Errorf("chunk %q: have /T and /empty", value)
		}
	}
	st.P.SCTP.Chunks = append(st.P.SCTP.Chunks, c)
	return nil
}
