// Package owners says where the value of each connection-tracking setting
// comes from: every file, option and daemon that sets it, in the order in
// which a boot applies them, who wins, and why the others lose.
//
// It is pure: it reads configuration through [Files] and takes what runs and
// what is live as arguments.
package owners

import (
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Files gives access to configuration. Paths are absolute; an implementation
// resolves links inside its own tree and bounds what it reads.
type Files interface {
	ReadFile(name string) ([]byte, error)
	List(dir string) ([]string, error)
	Resolve(name string) (string, error)
	Exists(name string) bool
}

// Process is a running program that may own settings.
type Process struct {
	Pid  int
	Name string   // comm
	Args []string // cmdline
	// Files is the process's own view of the file system, nil if unreadable.
	Files Files
}

// Init is the kind of init that boots the machine.
type Init int

// Kinds of init.
const (
	InitUnknown Init = iota
	InitSystemd      // systemd-sysctl applies sysctl.d
	InitProcps       // sysctl --system, as sysvinit and OpenRC run it
)

// Machine is what the analysis needs to know.
type Machine struct {
	Files       Files
	Version     ct.KernelVersion
	BuiltIn     ct.Tri // whether nf_conntrack is part of the kernel image
	CommandLine string // /proc/cmdline
	CPUs        int
	Init        Init
	// Live are the settings now, by full name; Buckets counts as
	// net.netfilter.nf_conntrack_buckets on every kernel.
	Live      map[string]string
	Processes []Process
}

// Stage is a moment of the boot, in order.
type Stage int

// Stages of a boot.
const (
	StageCommandLine  Stage = iota // the kernel itself
	StageEarlyModules              // modules-load, before sysctl
	StageSysctl                    // systemd-sysctl or sysctl --system
	StageModule                    // the module is loaded by its first user
	StageModuleHook                // what runs because the module was loaded
	StageFirewall                  // ufw and others that set values as they start
	StageDaemon                    // TuneD, kube-proxy
	StageLocal                     // rc.local
	StageLater                     // cron, now and then
)

var stageNames = [...]string{"kernel command line", "modules-load", "sysctl at boot", "module load",
	"hook on module load", "firewall start", "daemon", "rc.local", "cron"}

func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return ""
}

// Effect is what becomes of an assignment at the next boot.
type Effect string

// Effects of an assignment.
const (
	Wins       Effect = "wins"
	Overridden Effect = "overridden" // applied, then replaced
	Lost       Effect = "lost"       // the key does not exist at that moment
	Masked     Effect = "masked"     // a file of the same name hides this one
	Dead       Effect = "dead"       // a name that this kernel does not know
	Ignored    Effect = "ignored"    // read-only, out of range or not read at all
	Sometimes  Effect = "sometimes"  // depends on what happens at run time
)

// Assignment is one place that sets one key.
type Assignment struct {
	Stage   Stage  `json:"stage"`
	Owner   string `json:"owner"` // "sysctl.d", "ufw", "kube-proxy", …
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Written string `json:"written"` // the key as it stands there
	Key     string `json:"key"`     // net.netfilter.nf_conntrack_…
	Value   string `json:"value"`
	// AtLeast marks an owner that only ever raises the value.
	AtLeast bool   `json:"at_least,omitempty"`
	Managed string `json:"managed,omitempty"` // the tool that writes the file, by its header
	Effect  Effect `json:"effect"`
	Why     string `json:"why,omitempty"`
}

// Setting is one key with all that sets it.
type Setting struct {
	Key         string       `json:"key"`
	Live        string       `json:"live,omitempty"`
	Assignments []Assignment `json:"assignments,omitempty"` // in boot order
	// AtBoot is the value after the next boot, "" for the kernel's default.
	AtBoot string `json:"at_boot,omitempty"`
	Winner int    `json:"winner"` // index in Assignments, -1 for the kernel's default
}

// Drifts reports whether the next boot will give another value than is live,
// as far as files and running daemons tell.
func (s Setting) Drifts() bool { return s.AtBoot != "" && s.Live != "" && s.AtBoot != s.Live }

// Actor is something on the machine that one should know of before changing
// connection tracking.
type Actor struct {
	Name string `json:"name"`
	Seen string `json:"seen"` // the evidence
	Does string `json:"does"` // what it does to connection tracking
}

// Report is the whole answer.
type Report struct {
	Settings []Setting `json:"settings"`
	Actors   []Actor   `json:"actors,omitempty"`
	// KeysAtSysctl says whether the keys exist when sysctl runs at boot.
	KeysAtSysctl ct.Tri `json:"keys_at_sysctl"`
	KeysWhy      string `json:"keys_why"`
	// Unread are places that could not be read.
	Unread []string `json:"unread,omitempty"`
}

// Find returns the setting of a key under any of its names.
func (r *Report) Find(key string) (Setting, bool) {
	key, _ = canon(key)
	i := slices.IndexFunc(r.Settings, func(s Setting) bool { return s.Key == key })
	if i < 0 {
		return Setting{}, false
	}
	return r.Settings[i], true
}

const (
	prefix     = "net.netfilter.nf_conntrack_"
	bucketsKey = prefix + "buckets"
	maxKey     = prefix + "max"
)

// keyPath turns a key as written into its path below /proc/sys, by the rule of
// sysctl.d(5): if the first separator is a slash, slashes and dots stay as they
// are, otherwise they change places. Empty parts and "." are left out, as
// systemd's path_simplify does.
func keyPath(key string) string {
	key = strings.TrimSpace(key)
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		key = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	parts := slices.DeleteFunc(strings.Split(key, "/"), func(p string) bool { return p == "" || p == "." })
	return strings.Join(parts, "/")
}

// canon returns today's name of a conntrack key in any spelling, and whether
// the key belongs to connection tracking at all. A spelling that confuses dots
// and slashes belongs to it too, see [misspelt].
func canon(key string) (name string, ours bool) {
	k := strings.ReplaceAll(keyPath(key), "/", ".")
	switch {
	case k == "net.nf_conntrack_max", k == "net.ipv4.ip_conntrack_max", k == "net.ipv4.netfilter.ip_conntrack_max":
		return maxKey, true
	case strings.HasPrefix(k, "net.ipv4.netfilter.ip_conntrack_"):
		return prefix + strings.TrimPrefix(k, "net.ipv4.netfilter.ip_conntrack_"), true
	case strings.HasPrefix(k, prefix):
		return k, true
	}
	return k, false
}

// misspelt reports a key whose first separator is a slash and a later one a
// dot: the dot stays a dot, and no file of that name exists.
func misspelt(written string) bool { return strings.Contains(keyPath(written), ".") }

// deadName reports why a spelling means nothing to this kernel.
func deadName(written string, v ct.KernelVersion) string {
	k := strings.ReplaceAll(keyPath(written), "/", ".")
	if strings.HasPrefix(k, "net.ipv4.") && (v.IsZero() || v.AtLeast(4, 9)) {
		return "ip_conntrack names are gone since 4.9"
	}
	return ""
}
