package owners

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Analyze plays the next boot and says who sets what.
func Analyze(m Machine) Report {
	var r Report
	r.KeysAtSysctl, r.KeysWhy = earlyModules(&m)
	all := collect(&m, &r)
	byKey := make(map[string][]Assignment)
	for _, a := range all {
		byKey[a.Key] = append(byKey[a.Key], a)
	}
	for live := range m.Live {
		if key, ours := canon(live); ours && byKey[key] == nil {
			byKey[key] = []Assignment{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		r.Settings = append(r.Settings, settle(key, &m, byKey[key]))
	}
	r.Actors = actors(&m)
	return r
}

// collect gathers every assignment in boot order and marks those that cannot
// take effect.
func collect(m *Machine, r *Report) []Assignment {
	boot := append(sysctlRun(m, m.Init.tool(), selection{}, r), unreadSysctlConf(m)...)
	options, hooks := moduleOptions(m, r)
	rules := udevHooks(m)
	var all []Assignment
	switch {
	case m.BuiltIn == ct.Yes:
		// Parameters are set as the kernel initializes, its sysctls just before
		// init starts.
		all = append(options, commandLineStage(m)...)
		all = append(all, own(hooks, ct.Yes)...)
		all = append(all, boot...)
		all = append(all, own(rules, ct.No)...)
	case r.KeysAtSysctl == ct.Yes:
		// The hooks of modprobe have run when sysctl does; the events of udev
		// are handled beside it.
		all = append(commandLineStage(m), options...)
		all = append(all, hookedEarly(runAgain(m, hooks), &boot)...)
		all = append(all, own(hooks, ct.No)...)
		all = append(all, boot...)
		all = append(all, own(rules, ct.No)...)
	default:
		again := runAgain(m, append(slices.Clone(hooks), rules...))
		all = append(commandLineStage(m), loseEarly(boot, again, r.KeysAtSysctl)...)
		all = append(all, options...)
		all = append(all, again...)
		all = append(all, own(hooks, ct.No)...)
		all = append(all, own(rules, ct.No)...)
	}
	late := daemons(m, all, r.KeysAtSysctl)
	all = append(withoutLater(all, late), late...)
	for i := range all {
		judge(m, &all[i])
	}
	return all
}

// daemons gathers what is set after the early part of the boot, which before
// holds.
func daemons(m *Machine, before []Assignment, early ct.Tri) []Assignment {
	all := ufwStage(m)
	set := make(map[string]bool)
	for _, a := range append(slices.Clone(before), all...) {
		if a.Stage > StageSysctl && a.Effect == "" {
			set[a.Key] = true
		}
	}
	all = append(all, tunedStage(m, early, set)...)
	for _, p := range m.Processes {
		if isKubeProxy(p) {
			all = append(all, kubeProxyStage(m, p)...)
		}
	}
	all = append(all, localStage(m)...)
	return append(all, cronStage(m)...)
}

// hookedEarly returns what a hook of modprobe applies before the boot's own run
// and that run does not: procps reads files that systemd does not. Those lines
// are taken out of the boot's.
func hookedEarly(hooked []Assignment, boot *[]Assignment) []Assignment {
	applied := places(slices.DeleteFunc(slices.Clone(*boot), func(a Assignment) bool { return a.Effect != "" }))
	hooked = slices.DeleteFunc(hooked, func(a Assignment) bool { return applied[a.place()] })
	extra := places(hooked)
	*boot = slices.DeleteFunc(*boot, func(a Assignment) bool { return extra[a.place()] })
	return hooked
}

// own returns the values that hooks themselves name.
func own(hooks []hook, builtIn ct.Tri) []Assignment {
	var out []Assignment
	for _, h := range hooks {
		for _, a := range h.own {
			if builtIn == ct.Yes {
				a.Effect, a.Why = Ignored, "connection tracking is built in: no module is loaded and the hook never runs"
			}
			out = append(out, a)
		}
	}
	return out
}

// runAgain returns what hooks apply of sysctl's files once the module is there.
func runAgain(m *Machine, hooks []hook) []Assignment {
	var out []Assignment
	for _, h := range hooks {
		if !h.runs {
			continue
		}
		for _, a := range sysctlRun(m, h.tool, h.selects, nil) {
			if a.Effect == "" {
				a.Stage, a.Why = StageModuleHook, "applied when the module is loaded, by the "+h.what
				out = append(out, a)
			}
		}
	}
	return out
}

// loseEarly marks what sysctl writes at boot to keys that do not exist yet.
// What a hook applies later is not repeated here.
func loseEarly(boot, again []Assignment, early ct.Tri) []Assignment {
	later := places(again)
	var out []Assignment
	for _, a := range boot {
		if later[a.place()] {
			continue
		}
		switch {
		case a.Effect != "":
		case early == ct.No:
			a.Effect, a.Why = Lost, "nf_conntrack is not loaded yet when sysctl runs, so the key does not exist"
		default:
			a.Effect, a.Why = Sometimes, "lost if nf_conntrack is loaded after sysctl has run"
		}
		out = append(out, a)
	}
	return out
}

// withoutLater leaves out what is lost at first and applied by a daemon later.
func withoutLater(early, late []Assignment) []Assignment {
	again := places(late)
	return slices.DeleteFunc(early, func(a Assignment) bool {
		return (a.Effect == Lost || a.Effect == Sometimes) && again[a.place()]
	})
}

// place is where an assignment stands, and for which key.
type place struct {
	file, key string
	line      int
}

func (a Assignment) place() place { return place{a.File, a.Key, a.Line} }

func places(as []Assignment) map[place]bool {
	m := make(map[place]bool, len(as))
	for _, a := range as {
		m[a.place()] = true
	}
	return m
}

// readOnly are keys that can be read only; writing them is refused.
var readOnly = map[string]bool{prefix + "count": true}

func judge(m *Machine, a *Assignment) {
	if a.Effect != "" {
		return
	}
	v, ok := kernelNumber(a.Value)
	switch {
	case deadName(a.Written, m.Version) != "":
		a.Effect, a.Why = Dead, deadName(a.Written, m.Version)
	case readOnly[a.Key]:
		a.Effect, a.Why = Ignored, "the key is read-only; nf_conntrack_max is the limit"
	case misspelt(a.Written):
		a.Effect, a.Why = Dead, "after a slash as first separator dots stay dots: there is no such key"
	case !ok:
		a.Effect, a.Why = Ignored, "not a number that the kernel takes"
	case !accepts(a.Key, v, m.Version):
		a.Effect, a.Why = Ignored, "outside of the range that the kernel takes"
	case a.Stage == StageCommandLine && m.BuiltIn == ct.No:
		a.Effect, a.Why = Lost, "the kernel writes it before any module is loaded"
	case a.Stage == StageCommandLine && !m.Version.IsZero() && !m.Version.AtLeast(5, 8):
		a.Effect, a.Why = Ignored, "kernels before 5.8 do not read sysctl values from the command line"
	case len(m.Live) > 0 && !hasLive(m, a.Key):
		a.Effect, a.Why = Dead, "this kernel has no such key"
	}
}

func hasLive(m *Machine, key string) bool {
	for live := range m.Live {
		if k, _ := canon(live); k == key {
			return true
		}
	}
	return false
}

// settle decides the winner of one key: the last assignment that takes effect,
// where an owner that only raises wins only with a higher value.
func settle(key string, m *Machine, as []Assignment) Setting {
	s := Setting{Key: key, Live: liveValue(m.Live, key), Assignments: as, Winner: -1}
	floor, known := builtInDefault(key, m.Version)
	for i := range as {
		a := &as[i]
		if a.Effect != "" {
			continue
		}
		if s.AtBoot != "" {
			floor, known = number(s.AtBoot), true
		}
		if a.AtLeast && known && number(a.Value) <= floor {
			a.Effect = Overridden
			a.Why = strings.TrimPrefix(a.Why+"; the value before it is not lower", "; ")
			continue
		}
		if s.Winner >= 0 {
			w := &as[s.Winner]
			w.Effect = Overridden
			w.Why = strings.TrimPrefix(w.Why+"; "+after(*a), "; ")
		}
		a.Effect, s.Winner, s.AtBoot = Wins, i, plain(a.Value)
	}
	return s
}

// builtInDefault is what a key holds before anything sets it, where that does
// not depend on the machine.
func builtInDefault(key string, v ct.KernelVersion) (int64, bool) {
	k, ok := ct.ParseTimeoutKey(strings.TrimPrefix(key, prefix))
	if !ok || v.IsZero() {
		return 0, false
	}
	t := ct.DefaultTimeouts(v)
	seconds, ok := t.Get(k)
	return int64(seconds), ok
}

func after(a Assignment) string {
	s := a.Owner
	if a.File != "" && a.File != a.Owner {
		s = a.File
		if a.Line > 0 {
			s += ":" + strconv.Itoa(a.Line)
		}
	}
	return s + " comes later"
}

func liveValue(live map[string]string, key string) string {
	if v, ok := live[key]; ok {
		return v
	}
	for name, v := range live {
		if k, _ := canon(name); k == key {
			return v
		}
	}
	return ""
}
