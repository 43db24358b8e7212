package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Settings are the connection-tracking settings of one namespace.
type Settings struct {
	Limits   ct.Limits
	Timeouts ct.Timeouts
	Knobs    ct.Knobs
	// Raw holds every key found under its live name, as text.
	Raw map[string]string
}

// Conntrack reads all connection-tracking settings that there are. What could
// not be read or is not a number is left unknown and told in the error.
func (t Tree) Conntrack() (Settings, error) {
	names, listErr := t.List()
	errs := []error{listErr}
	raw := make(map[string]string, len(names))
	for _, n := range append(names, tcpKeepalive, messageCost, messageBurst) {
		v, err := t.Read(n)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone meanwhile, or not offered here
		case err != nil:
			errs = append(errs, err)
		default:
			raw[n] = v
		}
	}
	s, err := Interpret(raw)
	if s.Limits.Max.Known {
		s.Limits.MaxWritable = t.maxWritable()
	}
	return s, errors.Join(append(errs, err)...)
}

func (t Tree) maxWritable() ct.Tri {
	name, err := t.Find(Max)
	if err != nil {
		return ct.Unknown
	}
	ok, err := t.Writable(name)
	if err != nil {
		return ct.Unknown
	}
	return ct.TriOf(ok)
}

const (
	tcpKeepalive = "net.ipv4.tcp_keepalive_time"
	messageCost  = "net.core.message_cost"  // initial namespace only
	messageBurst = "net.core.message_burst" // likewise
)

// Interpret reads settings, given under the names of any era, into values. A
// value that is not a number stays unknown and is told in the error. raw is
// kept, not copied.
func Interpret(raw map[string]string) (Settings, error) {
	s := Settings{Raw: raw}
	var errs []error
	for name, text := range raw {
		c := Canonical(name)
		if c != name && raw[c] != "" {
			continue // an older name of a setting that is there
		}
		dst, key := s.field(c)
		if dst == nil && key == ct.NumTimeouts {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("setting %s: %q is not a number", name, clip(text)))
			continue
		}
		switch {
		case dst != nil:
			*dst = ct.Known(n)
		case int64(int32(n)) != n:
			errs = append(errs, fmt.Errorf("setting %s: %d seconds is out of the kernel's range", name, n))
		default:
			s.Timeouts.Set(key, int32(n))
		}
	}
	return s, errors.Join(errs...)
}

// field finds where the setting of today's name c belongs: to a value, or to
// a timeout, or to neither.
func (s *Settings) field(c string) (*ct.Value, ct.TimeoutKey) {
	if v := s.value(c); v != nil {
		return v, ct.NumTimeouts
	}
	if rest, ok := strings.CutPrefix(c, modern); ok {
		if k, ok := ct.ParseTimeoutKey(rest); ok {
			return nil, k
		}
	}
	return nil, ct.NumTimeouts
}

func (s *Settings) value(c string) *ct.Value {
	l, k := &s.Limits, &s.Knobs
	switch c {
	case Count:
		return &l.Count
	case Max:
		return &l.Max
	case Buckets:
		return &l.Buckets
	case ExpectMax:
		return &l.ExpectMax
	case tcpKeepalive:
		return &k.TCPKeepaliveTime
	case messageCost:
		return &k.MessageCost
	case messageBurst:
		return &k.MessageBurst
	}
	switch strings.TrimPrefix(c, modern) {
	case "acct":
		return &k.Acct
	case "timestamp":
		return &k.Timestamp
	case "events":
		return &k.Events
	case "checksum":
		return &k.Checksum
	case "log_invalid":
		return &k.LogInvalid
	case "helper":
		return &k.Helper
	case "tcp_loose":
		return &k.TCPLoose
	case "tcp_be_liberal":
		return &k.TCPBeLiberal
	case "tcp_max_retrans":
		return &k.TCPMaxRetrans
	case "tcp_ignore_invalid_rst":
		return &k.TCPIgnoreBadRST
	}
	return nil
}
