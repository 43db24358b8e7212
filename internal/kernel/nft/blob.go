package nft

import "fmt"

// blob is a table of legacy iptables as the kernel hands it out: struct
// ipt_entry or ip6t_entry one after the other, each with its matches and its
// target behind it.
type blob struct {
	validHooks           uint32
	hookEntry, underflow [hooks]uint32
	entries              []byte
}

// layout is where the fields of an entry are.
type layout struct {
	program            string
	offsets, elems     int // of target_offset and next_offset; of the first match
	matchHead, nameMax int
}

var (
	layout4 = layout{"iptables", 88, 112, 32, 29}
	layout6 = layout{"ip6tables", 140, 168, 32, 29}
)

var hookNames = [hooks]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// walk notes what the entries mean. An entry that does not hold together ends
// it with ErrMalformed.
func (b *blob) walk(family uint8, table string, c *collector) error {
	l := &layout4
	if family == family6 {
		l = &layout6
	}
	chain, in := "", seat{}
	for at := 0; at < len(b.entries); {
		e := b.entries[at:]
		if len(e) < l.elems {
			return fmt.Errorf("%w: entry of %d bytes", ErrMalformed, len(e))
		}
		target, next := int(host.Uint16(e[l.offsets:])), int(host.Uint16(e[l.offsets+2:]))
		if target < l.elems || next < target+l.matchHead || next > len(e) {
			return fmt.Errorf("%w: entry with target at %d and end at %d", ErrMalformed, target, next)
		}
		if hook, ok := b.hookAt(uint32(at)); ok {
			chain, in = hookNames[hook], seatOf(table, hook)
		}
		where := l.program + " " + table + " " + chain
		if err := l.matches(e[l.elems:target], where, c); err != nil {
			return err
		}
		name, data := l.element(e[target:next])
		switch name {
		case "":
			b.standard(uint32(at), data, c)
		case "ERROR": // heads a chain of the user, and ends the table
			chain, in = cString(data), seat{}
		default:
			c.xtTarget(where, name, data)
		}
		if in.known {
			t := l.terms(family, e[:next], target, uint32(at))
			c.advise(where, in.base, t, in.passed)
			in.passed = in.passed || t.end == leaves
		}
		at += next
	}
	return nil
}

// hookAt returns the built-in chain that begins at an offset.
func (b *blob) hookAt(at uint32) (int, bool) {
	for i := range hooks {
		if b.validHooks&(1<<i) != 0 && b.hookEntry[i] == at {
			return i, true
		}
	}
	return 0, false
}

// standard notes a verdict: the policy of a built-in chain, or a rule's.
func (b *blob) standard(at uint32, data []byte, c *collector) {
	const drop = -1 // -NF_DROP - 1
	if len(data) < 4 || int32(host.Uint32(data)) != drop {
		return
	}
	for i := range hooks {
		if b.validHooks&(1<<i) != 0 && b.underflow[i] == at {
			c.rules.PolicyDrop = true
			return
		}
	}
	c.rules.Drops = true
}

func (l *layout) matches(m []byte, where string, c *collector) error {
	for len(m) > 0 {
		if len(m) < l.matchHead {
			return fmt.Errorf("%w: match of %d bytes", ErrMalformed, len(m))
		}
		n := int(host.Uint16(m))
		if n < l.matchHead || n > len(m) {
			return fmt.Errorf("%w: match of %d bytes in %d", ErrMalformed, n, len(m))
		}
		name, _ := l.element(m[:n])
		c.xtMatch(where, name)
		m = m[n:]
	}
	return nil
}

// element takes struct xt_entry_match or xt_entry_target apart: size, name,
// revision, data.
func (l *layout) element(e []byte) (name string, data []byte) {
	return cString(e[2 : 2+l.nameMax]), e[l.matchHead:]
}
