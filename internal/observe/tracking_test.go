package observe

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/nft"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

func TestActive(t *testing.T) {
	modern := ct.KernelVersion{Major: 6, Minor: 1}
	births := &ct.Rates{Panel: true, BirthsPerSecond: 5}
	made := &ct.Rates{Panel: true, BirthsPerSecond: 5, Counters: ct.Counters{Insert: 10}}
	for name, c := range map[string]struct {
		version ct.KernelVersion
		loaded  string // modules
		rules   rules
		rates   *ct.Rates
		sysctls map[string]string
		want    ct.Tri
	}{
		"rules use it":            {version: modern, rules: rules{Rules: nft.Rules{Users: []string{"x"}}}, want: ct.Yes},
		"no rule uses it":         {version: modern, rules: rules{whole: true}, want: ct.No},
		"rules were not read":     {version: modern, want: ct.Unknown},
		"it is hooked":            {version: modern, rules: rules{whole: true, Rules: nft.Rules{Hooked: true, HooksTracking: true}}, want: ct.Yes},
		"it is not hooked":        {version: modern, rules: rules{Rules: nft.Rules{Hooked: true}}, want: ct.No},
		"entries are born":        {version: modern, rules: rules{whole: true}, rates: births, want: ct.Yes},
		"ctnetlink makes entries": {version: modern, rules: rules{whole: true}, rates: made, want: ct.No},
		"packets are refused":     {version: modern, rules: rules{whole: true}, rates: &ct.Rates{Counters: ct.Counters{Drop: 1}}, want: ct.Yes},
		"3.10 with IPv4":          {version: ct.KernelVersion{Major: 3, Minor: 10}, loaded: "nf_conntrack_ipv4", rules: rules{whole: true}, want: ct.Yes},
		"3.10 without":            {version: ct.KernelVersion{Major: 3, Minor: 10}, rules: rules{whole: true}, want: ct.No},
		"2.6.18":                  {version: ct.KernelVersion{Major: 2, Minor: 6}, loaded: "ip_conntrack", want: ct.Yes},
		"4.12 switched off": {version: ct.KernelVersion{Major: 4, Minor: 12}, loaded: "nf_conntrack_ipv4", rules: rules{whole: true},
			sysctls: map[string]string{"net.netfilter.nf_conntrack_default_on": "0"}, want: ct.No},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, filepath.Join(root, "proc/modules"), c.loaded+" 1 0 - Live 0x0\n")
			write(t, filepath.Join(root, "proc/kallsyms"), "0 T x\n")
			mods, err := procfs.FS{Root: root}.Modules()
			if err != nil {
				t.Fatal(err)
			}
			r := &reader{mods: mods, rules: c.rules, snap: &ct.Snapshot{Version: c.version, Rates: c.rates, Sysctls: c.sysctls}}
			r.snap.Tracking.ModuleLoaded = ct.Yes
			r.judgeTracking()
			if got := r.snap.Tracking.Active; got != c.want {
				t.Errorf("active %v, want %v", got, c.want)
			}
			if c.want == ct.Yes && len(r.snap.Tracking.Users) == 0 {
				t.Error("active, and nobody said why")
			}
		})
	}
}

// TestAdviceStaysOutOfReports checks that rules are told of to a plan, and
// their addresses not to a report.
func TestAdviceStaysOutOfReports(t *testing.T) {
	r := &reader{snap: &ct.Snapshot{}, rules: rules{whole: true, Rules: nft.Rules{Advice: []ct.RuleAdvice{{Kind: ct.LateDrop, Rule: "ip saddr 192.0.2.1 drop"}}}}}
	r.judgeTracking()
	if len(r.snap.Tracking.Rules) != 1 {
		t.Errorf("%+v", r.snap.Tracking)
	}
	if b, err := json.Marshal(r.snap.Tracking); err != nil || bytes.Contains(b, []byte("192.0.2.1")) {
		t.Errorf("%s %v", b, err)
	}
}

func TestTranslation(t *testing.T) {
	nat := &ct.Census{Classes: []ct.Class{{ClassKey: ct.ClassKey{NAT: true}, Entries: 1}}}
	for name, c := range map[string]struct {
		rules  rules
		census *ct.Census
		want   ct.Tri
	}{
		"by rule":      {rules: rules{Rules: nft.Rules{NAT: []string{"masquerade"}}}, want: ct.Yes},
		"by entry":     {rules: rules{whole: true}, census: nat, want: ct.Yes},
		"none":         {rules: rules{whole: true}, census: &ct.Census{}, want: ct.No},
		"rules unread": {census: &ct.Census{}, want: ct.Unknown},
	} {
		r := &reader{rules: c.rules, snap: &ct.Snapshot{Census: c.census}}
		if got := r.nat(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
