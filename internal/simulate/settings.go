package simulate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Base returns what a setting starts from: the defaults of an era, or, with a
// snapshot, the live machine's values.
func Base(e sim.Era, s *ct.Snapshot, seed uint64) sim.Config {
	cfg := sim.DefaultConfig(e)
	cfg.Seed = seed
	if s == nil {
		return cfg
	}
	if m := s.Limits.Max; m.Known {
		cfg.Max = int(m.N)
	}
	if b := s.Limits.Buckets; b.Known && b.N > 0 {
		cfg.Buckets = int(b.N)
	}
	for k := range ct.NumTimeouts {
		if v, ok := s.Timeouts.Get(k); ok {
			cfg.Timeouts.Set(k, v)
		}
	}
	k := &cfg.Knobs
	setBool(&k.TCPLoose, s.Knobs.TCPLoose)
	setBool(&k.TCPBeLiberal, s.Knobs.TCPBeLiberal)
	setBool(&k.Acct, s.Knobs.Acct)
	setBool(&k.Checksum, s.Knobs.Checksum)
	setBool(&k.TCPIgnoreInvalidRST, s.Knobs.TCPIgnoreBadRST)
	if v := s.Knobs.TCPMaxRetrans; v.Known {
		k.TCPMaxRetrans = uint8(v.N)
	}
	return cfg
}

func setBool(dst *bool, v ct.Value) {
	if v.Known {
		*dst = v.N != 0
	}
}

// ErrSetting is wrapped by errors about a setting's text.
var ErrSetting = errors.New("not a setting")

// keys are the names that a setting may give, besides timeouts and knobs.
var keys = []string{"max", "buckets", "era", "name", "tcp_loose", "tcp_be_liberal", "tcp_max_retrans", "acct", "checksum"}

// ParseSetting reads "max=524288,buckets=131072,tcp_timeout_time_wait=30" over
// a base. Names may carry the sysctl's prefix. "name=" gives the setting a name
// of its own, "era=" another kernel, with its defaults unless the base is that of
// a live machine.
func ParseSetting(text string, base sim.Config, live bool) (Setting, error) {
	s := Setting{Name: text, Config: base}
	var values [][2]string
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" || part == "live" || part == "default" {
			continue
		}
		k, v, ok := strings.Cut(part, "=")
		if !ok {
			return s, fmt.Errorf("%w: %q has no value: write key=value", ErrSetting, part)
		}
		k = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(k), "net.netfilter."), "nf_conntrack_")
		v = strings.TrimSpace(v)
		switch k {
		case "name":
			s.Name = v
		case "era": // the values are over its defaults, wherever it stands
			if err := s.rebase(v, live); err != nil {
				return s, err
			}
			values = append(values, [2]string{k, v})
		default:
			values = append(values, [2]string{k, v})
		}
	}
	var told []string
	for _, kv := range values {
		told = append(told, kv[0]+"="+kv[1])
		if kv[0] == "era" {
			continue
		}
		if err := s.set(kv[0], kv[1]); err != nil {
			return s, err
		}
	}
	if s.Name == "" {
		s.Name = "default"
	}
	s.Values = strings.Join(told, ",")
	return s, nil
}

func (s *Setting) set(key, value string) error {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return fmt.Errorf("%w: %s=%q is not a number", ErrSetting, key, value)
	}
	k := &s.Config.Knobs
	switch key {
	case "max":
		s.Config.Max = int(n)
	case "buckets":
		if n < 1 {
			return fmt.Errorf("%w: buckets=%d: there must be at least one", ErrSetting, n)
		}
		s.Config.Buckets = int(n)
	case "tcp_loose":
		k.TCPLoose = n != 0
	case "tcp_be_liberal":
		k.TCPBeLiberal = n != 0
	case "tcp_max_retrans":
		if n < 0 || n > 255 {
			return fmt.Errorf("%w: tcp_max_retrans=%d is not between 0 and 255", ErrSetting, n)
		}
		k.TCPMaxRetrans = uint8(n)
	case "acct":
		k.Acct = n != 0
	case "checksum":
		k.Checksum = n != 0
	default:
		t, ok := ct.ParseTimeoutKey(key)
		if !ok {
			return fmt.Errorf("%w: %q is unknown; keys are %s and the timeouts, such as tcp_timeout_time_wait", ErrSetting, key, strings.Join(keys, ", "))
		}
		if most := math.MaxInt32 / int64(s.Config.Knobs.HZ); n > most {
			return fmt.Errorf("%w: %s=%d is more than the kernel takes: at most %d", ErrSetting, key, n, most)
		}
		s.Config.Timeouts.Set(t, int32(n))
	}
	return nil
}

// rebase makes the configuration that of another era. A live machine's values
// stay; what its kernel does not have, such as DCCP's timeouts, comes from the
// era.
func (s *Setting) rebase(name string, live bool) error {
	e, err := sim.EraByName(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetting, err)
	}
	c := sim.DefaultConfig(e)
	c.Seed = s.Config.Seed
	if live {
		c.Max, c.Buckets, c.Knobs = s.Config.Max, s.Config.Buckets, s.Config.Knobs
		for k := range ct.NumTimeouts {
			if v, ok := s.Config.Timeouts.Get(k); ok {
				c.Timeouts.Set(k, v)
			}
		}
	}
	s.Config = c
	return nil
}

// Searchable reports whether a key can be searched for its smallest value.
func Searchable(key string) bool {
	if _, ok := ct.ParseTimeoutKey(key); ok {
		return true
	}
	return slices.Contains([]string{"max", "buckets"}, key)
}
