package observe

import (
	"context"
	"path/filepath"
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/procs"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/owners"
)

// Owners reads configuration and processes, and says who sets each of the
// values in the snapshot. root is the folder of a recorded machine, "" the
// live one. It returns nil for a namespace other than the host's, whose values
// no file of the host sets.
func Owners(ctx context.Context, root string, s *ct.Snapshot) *owners.Report {
	if s.Netns.Initial == ct.No {
		return nil
	}
	tree := rootfs.Tree{Root: root}
	m := owners.Machine{
		Files: tree, Version: s.Version, BuiltIn: s.Tracking.BuiltIn, CPUs: s.CPUs,
		Init: initOf(tree), Live: s.Sysctls, Processes: known(ctx, root),
	}
	if line, err := tree.ReadFile("/proc/cmdline"); err == nil {
		m.CommandLine = string(line)
	}
	r := owners.Analyze(m)
	return &r
}

// initOf tells what applies sysctl.d at boot. A machine whose first process is
// neither, such as a container, is taken to boot with what is installed.
func initOf(tree rootfs.Tree) owners.Init {
	for _, name := range []string{"/run/systemd/system", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if tree.Exists(name) {
			return owners.InitSystemd
		}
	}
	return owners.InitProcps
}

// known lists the running programs that may own settings.
func known(ctx context.Context, root string) []owners.Process {
	var out []owners.Process
	fs := procs.FS{Root: root}
	_ = fs.Each(ctx, func(p procs.Process) bool {
		if owners.Knows(p.Comm) {
			out = append(out, owners.Process{Pid: p.Pid, Name: p.Comm, Args: fs.Args(p.Pid),
				Files: rootfs.Tree{Root: filepath.Join("/", root, "proc", strconv.Itoa(p.Pid), "root")}})
		}
		return true
	})
	return out
}
