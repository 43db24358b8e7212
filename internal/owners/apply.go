package owners

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// tool is a program that applies the files of sysctl.d.
type tool int

const (
	systemdSysctl tool = iota // systemd-sysctl
	procpsSysctl              // sysctl --system of procps 4
)

func (i Init) tool() tool {
	if i == InitProcps {
		return procpsSysctl
	}
	return systemdSysctl
}

// sysctlEntry is a line of a sysctl file on its way to the kernel.
type sysctlEntry struct {
	sysctlLine
	file, managed, maskedBy string
	path                    string // below /proc/sys, perhaps a pattern
}

func (e sysctlEntry) place() string { return fmt.Sprintf("%s:%d", e.file, e.line) }

func (e sysctlEntry) assignment(key string, effect Effect, why string) Assignment {
	return Assignment{Stage: StageSysctl, Owner: "sysctl.d", File: e.file, Line: e.line, Written: e.key, Key: key,
		Value: e.value, Managed: e.managed, Effect: effect, Why: why}
}

// selection restricts a run of a tool; the zero value does not.
type selection struct {
	// prefixes are paths below /proc/sys, of systemd-sysctl --prefix.
	prefixes []string
	// pattern is asked about whole lines, as sysctl --pattern does: the "-" in
	// front, the value and the end of the line belong to them.
	pattern *regexp.Regexp
}

// takes reports whether a line is read at all.
func (s selection) takes(e sysctlEntry) bool {
	if s.pattern != nil {
		return s.pattern.MatchString(e.text)
	}
	return len(s.prefixes) == 0 || slices.ContainsFunc(s.prefixes, func(p string) bool {
		if isGlob(e.path) {
			return globCovers(e.path, p)
		}
		return e.path == p || strings.HasPrefix(e.path, p+"/")
	})
}

// matches reports whether a match of a pattern is applied.
func (s selection) matches(path string) bool {
	return len(s.prefixes) == 0 || slices.ContainsFunc(s.prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// globCovers is path_glob_can_match of systemd: part by part, a prefix has to
// match the pattern, which knows no braces here.
func globCovers(pattern, prefix string) bool {
	patterns, parts := strings.Split(pattern, "/"), strings.Split(prefix, "/")
	if len(parts) > len(patterns) {
		return false
	}
	for i, p := range parts {
		if !globMatch(patterns[i], p) {
			return false
		}
	}
	return true
}

// sysctlRun plays one run of a tool. The assignments come in the order in which
// the tool makes them; those that it does not make have an effect already and
// come first.
func sysctlRun(m *Machine, t tool, s selection, r *Report) []Assignment {
	var out []Assignment
	var taken []sysctlEntry
	for _, e := range sysctlEntries(m, t, r) {
		switch {
		case !s.takes(e):
		case e.maskedBy == "":
			taken = append(taken, e)
		default:
			for _, key := range matchKeys(m, e, t, selection{}) {
				out = append(out, e.assignment(key.name, Masked, "hidden by "+e.maskedBy))
			}
		}
	}
	if t == procpsSysctl {
		return append(out, inOrder(m, taken)...)
	}
	return append(out, asSystemd(m, taken, s)...)
}

// sysctlFiles lists what a tool reads, in its order. Names that begin with a
// dot are hidden from systemd; procps reads /etc/sysctl.conf last, systemd only
// through a link.
func sysctlFiles(f Files, t tool) []confFile {
	files := confFiles(f, sysctlDirs, ".conf")
	if t == systemdSysctl {
		return slices.DeleteFunc(files, func(f confFile) bool { return strings.HasPrefix(path.Base(f.path), ".") })
	}
	if f.Exists("/etc/sysctl.conf") {
		files = append(files, confFile{path: "/etc/sysctl.conf"})
	}
	return files
}

// sysctlEntries reads every line that a tool reads, in its order.
func sysctlEntries(m *Machine, t tool, r *Report) []sysctlEntry {
	var out []sysctlEntry
	for _, f := range sysctlFiles(m.Files, t) {
		data, err := m.Files.ReadFile(f.path)
		if err != nil {
			if real, rerr := m.Files.Resolve(f.path); r != nil && (rerr != nil || real != "/dev/null") {
				r.Unread = append(r.Unread, f.path)
			}
			continue
		}
		managed := managedBy(data)
		for _, l := range parseSysctl(data) {
			out = append(out, sysctlEntry{sysctlLine: l, file: f.path, managed: managed, maskedBy: f.maskedBy, path: keyPath(l.key)})
		}
	}
	return out
}

// asSystemd follows parse_file and apply_all of systemd-sysctl. A key has one
// assignment: another value in a later line takes the place of the earlier one
// and its turn, the same value keeps the earlier turn, and the bare key with
// "-" takes the assignment away. A pattern leaves alone every key that any line
// names, wherever it stands.
func asSystemd(m *Machine, entries []sysctlEntry, s selection) []Assignment {
	var idle []Assignment
	var order []*sysctlEntry
	byPath := make(map[string]*sysctlEntry)
	drop := func(e sysctlEntry, effect Effect, why string) {
		for _, key := range matchKeys(m, e, systemdSysctl, selection{}) {
			idle = append(idle, e.assignment(key.name, effect, why))
		}
	}
	for i := range entries {
		e := &entries[i]
		old := byPath[e.path]
		switch {
		case old == nil:
		case old.exclude == e.exclude && old.value == e.value:
			if !e.exclude {
				drop(*e, Ignored, "says the same as "+old.place())
			}
			continue
		case e.exclude:
			drop(*old, Ignored, "taken away by the bare key at "+e.place())
		case !old.exclude:
			drop(*old, Overridden, e.place()+" comes later")
		}
		if old != nil {
			order = slices.DeleteFunc(order, func(o *sysctlEntry) bool { return o == old })
		}
		byPath[e.path] = e
		order = append(order, e)
	}
	var made []Assignment
	for _, e := range order {
		if e.exclude {
			continue
		}
		for _, key := range matchKeys(m, *e, systemdSysctl, s) {
			switch other := byPath[key.path]; {
			case !isGlob(e.path) || other == nil:
				made = append(made, e.assignment(key.name, "", ""))
			case other.exclude:
				idle = append(idle, e.assignment(key.name, Ignored, "excluded from patterns by the bare key at "+other.place()))
			default:
				idle = append(idle, e.assignment(key.name, Ignored, "a line with the key's own name wins over a pattern"))
			}
		}
	}
	return append(idle, made...)
}

// inOrder follows write_setting_list of procps 4: line after line, but a
// pattern leaves alone every key that any line names.
func inOrder(m *Machine, entries []sysctlEntry) []Assignment {
	named := make(map[string]*sysctlEntry)
	entries = slices.Clone(entries)
	for i := range entries {
		e := &entries[i]
		if e.loose {
			e.path = " " + e.path // the blank becomes a part of the key
		}
		if !isGlob(e.path) {
			named[e.path] = e
		}
	}
	var idle, made []Assignment
	for _, e := range entries {
		if e.exclude {
			continue
		}
		if e.loose {
			for _, key := range matchKeys(m, e, procpsSysctl, selection{}) {
				idle = append(idle, e.assignment(key.name, Ignored, "procps takes the blank after - as a part of the key"))
			}
			continue
		}
		for _, key := range matchKeys(m, e, procpsSysctl, selection{}) {
			switch other := named[key.path]; {
			case !isGlob(e.path) || other == nil:
				made = append(made, e.assignment(key.name, "", ""))
			case other.exclude:
				idle = append(idle, e.assignment(key.name, Ignored, "excluded from patterns by the bare key at "+other.place()))
			default:
				idle = append(idle, e.assignment(key.name, Ignored, "a line with the key's own name wins over a pattern"))
			}
		}
	}
	return append(idle, made...)
}

func isGlob(key string) bool { return strings.ContainsAny(key, "*?[") }

// sysctlKey is a key that a line stands for: its path as the tool knows it, and
// today's name.
type sysctlKey struct{ path, name string }

// matchKeys returns the conntrack keys that a line stands for; a pattern is
// matched against the live keys, of which s may leave out some.
func matchKeys(m *Machine, e sysctlEntry, t tool, s selection) []sysctlKey {
	if !isGlob(e.path) {
		if name, ours := canon(e.key); ours {
			return []sysctlKey{{e.path, name}}
		}
		return nil
	}
	patterns := []string{e.path}
	if t == systemdSysctl {
		patterns = braces(e.path)
	}
	var keys []sysctlKey
	for live := range m.Live {
		k := sysctlKey{path: keyPath(live)}
		var ours bool
		if k.name, ours = canon(live); !ours || !s.matches(k.path) {
			continue
		}
		if slices.ContainsFunc(patterns, func(p string) bool { return globMatch(p, k.path) }) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b sysctlKey) int { return strings.Compare(a.path, b.path) })
	return keys
}

// globMatch is glob(7): path.Match with "!" as the other way to negate a class.
func globMatch(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), name)
	return ok && err == nil
}

// maxBraces bounds what a pattern expands to.
const maxBraces = 256

// braces expands {a,b} as GLOB_BRACE does, innermost last.
func braces(pattern string) []string {
	done := []string{}
	todo := []string{pattern}
	for len(todo) > 0 && len(done)+len(todo) <= maxBraces {
		p := todo[0]
		todo = todo[1:]
		open, alternatives, end := splitBraces(p)
		if alternatives == nil {
			done = append(done, p)
			continue
		}
		for _, a := range alternatives {
			todo = append(todo, p[:open]+a+p[end:])
		}
	}
	return done
}

// splitBraces finds the first group of braces: where it opens, its
// alternatives, and where it ends.
func splitBraces(p string) (open int, alternatives []string, end int) {
	open = strings.IndexByte(p, '{')
	if open < 0 {
		return 0, nil, 0
	}
	depth, from := 0, open+1
	for i := open; i < len(p); i++ {
		switch {
		case p[i] == '{':
			depth++
		case p[i] == ',' && depth == 1:
			alternatives = append(alternatives, p[from:i])
			from = i + 1
		case p[i] == '}':
			if depth--; depth == 0 {
				return open, append(alternatives, p[from:i]), i + 1
			}
		}
	}
	return 0, nil, 0
}

// SysctlFiles returns the files of settings that exist and are read at boot, in
// the order in which they are read, without those that others hide.
func SysctlFiles(f Files, init Init) []string {
	var names []string
	for _, c := range sysctlFiles(f, init.tool()) {
		if c.maskedBy == "" {
			names = append(names, c.path)
		}
	}
	return names
}
