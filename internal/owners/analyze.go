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
	sysctls := sysctlStage(m, r)
	options, hooks := moduleOptions(m, r)
	hooks = append(hooks, udevHooks(m)...)
	systemKeys := make(map[string]bool)
	for _, a := range sysctls {
		if a.Effect == "" {
			systemKeys[a.Key] = true
		}
	}
	all := commandLineStage(m)
	early := r.KeysAtSysctl
	if early == ct.Yes {
		all = append(all, options...)
	}
	all = append(all, loseEarly(sysctls, early, hooks)...)
	if early != ct.Yes {
		all = append(all, options...)
	}
	all = append(all, again(sysctls, early, hooks)...)
	for _, h := range hooks {
		all = append(all, h.own...)
	}
	all = append(all, ufwStage(m)...)
	all = append(all, tunedStage(m, systemKeys)...)
	for _, p := range m.Processes {
		if isKubeProxy(p) {
			all = append(all, kubeProxyStage(m, p)...)
		}
	}
	all = append(all, localStage(m)...)
	all = append(all, cronStage(m)...)
	for i := range all {
		judge(m, &all[i], early)
	}
	return all
}

// loseEarly marks what sysctl writes at boot to keys that do not exist yet.
// What a hook applies again later is not repeated here.
func loseEarly(as []Assignment, early ct.Tri, hooks []hook) []Assignment {
	if early == ct.Yes {
		return as
	}
	var out []Assignment
	for _, a := range as {
		if a.Effect == "" && !covered(a, hooks) {
			if early == ct.No {
				a.Effect, a.Why = Lost, "nf_conntrack is not loaded yet when sysctl runs, so the key does not exist"
			} else {
				a.Effect, a.Why = Sometimes, "lost if nf_conntrack is loaded after sysctl has run"
			}
		} else if a.Effect == "" {
			continue
		}
		out = append(out, a)
	}
	return out
}

// again returns the assignments of sysctl.d that a hook applies once the
// module is there.
func again(as []Assignment, early ct.Tri, hooks []hook) []Assignment {
	if early == ct.Yes {
		return nil
	}
	var out []Assignment
	for _, a := range as {
		if a.Effect == "" && covered(a, hooks) {
			a.Stage = StageModuleHook
			for _, h := range hooks {
				if h.covers(a.Written) {
					a.Why = "applied when the module is loaded, by the " + h.what
					break
				}
			}
			out = append(out, a)
		}
	}
	return out
}

func covered(a Assignment, hooks []hook) bool {
	return slices.ContainsFunc(hooks, func(h hook) bool { return h.covers(a.Written) })
}

// readOnly are keys that can be read only; writing them is refused.
var readOnly = map[string]bool{prefix + "count": true}

func judge(m *Machine, a *Assignment, early ct.Tri) {
	if a.Effect != "" {
		return
	}
	v, err := strconv.ParseInt(strings.TrimSpace(a.Value), 0, 64)
	switch {
	case deadName(a.Written, m.Version) != "":
		a.Effect, a.Why = Dead, deadName(a.Written, m.Version)
	case readOnly[a.Key]:
		a.Effect, a.Why = Ignored, "the key is read-only; nf_conntrack_max is the limit"
	case err != nil || v > 1<<31-1 || v < -1<<31:
		a.Effect, a.Why = Ignored, "not a number that the kernel takes"
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
		a.Effect, s.Winner, s.AtBoot = Wins, i, a.Value
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

func number(s string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(s), 0, 64)
	return n
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
