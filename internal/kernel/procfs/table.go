package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// ErrStop, returned by a callback, ends the reading early and without error.
var ErrStop = errors.New("stop")

// Table reads the entries from /proc/net/nf_conntrack, which is root's, and
// calls fn with each until it returns an error. It serves where ctnetlink is
// not loaded; ids and several status bits are not in it. The flow is
// overwritten by the next entry. A line that makes no sense is an error.
func (f FS) Table(fn func(*ct.Flow) error) error {
	file, err := os.Open(f.net("nf_conntrack"))
	if errors.Is(err, fs.ErrNotExist) {
		var oldErr error
		if file, oldErr = os.Open(f.net("ip_conntrack")); oldErr == nil {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	defer file.Close()
	if err := ParseTable(file, fn); err != nil {
		return fmt.Errorf("read the table from %s: %w", file.Name(), err)
	}
	return nil
}

// maxEntryBytes bounds one line; real ones have below 400 bytes without a
// security context.
const maxEntryBytes = 16 << 10

// ParseTable reads entries in the format of /proc/net/nf_conntrack, and of the
// older /proc/net/ip_conntrack that lacks the first two columns.
func ParseTable(r io.Reader, fn func(*ct.Flow) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxEntryBytes)
	var f ct.Flow
	for line := 1; sc.Scan(); line++ {
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		f = ct.Flow{}
		if err := parseEntry(sc.Bytes(), &f); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if err := fn(&f); errors.Is(err, ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return sc.Err()
}

var errNoEntry = errors.New("not an entry of the table")

func parseEntry(line []byte, f *ct.Flow) error {
	f.Status = ct.StatusConfirmed | ct.StatusSeenReply
	f.Fields = ct.HasMark | ct.HasZone
	rest, ok := entryHead(line, f)
	if !ok {
		return errNoEntry
	}
	tuple := &f.Orig
	for word := range bytes.FieldsSeq(rest) {
		name, value, pair := bytes.Cut(word, []byte{'='})
		switch {
		case !pair:
			entryWord(word, f)
		case string(name) == "src" && tuple.Src.IsValid():
			tuple = &f.Reply
			fallthrough
		default:
			if !entryPair(string(name), string(value), f, tuple) {
				return errNoEntry
			}
		}
	}
	if !f.Orig.IsValid() || !f.Reply.IsValid() {
		return errNoEntry
	}
	return nil
}

// entryHead reads what stands before the tuples: family, protocol, seconds.
func entryHead(line []byte, f *ct.Flow) (rest []byte, ok bool) {
	word, rest := nextWord(line)
	if s := string(word); s == "ipv4" || s == "ipv6" {
		_, rest = nextWord(rest) // the family's number
		_, rest = nextWord(rest) // the protocol's name
	}
	word, rest = nextWord(rest)
	proto, err := strconv.ParseUint(string(word), 10, 8)
	if err != nil {
		return nil, false
	}
	f.Orig.Proto, f.Reply.Proto = ct.Proto(proto), ct.Proto(proto)
	word, after := nextWord(rest)
	if sec, err := strconv.ParseUint(string(word), 10, 32); err == nil {
		f.TimeoutSeconds = uint32(sec)
		f.Fields |= ct.HasTimeout
		rest = after
	}
	return rest, true
}

func nextWord(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " ")
	word, rest, _ = bytes.Cut(b, []byte{' '})
	return word, rest
}

// entryWord reads a word that is not a pair: a state, or a flag in brackets.
func entryWord(word []byte, f *ct.Flow) {
	switch string(word) {
	case "[UNREPLIED]":
		f.Status &^= ct.StatusSeenReply
	case "[ASSURED]":
		f.Status |= ct.StatusAssured
	case "[OFFLOAD]":
		f.Status |= ct.StatusOffload
	case "[HW_OFFLOAD]":
		f.Status |= ct.StatusHWOffload
	default:
		if s, ok := ct.ParseState(f.Orig.Proto, string(word)); ok {
			f.State = s
			f.Fields |= ct.HasProtoInfo
		}
	}
}

// entryPair reads name=value into the flow or the tuple at hand. It reports
// whether what it knows made sense; unknown names are passed over.
func entryPair(name, value string, f *ct.Flow, t *ct.Tuple) bool {
	var err error
	switch name {
	case "src":
		t.Src, err = netip.ParseAddr(value)
	case "dst":
		t.Dst, err = netip.ParseAddr(value)
	case "sport", "srckey":
		t.SrcPort, err = number[uint16](value)
	case "dport", "dstkey":
		t.DstPort, err = number[uint16](value)
	case "type":
		t.ICMPType, err = number[uint8](value)
	case "code":
		t.ICMPCode, err = number[uint8](value)
	case "id":
		t.ICMPID, err = number[uint16](value)
	case "mark":
		f.Mark, err = number[uint32](value)
	case "use":
		f.Use, err = number[uint32](value)
		f.Fields |= ct.HasUse
	case "packets", "bytes":
		err = entryCounter(name, value, f, t)
	case "zone":
		f.Zone, err = number[uint16](value)
	case "zone-orig":
		f.ZoneOrig, err = number[uint16](value)
	case "zone-reply":
		f.ZoneReply, err = number[uint16](value)
	}
	return err == nil
}

func entryCounter(name, value string, f *ct.Flow, t *ct.Tuple) error {
	c := &f.OrigCounters
	if t == &f.Reply {
		c = &f.ReplyCounters
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if name == "packets" {
		c.Packets = n
	} else {
		c.Bytes = n
	}
	f.Fields |= ct.HasCounters
	return err
}

func number[T uint8 | uint16 | uint32](s string) (T, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err == nil && uint64(T(n)) != n {
		err = strconv.ErrRange
	}
	return T(n), err
}
