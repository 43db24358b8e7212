package klog

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// record is a message with its fields, from a format that names them.
type record struct {
	prefix
	message   []byte
	transport []byte
	facility  []byte
	rank      int // how good the message's key is
	timeRank  int
	received  int64 // when journald read the message, on the kernel's clock
}

// parseJSON reads one object of structured logging: journalctl -o json, docker,
// rsyslog and fluent-bit templates, GELF. The object may be cut short. Only
// keys at the top are looked at, besides host.name.
func parseJSON(s []byte) (r record, ok bool) {
	jsonFields(s, func(key, value []byte) { r.set(key, value) })
	r.settle()
	return r, r.message != nil
}

// settle judges the fields together.
//
// The journal dates a message when journald reads it, which for the backlog of
// a boot is late: the kernel's own stamp tells by how much. But the kernel's
// clock also drifts from the one it is compared with, in proportion to the
// uptime, and a delay that the drift explains is none.
//
// A kernel message that is not of facility 0 was written to /dev/kmsg by a
// program; without a tag of its own it gets one that no message goes by.
func (r *record) settle() {
	if s := &r.stamp; s.form == formInstant && s.hasMono && r.received > 0 {
		if delay := r.received - s.mono; delay > maxDrift(r.received) {
			s.unix -= delay
		}
	}
	if string(r.transport) == "kernel" && len(r.program) == 0 && len(r.facility) > 0 && string(r.facility) != "0" {
		r.program = []byte("user")
	}
}

// maxDrift is how far the kernel's clock may be from another after an uptime:
// 200 millionths of it, and half a second.
func maxDrift(uptime int64) int64 { return uptime/5000 + int64(time.Second/2) }

// set takes one field. Where several keys can hold a message or a time, the
// one that is listed first wins.
func (r *record) set(key, value []byte) {
	k := string(bytes.ToLower(key))
	switch k {
	case "message", "msg", "short_message", "log", "line", "text":
		if rank := keyRank(k, "message", "msg", "short_message", "log", "line", "text"); r.message == nil || rank < r.rank {
			r.message, r.rank = value, rank
		}
	case "_transport", "transport":
		r.transport = value
	case "_hostname", "hostname", "host", "host.name", "fromhost":
		r.setHost(value)
	case "syslog_identifier", "program", "programname", "app-name", "appname", "app", "ident", "syslogtag", "tag":
		if i := bytes.IndexByte(value, '['); i > 0 {
			value = value[:i]
		}
		r.program = bytes.TrimSuffix(value, []byte(":"))
	case "syslog_facility":
		r.facility = value
	case "_source_monotonic_timestamp":
		if ns, ok := micros(value); ok {
			r.stamp.mono, r.stamp.hasMono = ns, true
		}
	case "__monotonic_timestamp":
		r.received, _ = micros(value)
	case "__realtime_timestamp", "_source_realtime_timestamp", "@timestamp", "timestamp", "time", "ts", "date", "timereported":
		rank := keyRank(k, "_source_realtime_timestamp", "__realtime_timestamp", "@timestamp", "timestamp", "time", "timereported", "ts", "date")
		if s, ok := parseTimeValue(value); ok && (r.stamp.form == formNone || rank < r.timeRank) {
			r.setStamp(s)
			r.timeRank = rank
		}
	}
}

// micros reads a number of microseconds as nanoseconds.
func micros(v []byte) (nanos int64, ok bool) {
	us, err := strconv.ParseInt(string(v), 10, 64)
	return us * 1000, err == nil && us >= 0 && us < 1e15
}

func keyRank(k string, keys ...string) int {
	for i, x := range keys {
		if x == k {
			return i
		}
	}
	return len(keys)
}

// parseTimeValue reads a timestamp in words, or a number of seconds,
// milliseconds, microseconds or nanoseconds since 1970, told by its size.
func parseTimeValue(v []byte) (stamp, bool) {
	c := &cursor{v}
	if s, ok := c.parseStamp(); ok && len(c.s) == 0 && s.form != formNone {
		return s, true
	}
	c = &cursor{v}
	n, ok := c.number(9, 18)
	if !ok {
		return stamp{}, false
	}
	frac := c.fraction()
	if len(c.s) > 0 && c.peek() != 'e' {
		return stamp{}, false
	}
	s := stamp{form: formInstant}
	switch {
	case n < 1e11:
		s.unix = n*1e9 + frac
	case n < 1e14:
		s.unix = n * 1e6
	case n < 1e17:
		s.unix = n * 1e3
	default:
		s.unix = n
	}
	return s, true
}

// jsonFields calls field for every string or number at the top of an object,
// strings without their escapes, and for host.name. It takes what it can get
// of a broken object.
func jsonFields(s []byte, field func(key, value []byte)) {
	var key, parent []byte
	depth, wantKey := 0, false
	for i := 0; i < len(s); {
		switch b := s[i]; b {
		case '{', '[':
			depth++
			if depth > 64 {
				return
			}
			if depth == 2 {
				parent = key
			}
			wantKey = b == '{'
			i++
		case '}', ']':
			depth--
			if depth <= 0 {
				return
			}
			if depth == 1 {
				parent = nil
			}
			i++
		case ',':
			wantKey = depth == 1 || parent != nil
			i++
		case '"':
			value, n := jsonString(s[i:])
			i += n
			if wantKey {
				key, wantKey = value, false
			} else {
				emit(field, depth, parent, key, value)
			}
		case ':', ' ', '\t', '\r', '\n':
			i++
		default:
			n := bytes.IndexAny(s[i:], ",}] \t\r\n")
			if n < 0 {
				n = len(s) - i
			}
			n = max(n, 1)
			if depth == 1 && !wantKey {
				field(key, s[i:i+n])
			}
			i += n
		}
	}
}

func emit(field func(key, value []byte), depth int, parent, key, value []byte) {
	switch {
	case depth == 1:
		field(key, value)
	case depth == 2 && string(parent) == "host" && string(key) == "name":
		field([]byte("host.name"), value)
	}
}

// jsonString reads a string at its opening quote and returns its value and its
// length in s. A string without end reaches to the end of s.
func jsonString(s []byte) (value []byte, n int) {
	escaped := false
	for n = 1; n < len(s) && s[n] != '"'; n++ {
		if s[n] == '\\' {
			escaped = true
			n++
		}
	}
	if n >= len(s) {
		return s[min(1, len(s)):], len(s)
	}
	value = s[1:n]
	n++
	if escaped {
		var u string
		if json.Unmarshal(s[:n], &u) == nil {
			value = []byte(u)
		}
	}
	return value, n
}

// parseFields reads a record of journalctl -o export or verbose: one KEY=value
// a line, in verbose indented under a line that begins with the time.
func parseFields(s []byte) (r record, ok bool) {
	for first := true; len(s) > 0; first = false {
		var line []byte
		line, s, _ = bytes.Cut(s, []byte("\n"))
		line = bytes.Trim(line, " \t\r")
		if first {
			c := &cursor{line}
			if st, ok := c.parseStamp(); ok && c.peek() == '[' {
				r.setStamp(st)
				continue
			}
		}
		if k, v, ok := bytes.Cut(line, []byte("=")); ok {
			r.set(k, v)
		}
	}
	r.settle()
	return r, r.message != nil
}
