package owners

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

var (
	modulesLoadDirs = []string{"/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d", "/lib/modules-load.d"}
	modprobeDirs    = []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"}
	udevDirs        = []string{"/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"}
)

// conntrackModule reports whether loading this module loads nf_conntrack.
func conntrackModule(name string) bool {
	name = strings.ReplaceAll(name, "-", "_")
	for _, p := range []string{"nf_conntrack", "nf_nat", "iptable_nat", "ip6table_nat", "xt_conntrack", "xt_state",
		"xt_MASQUERADE", "xt_CT", "xt_connmark", "xt_connlimit", "nft_ct", "nft_nat", "nft_masq", "nft_redir",
		"nft_chain_nat", "ip_vs", "openvswitch", "act_ct", "nf_flow_table", "nft_flow_offload", "nft_connlimit"} {
		if name == p || strings.HasPrefix(name, p+"_") {
			return true
		}
	}
	return false
}

// words reads lines of words, comments and continuation lines removed, as
// modprobe.d(5) and modules-load.d(5) have them.
func words(data []byte, yield func(line int, fields []string)) {
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	start, joined := 0, ""
	for n := 1; sc.Scan(); n++ {
		if joined == "" {
			start = n
		}
		s := strings.TrimSuffix(sc.Text(), "\r")
		if rest, more := strings.CutSuffix(s, `\`); more {
			joined += rest + " "
			continue
		}
		s = strings.TrimSpace(joined + s)
		joined = ""
		if s != "" && s[0] != '#' && s[0] != ';' {
			yield(start, strings.Fields(s))
		}
	}
	if f := strings.Fields(joined); len(f) > 0 {
		yield(start, f)
	}
}

// earlyModules tells whether the keys exist when sysctl runs, and why.
func earlyModules(m *Machine) (ct.Tri, string) {
	if m.BuiltIn == ct.Yes {
		return ct.Yes, "connection tracking is part of this kernel, not a module"
	}
	for _, w := range strings.Fields(m.CommandLine) {
		k, v, _ := strings.Cut(w, "=")
		if k == "modules_load" || k == "modules-load" || k == "rd.modules_load" {
			for _, name := range strings.Split(v, ",") {
				if conntrackModule(name) {
					return ct.Yes, "the kernel command line loads " + name
				}
			}
		}
	}
	files := confFiles(m.Files, modulesLoadDirs, ".conf")
	files = append(files, confFile{path: "/etc/modules"})
	for _, f := range files {
		data, err := m.Files.ReadFile(f.path)
		if err != nil || f.maskedBy != "" {
			continue
		}
		found := ""
		words(data, func(_ int, w []string) {
			if conntrackModule(w[0]) {
				found = w[0]
			}
		})
		if found != "" {
			return ct.Yes, f.path + " loads " + found + " before sysctl runs"
		}
	}
	if m.BuiltIn == ct.Unknown {
		return ct.Unknown, "it is not known whether nf_conntrack is built in"
	}
	return ct.No, "nothing loads nf_conntrack before sysctl runs; its first user does, later"
}

// hook is something that applies settings when the module is loaded.
type hook struct {
	file string
	line int
	what string
	own  []Assignment // values that the hook itself names
	// runs says that it applies sysctl's files again, with tool, and selects
	// which of their keys.
	runs    bool
	tool    tool
	selects selection
}

// moduleOptions reads modprobe.d: options at load, and install hooks.
func moduleOptions(m *Machine, r *Report) (options []Assignment, hooks []hook) {
	for _, f := range confFiles(m.Files, modprobeDirs, ".conf") {
		data, err := m.Files.ReadFile(f.path)
		if err != nil {
			r.Unread = append(r.Unread, f.path)
			continue
		}
		words(data, func(line int, w []string) {
			if len(w) < 3 || strings.ReplaceAll(w[1], "-", "_") != "nf_conntrack" {
				return
			}
			switch w[0] {
			case "options":
				for _, o := range w[2:] {
					options = append(options, moduleOption(m, o, f, line, "modprobe.d", StageModule)...)
				}
			case "install":
				if f.maskedBy == "" {
					hooks = append(hooks, installHook(f.path, line, strings.Join(w[2:], " ")))
				}
			}
		})
	}
	for _, w := range strings.Fields(m.CommandLine) {
		if o, ok := strings.CutPrefix(w, "nf_conntrack."); ok {
			options = append(options, moduleOption(m, o, confFile{path: "/proc/cmdline"}, 0, "kernel command line", StageModule)...)
		}
	}
	return options, firstOnly(hooks)
}

// firstOnly lets the first install line stand: libkmod runs no second one
// (kmod_module_get_install_commands).
func firstOnly(hooks []hook) []hook {
	for i := 1; i < len(hooks); i++ {
		hooks[i].runs = false
		for j := range hooks[i].own {
			a := &hooks[i].own[j]
			a.Effect, a.Why = Ignored, fmt.Sprintf("modprobe runs one install line, the one at %s:%d", hooks[0].file, hooks[0].line)
		}
	}
	return hooks
}

// moduleOption turns hashsize=N into what it sets: buckets, and with them
// max = 8 × N (nf_conntrack_init_start). Other parameters set no key here, and
// unknown ones are refused by the kernel.
func moduleOption(m *Machine, option string, f confFile, line int, owner string, stage Stage) []Assignment {
	name, value, _ := strings.Cut(option, "=")
	a := Assignment{Stage: stage, Owner: owner, File: f.path, Line: line, Written: "nf_conntrack " + name, Value: value}
	switch name {
	case "hashsize":
		a.Key = bucketsKey
	case "acct", "tstamp", "enable_hooks", "expect_hashsize", "nf_conntrack_helper":
		return nil
	default:
		a.Key, a.Effect = prefix+strings.TrimPrefix(name, "nf_conntrack_"), Ignored
		a.Why = "the module has no parameter of this name"
		return []Assignment{a}
	}
	if f.maskedBy != "" {
		a.Effect, a.Why = Masked, "hidden by "+f.maskedBy
	} else if m.BuiltIn == ct.Yes && owner == "modprobe.d" {
		a.Effect, a.Why = Ignored, "connection tracking is built in: modprobe options never reach it"
	}
	n, err := strconv.ParseInt(value, 0, 64)
	if err != nil || n <= 0 || n > 1<<31 {
		if a.Effect == "" {
			a.Effect, a.Why = Ignored, "not a number of buckets"
		}
		return []Assignment{a}
	}
	a.Value = strconv.FormatInt(n, 10)
	limit := a
	limit.Key, limit.Value = maxKey, strconv.FormatInt(8*n, 10)
	limit.Why = strings.TrimPrefix(limit.Why+"; hashsize= at load also sets max to eight times the value", "; ")
	return []Assignment{a, limit}
}

var patternArg = regexp.MustCompile(`--pattern[= ]+'?"?([^'"\s]+)`)

// installHook reads the command of an "install nf_conntrack" line. firewalld's
// applies every sysctl file again, restricted by a regular expression.
func installHook(file string, line int, command string) hook {
	h := hook{file: file, line: line, what: "install hook in " + file}
	h.own = shellAssignments(command, StageModuleHook, "modprobe hook", file, line)
	if !strings.Contains(command, "--system") && !strings.Contains(command, "systemd-sysctl") {
		return h
	}
	h.runs, h.tool = true, toolOf(command)
	if h.tool == systemdSysctl {
		h.selects.prefixes = prefixes(command)
	} else if m := patternArg.FindStringSubmatch(command); m != nil {
		h.selects.pattern, _ = regexp.Compile(m[1]) // what does not compile here selects all
	}
	return h
}

// toolOf tells which program a command applies sysctl's files with.
func toolOf(command string) tool {
	if strings.Contains(command, "systemd-sysctl") {
		return systemdSysctl
	}
	return procpsSysctl
}

// udevHooks finds rules that act when the module appears, as sysctl.d(5)
// recommends.
func udevHooks(m *Machine) []hook {
	var hooks []hook
	for _, f := range confFiles(m.Files, udevDirs, ".rules") {
		data, err := m.Files.ReadFile(f.path)
		if err != nil || f.maskedBy != "" || !bytes.Contains(data, []byte("nf_conntrack")) {
			continue
		}
		words(data, func(line int, w []string) {
			if h, ok := udevHook(f.path, line, strings.Join(w, " ")); ok {
				hooks = append(hooks, h)
			}
		})
	}
	return hooks
}

var (
	udevModule = regexp.MustCompile(`SUBSYSTEM==\s*"module"`)
	udevKernel = regexp.MustCompile(`KERNEL==\s*"([^"]+)"`)
	udevPrefix = regexp.MustCompile(`--prefix[= ]+'?([^'"\s]+)`)
)

func udevHook(file string, line int, rule string) (hook, bool) {
	k := udevKernel.FindStringSubmatch(rule)
	if k == nil || !udevModule.MatchString(rule) || !strings.Contains(rule, "RUN") {
		return hook{}, false
	}
	matches := false
	for _, alt := range strings.Split(k[1], "|") {
		ok, err := path.Match(alt, "nf_conntrack")
		matches = matches || ok && err == nil
	}
	if !matches {
		return hook{}, false
	}
	h := hook{file: file, line: line, what: "udev rule in " + file}
	h.own = shellAssignments(rule, StageModuleHook, "udev", file, line)
	if !strings.Contains(rule, "systemd-sysctl") && !strings.Contains(rule, "--system") {
		return h, true
	}
	h.runs, h.tool = true, toolOf(rule)
	if h.tool == systemdSysctl {
		h.selects.prefixes = prefixes(rule)
	}
	return h, true
}

// prefixes reads the --prefix options of systemd-sysctl, which select whole
// parts of a path. One that begins with /proc/sys selects nothing, though the
// option was once made for it: systemd 252 and 257 put /proc/sys before it.
func prefixes(command string) []string {
	var all []string
	for _, p := range udevPrefix.FindAllStringSubmatch(command, -1) {
		all = append(all, keyPath(p[1]))
	}
	return all
}
