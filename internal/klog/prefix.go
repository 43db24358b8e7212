package klog

import "bytes"

// prefix is what stands before the message on a line.
type prefix struct {
	stamp   stamp
	host    []byte
	program []byte // "" where the format names none, as dmesg
}

// parseLine splits a line into prefix and message. It knows RFC 3164 and 5424,
// ISO timestamps, every output of journalctl and dmesg, busybox and OpenWrt,
// raw /dev/kmsg records, and the prefixes that container runtimes, kubectl and
// grep put before those. JSON and multi-line records are not its business.
// ok is false where the line ends before a message begins.
func parseLine(line []byte) (p prefix, message []byte, ok bool) {
	c := &cursor{trimLine(line)}
	for range 3 { // an outer prefix may wrap an inner one
		c.s = bytes.TrimLeft(c.s, " \t>*`'\"|")
		wrapped := c.wrapper(&p)
		if !wrapped {
			break
		}
	}
	c.levels()
	if c.kmsgRecord(&p) {
		return p, c.s, len(c.s) > 0
	}
	if c.rfc5424(&p) {
		c.kernelStamps(&p)
		return p, c.s, len(c.s) > 0
	}
	if s, found := c.parseStamp(); found {
		p.setStamp(s)
	}
	if !c.cri() {
		c.tagged(&p)
	} else if inner, msg, nested := parseLine(c.s); nested {
		inner.inherit(&p)
		return inner, msg, true
	}
	c.kernelStamps(&p)
	return p, c.s, len(c.s) > 0
}

// setStamp keeps what the new stamp knows and the old did not.
func (p *prefix) setStamp(s stamp) {
	if s.hasMono {
		p.stamp.mono, p.stamp.hasMono = s.mono, true
	}
	if s.form != formNone {
		s.mono, s.hasMono = p.stamp.mono, p.stamp.hasMono
		p.stamp = s
	}
}

// inherit fills what an inner prefix lacks from the outer one. An outer time
// with a zone is better than an inner one without.
func (p *prefix) inherit(outer *prefix) {
	if p.stamp.form != formInstant && outer.stamp.form != formNone {
		s := outer.stamp
		s.mono, s.hasMono = p.stamp.mono, p.stamp.hasMono
		p.stamp = s
	}
	if len(p.host) == 0 {
		p.host = outer.host
	}
}

// trimLine cuts what is not text off both ends: line ends, the NULs that a
// crash leaves in a file, a byte order mark; and colours anywhere.
func trimLine(line []byte) []byte {
	if i := bytes.LastIndexByte(bytes.TrimRight(line, "\x00\r\n"), 0); i >= 0 {
		line = line[i+1:]
	}
	line = bytes.Trim(line, "\x00\r\n \t")
	line = bytes.TrimPrefix(line, []byte("\ufeff"))
	if bytes.IndexByte(line, 0x1b) >= 0 {
		line = stripColours(line)
	}
	return line
}

// stripColours removes the escape sequences that dmesg and journalctl write to
// a terminal: ESC [ parameters letter.
func stripColours(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		if line[i] != 0x1b || i+1 >= len(line) || line[i+1] != '[' {
			out = append(out, line[i])
			continue
		}
		i += 2
		for i < len(line) && line[i] >= 0x20 && line[i] < 0x40 {
			i++
		}
	}
	return out
}

// wrapper reads what a tool puts before whole lines: grep's file name and line
// number, kubectl's [pod/NAME/CONTAINER], and the frame length of RFC 6587.
func (c *cursor) wrapper(p *prefix) bool {
	start := *c
	if c.literal("[pod/") {
		if i := bytes.IndexByte(c.s, ']'); i > 0 && i < 300 {
			c.s = bytes.TrimLeft(c.s[i+1:], " ")
			return true
		}
	}
	*c = start
	if _, ok := c.number(1, 6); ok && c.literal(" ") && c.peek() == '<' {
		return true
	}
	*c = start
	i := bytes.IndexByte(c.s, ':')
	if i > 0 && i < 300 && looksLikePath(c.s[:i]) {
		c.s = c.s[i+1:]
		inner := *c
		if _, ok := c.number(1, 12); !ok || !c.literal(":") {
			*c = inner
		}
		return true
	}
	return false
}

func looksLikePath(s []byte) bool {
	return (s[0] == '/' || bytes.Contains(s, []byte(".log")) ||
		bytes.HasPrefix(s, []byte("messages")) || bytes.HasPrefix(s, []byte("syslog"))) &&
		!bytes.ContainsAny(s, " \t<>[]\"'")
}

// levels reads "<4>" and dmesg --decode's "kern  :warn  : ".
func (c *cursor) levels() {
	start := *c
	if c.literal("<") {
		if _, ok := c.number(1, 3); !ok || !c.literal(">") {
			*c = start
		}
		return
	}
	if i := bytes.IndexByte(c.s, ':'); i > 0 && i <= 8 {
		rest := c.s[i+1:]
		if j := bytes.IndexByte(rest, ':'); j > 0 && j <= 7 && isDmesgFacility(c.s[:i]) {
			c.s = bytes.TrimLeft(rest[j+1:], " ")
		}
	}
}

func isDmesgFacility(s []byte) bool {
	switch string(bytes.TrimRight(s, " ")) {
	case "kern", "user", "daemon", "syslog":
		return true
	}
	return false
}

// kmsgRecord reads "4,1234,123456789,-;", the prefix of /dev/kmsg, and cuts
// the dictionary lines that may follow the message. The first number is
// facility * 8 + level; only the kernel writes facility 0.
func (c *cursor) kmsgRecord(p *prefix) bool {
	start := *c
	priority, ok1 := c.number(1, 4)
	ok2 := c.literal(",")
	_, ok3 := c.number(1, 18)
	ok4 := c.literal(",")
	us, ok5 := c.number(1, 15)
	i := bytes.IndexByte(c.s, ';')
	if !(ok1 && ok2 && ok3 && ok4 && ok5) || c.peek() != ',' || i < 0 || i > 64 {
		*c = start
		return false
	}
	c.s = c.s[i+1:]
	if i := bytes.IndexByte(c.s, '\n'); i >= 0 {
		c.s = c.s[:i]
	}
	p.setStamp(stamp{mono: us * 1000, hasMono: true})
	if priority >= 8 {
		p.program = []byte("user")
		c.tagged(p)
	}
	return true
}

// rfc5424 reads "1 2025-11-22T10:00:00Z host kernel - - [data] " after the
// priority, with or without structured data and byte order mark.
func (c *cursor) rfc5424(p *prefix) bool {
	start := *c
	if !c.literal("1 ") {
		return false
	}
	s, timed := c.parseStamp()
	if !timed && !c.literal("- ") {
		*c = start
		return false
	}
	host, app, proc, id := c.word(), c.word(), c.word(), c.word()
	if host == nil || app == nil || proc == nil || id == nil || !c.structuredData() {
		*c = start
		return false
	}
	p.setStamp(s)
	p.setHost(host)
	p.program = bytes.TrimSuffix(app, []byte(":"))
	c.literal("\ufeff")
	c.blanks()
	// rsyslog repeats the tag for messages that were RFC 3164 before.
	if c.literal("kernel:") {
		c.blanks()
	}
	return true
}

// structuredData reads "-" or any number of "[id name=\"value\"]".
func (c *cursor) structuredData() bool {
	if c.literal("-") {
		c.blanks()
		return true
	}
	elements := 0
	for c.peek() == '[' {
		if s := (&cursor{c.s}); elements > 0 && s.bracketed(&stamp{}) {
			break // the kernel's stamp, not data
		}
		end, quoted := -1, false
		for i := 1; i < len(c.s) && end < 0; i++ {
			switch {
			case c.s[i] == '\\' && quoted:
				i++
			case c.s[i] == '"':
				quoted = !quoted
			case c.s[i] == ']' && !quoted:
				end = i
			}
		}
		if end < 0 {
			return false
		}
		c.s = c.s[end+1:]
		elements++
	}
	c.blanks()
	return elements > 0
}

// cri reads "stdout F ", which containerd and CRI-O put between time and line.
func (c *cursor) cri() bool {
	start := *c
	if (c.literal("stdout ") || c.literal("stderr ")) && c.oneOf("FP") && c.literal(" ") {
		return true
	}
	*c = start
	return false
}

// tagged reads host, busybox's facility.level and the program's tag, as far as
// they are there. Without a tag it leaves the line as it stands.
func (c *cursor) tagged(p *prefix) {
	start := *c
	var host []byte
	for range 3 {
		if tag, ok := c.tag(); ok {
			p.program = tag
			p.setHost(host)
			return
		}
		w := c.word()
		switch {
		case w == nil || bytes.ContainsAny(w, ":\"'()[]{}=;,") && !isAddress(w):
			*c = start
			return
		case isFacilityLevel(w):
		case host == nil:
			host = w
		default:
			*c = start
			return
		}
	}
	*c = start
}

// tag reads "kernel:" or "sshd[123]:". The conntrack messages themselves begin
// with what looks like a tag; those stay.
func (c *cursor) tag() ([]byte, bool) {
	i := bytes.IndexAny(c.s, ": \t")
	if i <= 0 || c.s[i] != ':' || i > 64 {
		return nil, false
	}
	name := c.s[:i]
	if j := bytes.IndexByte(name, '['); j > 0 && name[i-1] == ']' {
		name = name[:j]
	}
	after := &cursor{c.s[i+1:]}
	spaced := after.blanks()
	if !spaced && string(name) != "kernel" || isMessageTag(name) || (&cursor{after.s}).isCount() {
		return nil, false
	}
	c.s = after.s
	return name, true
}

// isCount recognises the rest of "FUNC: 12 callbacks suppressed".
func (c *cursor) isCount() bool {
	_, ok := c.number(1, 10)
	return ok && c.literal(" callbacks")
}

func isMessageTag(name []byte) bool {
	switch string(name) {
	case "nf_conntrack", "ip_conntrack", "net_ratelimit", "__ratelimit", "printk",
		"TCP", "neighbour", "ipv4", "ipv6", "sysctl":
		return true
	}
	return bytes.HasPrefix(name, []byte("nf_ct_"))
}

// isFacilityLevel recognises "kern.warn".
func isFacilityLevel(w []byte) bool {
	f, l, ok := bytes.Cut(w, []byte("."))
	if !ok {
		return false
	}
	switch string(f) {
	case "kern", "user", "daemon", "syslog", "local0", "local7":
	default:
		return false
	}
	switch string(l) {
	case "emerg", "alert", "crit", "err", "error", "warn", "warning", "notice", "info", "debug":
		return true
	}
	return false
}

// isAddress lets IPv6 addresses pass as hosts.
func isAddress(w []byte) bool {
	return bytes.Count(w, []byte(":")) >= 2 && bytes.Trim(w, "0123456789abcdefABCDEF:.%") == nil
}

func (p *prefix) setHost(h []byte) {
	if len(h) > 0 && string(h) != "-" {
		p.host = h
	}
}

// kernelStamps reads the kernel's own stamps after the tag: "[   12.345678]"
// and the caller, "[    C0]" or "[ T1234]".
func (c *cursor) kernelStamps(p *prefix) {
	for c.peek() == '[' {
		start := *c
		if s, ok := c.parseStamp(); ok {
			p.setStamp(s)
			continue
		}
		c.literal("[")
		c.blanks()
		_, ok := int64(0), c.oneOf("CT")
		if ok {
			_, ok = c.number(1, 10)
		}
		if !ok || !c.literal("]") {
			*c = start
			return
		}
		c.blanks()
	}
	c.levelMark()
}

// levelMark skips a level that printk left in the text, "<4>".
func (c *cursor) levelMark() {
	start := *c
	if c.literal("<") {
		if _, ok := c.number(1, 1); !ok || !c.literal(">") {
			*c = start
		}
	}
}
