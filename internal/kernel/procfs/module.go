package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ctwarden/ctwarden/ct"
)

// ModuleState says how a piece of the kernel is there.
type ModuleState int

// States of a module.
const (
	ModuleUnknown ModuleState = iota // could not be told: treat as absent
	ModuleAbsent                     // a request to it might load it
	ModuleLoaded
	ModuleBuiltIn
)

// Present reports whether the module can be talked to without loading it.
func (s ModuleState) Present() bool { return s == ModuleLoaded || s == ModuleBuiltIn }

// Modules knows which modules are in the kernel. Read it before any request to
// a netfilter subsystem: the kernel answers a request to one that is not
// loaded by loading it.
type Modules struct {
	loaded   map[string]bool // nil on a kernel without modules
	builtin  map[string]bool // nil if the list was not found
	sys      string          // /sys/module
	kallsyms string
}

// Modules reads the lists of loaded and of built-in modules.
func (f FS) Modules() (*Modules, error) {
	m := &Modules{sys: f.path("sys/module"), kallsyms: f.path("proc/kallsyms")}
	loaded, err := open(f.path("proc/modules"), "the loaded modules", ParseModules)
	switch {
	case err == nil:
		m.loaded = loaded
	case !errors.Is(err, fs.ErrNotExist) || !exists(f.path("proc/sys/kernel/osrelease")):
		return nil, err
	}
	if release, err := f.Release(); err == nil {
		m.builtin = f.builtin(release)
	}
	return m, nil
}

// Monolithic reports whether the kernel cannot load modules at all, so that no
// request changes it.
func (m *Modules) Monolithic() bool { return m.loaded == nil }

// Loadable reports whether the running kernel's modules have a file of this
// name; nothing is loaded.
func (f FS) Loadable(name string) bool {
	release, err := f.Release()
	if err != nil || !fs.ValidPath(release) {
		return false
	}
	for _, dir := range [...]string{"lib/modules", "usr/lib/modules", "run/booted-system/kernel-modules/lib/modules"} {
		found, err := open(f.path(path.Join(dir, release, "modules.dep")), "the list of modules", func(r io.Reader) (bool, error) {
			return namesModule(r, name)
		})
		if err == nil {
			return found
		}
	}
	return false
}

// namesModule looks for a module in a modules.dep: "path/name.ko[.xz]: …".
func namesModule(r io.Reader, name string) (bool, error) {
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		file, _, _ := strings.Cut(sc.Text(), ":")
		base, _, _ := strings.Cut(path.Base(file), ".")
		if strings.ReplaceAll(base, "-", "_") == name {
			return true, nil
		}
	}
	return false, sc.Err()
}

func (f FS) builtin(release string) map[string]bool {
	if !fs.ValidPath(release) {
		return nil
	}
	for _, dir := range [...]string{"lib/modules", "usr/lib/modules", "run/booted-system/kernel-modules/lib/modules"} {
		list, err := open(f.path(path.Join(dir, release, "modules.builtin")), "the built-in modules", ParseBuiltin)
		if err == nil {
			return list
		}
	}
	return nil
}

// State tells how a module is there. symbol names a function that is in it and
// nowhere else; it settles the question where the machine keeps no list of
// what is built in, as inside most containers.
func (m *Modules) State(name, symbol string) ModuleState {
	name = strings.ReplaceAll(name, "-", "_")
	switch {
	case m.loaded[name]:
		return ModuleLoaded
	case m.builtin[name]:
		return ModuleBuiltIn
	case exists(filepath.Join(m.sys, name)):
		// Not in /proc/modules and yet there: built in, with parameters.
		return ModuleBuiltIn
	case m.builtin != nil:
		return ModuleAbsent
	}
	found, err := m.builtinSymbol(symbol)
	switch {
	case err != nil:
		return ModuleUnknown
	case found:
		return ModuleBuiltIn
	}
	return ModuleAbsent
}

// builtinSymbols keeps, by file and symbol, what was looked up: what is built in
// stays as it is, and the kernel takes 60 ms to print its symbols.
var builtinSymbols sync.Map

func (m *Modules) builtinSymbol(symbol string) (bool, error) {
	key := m.kallsyms + " " + symbol
	if found, ok := builtinSymbols.Load(key); ok {
		return found.(bool), nil
	}
	found, err := open(m.kallsyms, "the kernel's symbols", func(r io.Reader) (bool, error) {
		return hasBuiltinSymbol(r, symbol)
	})
	if err == nil {
		builtinSymbols.Store(key, found)
	}
	return found, err
}

// ParseModules reads /proc/modules.
func ParseModules(r io.Reader) (map[string]bool, error) {
	set := make(map[string]bool)
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	for sc.Scan() {
		name, _, _ := strings.Cut(sc.Text(), " ")
		if name != "" {
			set[strings.ReplaceAll(name, "-", "_")] = true
		}
	}
	return set, sc.Err()
}

// ParseBuiltin reads a modules.builtin: one path of a would-be module a line.
func ParseBuiltin(r io.Reader) (map[string]bool, error) {
	set := make(map[string]bool)
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	for sc.Scan() {
		name := strings.TrimSuffix(path.Base(strings.TrimSpace(sc.Text())), ".ko")
		set[strings.ReplaceAll(name, "-", "_")] = true
	}
	return set, sc.Err()
}

// maxSymbolBytes bounds the reading of /proc/kallsyms, some 10 MB today.
const maxSymbolBytes = 256 << 20

// hasBuiltinSymbol looks for a symbol that belongs to no module.
func hasBuiltinSymbol(r io.Reader, symbol string) (bool, error) {
	needle := []byte(" " + symbol)
	sc := bufio.NewScanner(io.LimitReader(r, maxSymbolBytes))
	sc.Buffer(make([]byte, 64<<10), 64<<10)
	for sc.Scan() {
		if bytes.HasSuffix(sc.Bytes(), needle) {
			return true, nil
		}
	}
	return false, sc.Err()
}

// ModuleParams reads the parameters of a module that this user may read.
func (f FS) ModuleParams(module string) map[string]string {
	dir := f.path("sys/module/" + module + "/parameters")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	params := make(map[string]string, len(entries))
	for _, e := range entries {
		if b, err := read(filepath.Join(dir, e.Name()), 4096); err == nil {
			params[e.Name()] = strings.TrimSpace(string(b))
		}
	}
	return params
}

// IPTables returns the legacy iptables tables that exist in the namespace, for
// IPv4 and IPv6. Asking the kernel about any other would create it.
func (f FS) IPTables() (v4, v6 []string, err error) {
	v4, err4 := f.tableNames("ip_tables_names")
	v6, err6 := f.tableNames("ip6_tables_names")
	return v4, v6, errors.Join(err4, err6)
}

func (f FS) tableNames(file string) ([]string, error) {
	names, err := openNet(f, file, "the names of iptables tables", ParseNames)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// ParseNames reads one name a line.
func ParseNames(r io.Reader) ([]string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFileBytes))
	return strings.Fields(string(b)), err
}

// Offers tells whether tracking is in the kernel, and whether it is built in.
func (m *Modules) Offers() (loaded, builtIn ct.Tri) {
	s := m.State("nf_conntrack", "nf_conntrack_in")
	if s == ModuleAbsent && m.loaded["ip_conntrack"] {
		s = ModuleLoaded
	}
	switch s {
	case ModuleLoaded:
		return ct.Yes, ct.No
	case ModuleBuiltIn:
		return ct.Yes, ct.Yes
	case ModuleAbsent:
		return ct.No, ct.No
	}
	return ct.Unknown, ct.Unknown
}
