package sockdiag

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// Process is a process that holds a socket. Where several do, it is the one
// with the smallest id.
type Process struct {
	PID       int
	Name      string // its comm: at most 15 bytes
	Container string // runtime and short id of its container, "" outside one
}

// Processes finds the holder of each socket by its inode. Processes that this
// user may not look into are left out: without root, those of others.
func Processes() (map[uint32]Process, error) { return processes("/proc") }

func processes(proc string) (map[uint32]Process, error) {
	names, err := readNames(proc)
	if err != nil {
		return nil, err
	}
	found := make(map[uint32]Process)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			addProcess(found, filepath.Join(proc, name), pid)
		}
	}
	return found, nil
}

func addProcess(found map[uint32]Process, dir string, pid int) {
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return // gone, or not ours to see
	}
	var p Process
	for _, fd := range fds {
		link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		if err != nil {
			continue
		}
		inode, ok := socketInode(link)
		if !ok {
			continue
		}
		if p.PID == 0 {
			p = readProcess(dir, pid)
		}
		if old, ok := found[inode]; !ok || pid < old.PID {
			found[inode] = p
		}
	}
}

// socketInode reads "socket:[12345]".
func socketInode(link string) (uint32, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 32)
	return uint32(n), err == nil
}

func readProcess(dir string, pid int) Process {
	p := Process{PID: pid, Name: "?"}
	if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		p.Name = strings.TrimSpace(string(comm))
	}
	if cg, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil {
		p.Container = containerOf(string(cg))
	}
	return p
}

// containerOf finds a container in the lines of /proc/PID/cgroup: the last
// part of a path that is, or ends in, a long hexadecimal id.
func containerOf(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		parts := strings.Split(strings.TrimSpace(line), "/")
		for i := len(parts) - 1; i > 0; i-- {
			if name, ok := containerName(parts[i]); ok {
				return name
			}
			if parts[i-1] == "lxc" || parts[i-1] == "lxc.payload" || parts[i-1] == "machine.slice" && strings.HasPrefix(parts[i], "machine-") {
				return parts[i]
			}
			if name, ok := strings.CutPrefix(parts[i], "lxc.payload."); ok {
				return "lxc:" + name
			}
		}
	}
	return ""
}

// idLen is the length of the ids that Docker, containerd, CRI-O and Podman
// give.
const idLen = 64

func containerName(part string) (string, bool) {
	part = strings.TrimSuffix(part, ".scope")
	runtime, id := "", part
	if i := strings.LastIndexAny(part, "-:"); i >= 0 {
		runtime, id = part[:i], part[i+1:]
	}
	if len(id) != idLen || strings.Trim(id, "0123456789abcdef") != "" {
		return "", false
	}
	if runtime == "" || strings.ContainsAny(runtime, ":/") {
		runtime = "container"
	}
	return runtime + ":" + id[:12], true
}

// ContainerAddresses returns the addresses of other network namespaces that
// containers live in, with the container's name: what a flow that is only
// passed on belongs to. own is the inode of the namespace that is asked about.
func ContainerAddresses(own uint64) map[netip.Addr]string {
	found := make(map[netip.Addr]string)
	seen := map[uint64]bool{own: true}
	names, err := readNames("/proc")
	if err != nil {
		return found
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		ns, err := netns.Inode(name)
		if err != nil || seen[ns] {
			continue
		}
		container := readProcess(filepath.Join("/proc", name), pid).Container
		if container == "" {
			continue // another process of the namespace may be in one
		}
		seen[ns] = true
		addrs, err := procfs.FS{Pid: pid}.Addresses()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			found[a] = container
		}
	}
	return found
}

func readNames(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
