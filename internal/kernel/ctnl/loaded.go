package ctnl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Module names that Loaded is asked about.
const (
	moduleCTNetlink = "nf_conntrack_netlink"
	moduleTimeout   = "nfnetlink_cttimeout"
)

// symbols has a function of each module that is in /proc/kallsyms when the
// module is built in.
var symbols = map[string]string{
	moduleCTNetlink: "ctnetlink_dump_table",
	moduleTimeout:   "cttimeout_new_timeout",
}

// ErrNotLoaded says that the kernel has no ctnetlink at the moment. Asking all
// the same would make a modular kernel load it, and with it connection
// tracking, which up to 4.12 may start to track everything.
var ErrNotLoaded = errors.New("nf_conntrack_netlink is not loaded")

// Loaded returns nil if ctnetlink can be used without loading a module,
// ErrNotLoaded if not, or why it cannot be told. root is put before every path
// that it reads; "" is this machine.
func Loaded(root string) error {
	return loaded(root, moduleCTNetlink)
}

func loaded(root, module string) error {
	in, err := inModules(root, module)
	if in || errors.Is(err, fs.ErrNotExist) {
		return nil // listed, or a kernel without modules, which can load none
	}
	if err != nil {
		return fmt.Errorf("look for kernel module %q: %w", module, err)
	}
	if _, err := os.Stat(filepath.Join(root, "/sys/module", module)); err == nil {
		return nil
	}
	if builtIn(root, module) || inKernel(root, module) {
		return nil
	}
	if module == moduleCTNetlink {
		return ErrNotLoaded
	}
	return fmt.Errorf("%w: %s", ErrModule, module)
}

func inModules(root, module string) (bool, error) {
	return anyLine(filepath.Join(root, "/proc/modules"), func(line []byte) bool {
		name, _, _ := bytes.Cut(line, []byte(" "))
		return string(name) == module
	})
}

// builtIn looks into the list that comes with the kernel's modules. A module
// without parameters leaves no trace in /sys/module when it is built in.
func builtIn(root, module string) bool {
	release, err := os.ReadFile(filepath.Join(root, "/proc/sys/kernel/osrelease"))
	if err != nil {
		return false
	}
	list := filepath.Join(root, "/lib/modules", strings.TrimSpace(string(release)), "modules.builtin")
	in, _ := anyLine(list, func(line []byte) bool {
		return bytes.HasSuffix(line, []byte("/"+module+".ko"))
	})
	return in
}

// inKernel looks for one of the module's functions in the kernel itself, for
// containers that lack /lib/modules.
func inKernel(root, module string) bool {
	symbol, known := symbols[module]
	in, _ := anyLine(filepath.Join(root, "/proc/kallsyms"), func(line []byte) bool {
		fields := bytes.Fields(line)
		return len(fields) == 3 && string(fields[2]) == symbol
	})
	return known && in
}

func anyLine(path string, match func([]byte) bool) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if match(lines.Bytes()) {
			return true, nil
		}
	}
	return false, lines.Err()
}
