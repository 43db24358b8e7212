package guard

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestReferenceFile: every key is in it, and with its default.
func TestReferenceFile(t *testing.T) {
	b, err := os.ReadFile("../../packaging/guard.reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := DefaultConfig(); !reflect.DeepEqual(c, want) {
		t.Errorf("the reference says\n%+v\nthe defaults are\n%+v", c, want)
	}
	for _, s := range settings {
		last := s.key[strings.LastIndex(s.key, ".")+1:]
		if !strings.Contains(string(b), last+":") {
			t.Errorf("%s is not in the reference", s.key)
		}
	}
	// Every field of a Config can be set by some key.
	if got, want := len(settings), reflect.TypeFor[Config]().NumField(); got != want {
		t.Errorf("%d keys for %d fields", got, want)
	}
}

func TestConfigChangesWhatItNames(t *testing.T) {
	c, err := ParseConfig([]byte("mode: enforce\nkeep-idle: 90m\nlevels: {watch: {fill: 40%}}\n" +
		"means: {headroom: false}\nmanage: [192.0.2.7, \"2001:db8::/32\"]\nbounds:\n  entries-per-minute: 1_000\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Enforce, want.KeepIdle, want.WatchFill, want.Headroom = true, 90*time.Minute, 0.4, false
	want.Manage = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32")}
	want.EntriesPerMinute = 1000
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	for _, empty := range []string{"", "# nothing\n", "levels:\n", "---\n"} {
		if c, err := ParseConfig([]byte(empty)); err != nil || !reflect.DeepEqual(c, DefaultConfig()) {
			t.Errorf("%q: %+v, %v", empty, c, err)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"mode: kill\n", "line 1: mode: observe or enforce is wanted"},
		{"mod: observe\n", "line 1: mod: unknown key; allowed here: mode, keep-idle, memory-share, max-ceiling, levels, means, bounds, manage, protect"},
		{"\nlevels:\n  watch:\n    fil: 4%\n", "line 4: levels.watch.fil: unknown key; allowed here: fill, full-within"},
		{"mode: observe\nmode: enforce\n", "line 2: not YAML: mapping key \"mode\" already defined at [1:1]"},
		{"keep-idle: 5\n", "line 1: keep-idle: a time from 1m to 720h is wanted, as 90s, 15m or 2h"},
		{"keep-idle: 10s\n", "line 1: keep-idle: a time from 1m to 720h is wanted, as 90s, 15m or 2h"},
		{"memory-share: 60%\n", "line 1: memory-share: a share above 0% and up to 50% is wanted, as 5%"},
		{"memory-share: 0.05\n", "line 1: memory-share: a share above 0% and up to 50% is wanted, as 5%"},
		{"memory-share: nan%\n", "line 1: memory-share: a share above 0% and up to 50% is wanted, as 5%"},
		{"max-ceiling: -1\n", "line 1: max-ceiling: a whole number from 0 to 2147483647 is wanted"},
		{"max-ceiling: 1.5\n", "line 1: max-ceiling: a whole number from 0 to 2147483647 is wanted"},
		{"means: {headroom: maybe}\n", "line 1: means.headroom: true or false is wanted"},
		{"means: [headroom]\n", "line 1: means: keys are wanted here: headroom, timeouts, probation, fair-shares, admission, buckets, synproxy, notrack"},
		{"means: {notrack: yes}\n", "line 1: means.notrack: never, propose or allow is wanted"},
		{"means: {synproxy: allow}\n", "line 1: means.synproxy: never or propose is wanted: the guard proposes it and leaves it to a person, for it must outlive the guard"},
		{"manage: 192.0.2.1\n", "line 1: manage: a list of addresses and prefixes is wanted, as [192.0.2.1, 2001:db8::/32]"},
		{"protect: [example.com]\n", `line 1: protect: "example.com" is not an address or prefix`},
		{"levels:\n  pressure:\n    fill: 30%\n", "line 3: levels.pressure.fill: must be more than levels.watch.fill, 50%"},
		{"levels:\n  pressure:\n    fill: 95%\n", "levels.emergency.fill: must be more than levels.pressure.fill, 95%"},
		{"levels:\n  pressure:\n    full-within: 31s\n", "line 3: levels.pressure.full-within: must not be longer than levels.watch.full-within, 30s"},
		{"levels:\n  emergency:\n    full-within: 11s\n", "line 3: levels.emergency.full-within: must not be longer than levels.pressure.full-within, 10s"},
		{"a: b\n---\nc: d\n", "more than one document; one is allowed"},
		{"mode: [\n", "line 1: not YAML: sequence end token ']' not found"},
		{strings.Repeat("#\n", 40_000), "the file is longer than 64 KiB"},
	} {
		got, err := ParseConfig([]byte(c.file))
		if err == nil || err.Error() != c.want {
			t.Errorf("%.40q:\n got %v\nwant %s", c.file, err, c.want)
		}
		if !reflect.DeepEqual(got, DefaultConfig()) {
			t.Errorf("%.40q: a part of it holds: %+v", c.file, got)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	b, err := os.ReadFile("../../packaging/guard.reference.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("mode: &a enforce\nkeep-idle: *a\n"))
	f.Add([]byte("levels: {watch: {fill: 40%}, <<: {a: 1}}\n? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil && !reflect.DeepEqual(c, DefaultConfig()) {
			t.Errorf("%v, and yet %+v", err, c)
		}
	})
}
