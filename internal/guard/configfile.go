package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 64 << 10

// ConfigError is a fault of a configuration file.
type ConfigError struct {
	Line int    // from 1 on; 0 is the whole file
	Key  string // as "levels.watch.fill"
	Why  string
}

// Error says where the fault is and what would be right.
func (e *ConfigError) Error() string {
	var s strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&s, "line %d: ", e.Line)
	}
	if e.Key != "" {
		s.WriteString(e.Key + ": ")
	}
	s.WriteString(e.Why)
	return s.String()
}

// setting is one key of the file.
type setting struct {
	key string // the path, joined by dots
	set func(*Config, ast.Node) error
}

// settings are all keys. What is not named in a file keeps its default.
var settings = []setting{
	{"mode", oneOf(func(c *Config) *bool { return &c.Enforce }, "observe", "enforce")},
	{"keep-idle", duration(func(c *Config) *time.Duration { return &c.KeepIdle }, time.Minute, 30*24*time.Hour)},
	{"memory-share", share(func(c *Config) *float64 { return &c.MemoryShare }, 0.5)},
	{"max-ceiling", number(func(c *Config) *int64 { return &c.MaxCeiling }, 0, 1<<31-1)},
	{"levels.watch.fill", share(func(c *Config) *float64 { return &c.WatchFill }, 1)},
	{"levels.watch.full-within", duration(func(c *Config) *time.Duration { return &c.WatchFull }, 100*time.Millisecond, time.Hour)},
	{"levels.pressure.fill", share(func(c *Config) *float64 { return &c.PressureFill }, 1)},
	{"levels.pressure.full-within", duration(func(c *Config) *time.Duration { return &c.PressureFull }, 100*time.Millisecond, time.Hour)},
	{"levels.emergency.fill", share(func(c *Config) *float64 { return &c.EmergencyFill }, 1)},
	{"levels.emergency.full-within", duration(func(c *Config) *time.Duration { return &c.EmergencyFull }, 100*time.Millisecond, time.Hour)},
	{"levels.leave-after", duration(func(c *Config) *time.Duration { return &c.Leave }, time.Second, time.Hour)},
	{"means.headroom", yesNo(func(c *Config) *bool { return &c.Headroom })},
	{"means.timeouts", yesNo(func(c *Config) *bool { return &c.Timeouts })},
	{"means.probation", yesNo(func(c *Config) *bool { return &c.Probation })},
	{"means.fair-shares", yesNo(func(c *Config) *bool { return &c.FairShares })},
	{"means.admission", yesNo(func(c *Config) *bool { return &c.Admission })},
	{"means.buckets", yesNo(func(c *Config) *bool { return &c.Buckets })},
	{"means.synproxy", upTo(func(c *Config) *Permission { return &c.SynProxy }, Propose)},
	{"means.notrack", upTo(func(c *Config) *Permission { return &c.NoTrack }, Allow)},
	{"bounds.entries-per-minute", number(func(c *Config) *int { return &c.EntriesPerMinute }, 0, 100_000_000)},
	{"bounds.entries-per-incident", number(func(c *Config) *int { return &c.EntriesPerIncident }, 0, 1_000_000_000)},
	{"bounds.sources-per-incident", number(func(c *Config) *int { return &c.SourcesPerIncident }, 0, 16_384)},
	{"manage", prefixes(func(c *Config) *[]netip.Prefix { return &c.Manage })},
	{"protect", prefixes(func(c *Config) *[]netip.Prefix { return &c.Protect })},
}

// ParseConfig reads a configuration file over [DefaultConfig]. A key that is not
// known, given twice, or out of range is a [ConfigError], and nothing of the
// file holds then.
func ParseConfig(data []byte) (c Config, err error) {
	if len(data) > maxConfigBytes {
		return DefaultConfig(), &ConfigError{Why: fmt.Sprintf("the file is longer than %d KiB", maxConfigBytes>>10)}
	}
	defer func() {
		if p := recover(); p != nil { // the YAML parser's
			c, err = DefaultConfig(), &ConfigError{Why: "not YAML that can be understood"}
		}
	}()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return DefaultConfig(), syntaxError(err)
	}
	if len(file.Docs) > 1 {
		return DefaultConfig(), &ConfigError{Why: "more than one document; one is allowed"}
	}
	r := configReader{c: DefaultConfig(), lines: make(map[string]int)}
	if len(file.Docs) == 1 && file.Docs[0].Body != nil {
		if err := r.section("", file.Docs[0].Body); err != nil {
			return DefaultConfig(), err
		}
	}
	if err := r.check(); err != nil {
		return DefaultConfig(), err
	}
	return r.c, nil
}

func syntaxError(err error) error {
	e := &ConfigError{Why: "not YAML"}
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		e.Why = "not YAML: " + syntax.GetMessage()
		if t := syntax.GetToken(); t != nil && t.Position != nil {
			e.Line = t.Position.Line
		}
	}
	return e
}

// configReader walks a file.
type configReader struct {
	c     Config
	lines map[string]int // of the keys that are given
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// section reads the keys below a path.
func (r *configReader) section(path string, n ast.Node) error {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil
	default:
		return &ConfigError{lineOf(n), path, "keys are wanted here: " + strings.Join(allowed(path), ", ")}
	}
	for _, v := range values {
		if err := r.value(path, v); err != nil {
			return err
		}
	}
	return nil
}

func (r *configReader) value(path string, v *ast.MappingValueNode) error {
	line := lineOf(v.Key)
	name, ok := v.Key.(*ast.StringNode)
	if !ok {
		return &ConfigError{line, path, "a plain key is wanted: " + strings.Join(allowed(path), ", ")}
	}
	key := name.Value
	if path != "" {
		key = path + "." + key
	}
	if !slices.Contains(allowed(path), name.Value) {
		return &ConfigError{line, key, "unknown key; allowed here: " + strings.Join(allowed(path), ", ")}
	}
	if first, twice := r.lines[key]; twice {
		return &ConfigError{line, key, fmt.Sprintf("given twice, first in line %d", first)}
	}
	r.lines[key] = line
	for i := range settings {
		if settings[i].key != key {
			continue
		}
		if err := settings[i].set(&r.c, v.Value); err != nil {
			return &ConfigError{line, key, err.Error()}
		}
		return nil
	}
	return r.section(key, v.Value)
}

// allowed are the keys below a path, in their order.
func allowed(path string) []string {
	var names []string
	for _, s := range settings {
		rest := s.key
		if path != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(s.key, path+"."); !ok {
				continue
			}
		}
		name, _, _ := strings.Cut(rest, ".")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// check looks at what only the whole file tells.
func (r *configReader) check() error {
	c := &r.c
	at := func(key, why string) error { return &ConfigError{r.lines[key], key, why} }
	switch {
	case c.PressureFill <= c.WatchFill:
		return at("levels.pressure.fill", "must be more than levels.watch.fill, "+percent(c.WatchFill))
	case c.EmergencyFill <= c.PressureFill:
		return at("levels.emergency.fill", "must be more than levels.pressure.fill, "+percent(c.PressureFill))
	case c.PressureFull > c.WatchFull:
		return at("levels.pressure.full-within", "must not be longer than levels.watch.full-within, "+c.WatchFull.String())
	case c.EmergencyFull > c.PressureFull:
		return at("levels.emergency.full-within", "must not be longer than levels.pressure.full-within, "+c.PressureFull.String())
	}
	return nil
}

func percent(f float64) string { return strconv.FormatFloat(100*f, 'f', -1, 64) + "%" }

// scalar is the text of a value, "" for what is none.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return strings.TrimSpace(n.GetToken().Value), true
	}
	return "", false
}

func oneOf(field func(*Config) *bool, no, yes string) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		s, _ := scalar(n)
		if s != no && s != yes {
			return fmt.Errorf("%s or %s is wanted", no, yes)
		}
		*field(c) = s == yes
		return nil
	}
}

var permissionNames = []string{"never", "propose", "allow"}

// upTo reads a permission. Where a means is only ever proposed it says so to
// whoever wants to allow more.
func upTo(field func(*Config) *Permission, most Permission) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		s, _ := scalar(n)
		switch i := slices.Index(permissionNames, s); {
		case i < 0:
			return fmt.Errorf("%s is wanted", either(permissionNames[:most+1]))
		case Permission(i) > most:
			return fmt.Errorf("%s is wanted: the guard proposes it and leaves it to a person, for it must outlive the guard", either(permissionNames[:most+1]))
		default:
			*field(c) = Permission(i)
			return nil
		}
	}
}

// either lists words: "a, b or c".
func either(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func yesNo(field func(*Config) *bool) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return errors.New("true or false is wanted")
		}
		*field(c) = b.Value
		return nil
	}
}

func duration(field func(*Config) *time.Duration, least, most time.Duration) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		s, _ := scalar(n)
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most {
			return fmt.Errorf("a time from %s to %s is wanted, as 90s, 15m or 2h", plain(least), plain(most))
		}
		*field(c) = d
		return nil
	}
}

// plain writes a duration without its empty parts.
func plain(d time.Duration) string {
	s := d.String()
	s = strings.TrimSuffix(s, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(s, "m0s")]
	return strings.TrimSuffix(s, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(s, "h0m")]
}

func share(field func(*Config) *float64, most float64) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		s, _ := scalar(n)
		digits, isPercent := strings.CutSuffix(s, "%")
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil || !isPercent || !(f > 0) || f > 100*most {
			return fmt.Errorf("a share above 0%% and up to %s is wanted, as 5%%", percent(most))
		}
		*field(c) = f / 100
		return nil
	}
}

func number[T int | int64](field func(*Config) *T, least, most int64) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		s, _ := scalar(n)
		v, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
		if err != nil || v < least || v > most {
			return fmt.Errorf("a whole number from %d to %d is wanted", least, most)
		}
		*field(c) = T(v)
		return nil
	}
}

// maxPrefixes bounds a list.
const maxPrefixes = 1024

func prefixes(field func(*Config) *[]netip.Prefix) func(*Config, ast.Node) error {
	return func(c *Config, n ast.Node) error {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			return errors.New("a list of addresses and prefixes is wanted, as [192.0.2.1, 2001:db8::/32]")
		}
		if len(seq.Values) > maxPrefixes {
			return fmt.Errorf("at most %d addresses and prefixes are allowed", maxPrefixes)
		}
		var list []netip.Prefix
		for _, v := range seq.Values {
			s, _ := scalar(v)
			p, err := parsePrefix(s)
			if err != nil {
				return fmt.Errorf("%q is not an address or prefix", s)
			}
			list = append(list, p)
		}
		*field(c) = list
		return nil
	}
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}
