package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

func livePageBytes() int64 { return int64(os.Getpagesize()) }

// Release returns what uname -r prints.
func (f FS) Release() (string, error) {
	return f.line("proc/sys/kernel/osrelease", "the kernel release")
}

// Hostname returns the name of the machine.
func (f FS) Hostname() (string, error) { return f.line("proc/sys/kernel/hostname", "the host name") }

// BootID returns the number of this run of the kernel, drawn at boot.
func (f FS) BootID() (string, error) {
	return f.line("proc/sys/kernel/random/boot_id", "the boot id")
}

// line reads a file of one line.
func (f FS) line(name, what string) (string, error) {
	b, err := read(f.path(name), 4096)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", what, err)
	}
	s, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(s), nil
}

// Uptime returns the seconds since boot.
func (f FS) Uptime() (int64, error) {
	s, err := f.line("proc/uptime", "the uptime")
	if err != nil {
		return 0, err
	}
	return parseUptime(s)
}

func parseUptime(s string) (int64, error) {
	first, _, _ := strings.Cut(s, " ")
	sec, _, _ := strings.Cut(first, ".")
	n, err := parseCount(sec)
	if err != nil {
		return 0, fmt.Errorf("read the uptime: %q is not a number of seconds", clip(s))
	}
	return n, nil
}

// CPUs returns the number of CPUs on line.
func (f FS) CPUs() (int, error) {
	return open(f.path("proc/stat"), "the CPUs", ParseCPUs)
}

// ParseCPUs counts the CPUs of /proc/stat.
func ParseCPUs(r io.Reader) (int, error) {
	n := 0
	br := bufio.NewReader(io.LimitReader(r, 4*maxFileBytes))
	for {
		line, isPrefix, err := br.ReadLine()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if rest, ok := bytes.CutPrefix(line, []byte("cpu")); ok && len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
			n++
		}
		for isPrefix && err == nil {
			_, isPrefix, err = br.ReadLine()
		}
	}
}

// NetnsInode returns the number of the network namespace, as it stands in
// net:[N] and in the kernel's messages.
func (f FS) NetnsInode() (uint64, error) {
	path := "/proc/self/task/" + strconv.Itoa(gettid()) + "/ns/net"
	switch {
	case f.Root != "":
		path = f.path("proc/self/ns/net")
	case f.Pid != 0:
		path = "/proc/" + strconv.Itoa(f.Pid) + "/ns/net"
	}
	link, err := os.Readlink(path)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's number: %w", err)
	}
	return ParseNetns(link)
}

// ParseNetns reads "net:[4026531840]".
func ParseNetns(s string) (uint64, error) {
	inner, ok := strings.CutPrefix(s, "net:[")
	inner, end := strings.CutSuffix(inner, "]")
	n, err := strconv.ParseUint(inner, 10, 64)
	if !ok || !end || err != nil {
		return 0, fmt.Errorf("%q does not name a network namespace", clip(s))
	}
	return n, nil
}

// InitialNetns tells whether the calling thread is in the host's network
// namespace: net.core.message_cost exists in that one alone.
func (f FS) InitialNetns() ct.Tri {
	if !exists(f.path("proc/sys/net/core")) {
		return ct.Unknown
	}
	return ct.TriOf(exists(f.path("proc/sys/net/core/message_cost")))
}

// Container returns the container runtime that this process runs in, or "".
func (f FS) Container() string {
	if s, err := f.line("run/systemd/container", "the container"); err == nil && s != "" {
		return s
	}
	for name, runtime := range map[string]string{".dockerenv": "docker", "run/.containerenv": "podman"} {
		if exists(f.path(name)) {
			return runtime
		}
	}
	if b, err := read(f.path("proc/1/environ"), maxFileBytes); err == nil {
		for v := range bytes.SplitSeq(b, []byte{0}) {
			if name, ok := bytes.CutPrefix(v, []byte("container=")); ok && len(name) > 0 {
				return clip(string(name))
			}
		}
	}
	if b, err := read(f.path("proc/1/cgroup"), maxFileBytes); err == nil {
		return containerOf(b)
	}
	return ""
}

// containerOf finds a runtime in /proc/PID/cgroup.
func containerOf(cgroup []byte) string {
	for _, c := range [...]struct{ sign, runtime string }{
		{"kubepods", "kubernetes"}, {"/docker", "docker"}, {"libpod", "podman"},
		{"/lxc", "lxc"}, {"containerd", "containerd"}, {"machine.slice/systemd-nspawn", "systemd-nspawn"},
	} {
		if bytes.Contains(cgroup, []byte(c.sign)) {
			return c.runtime
		}
	}
	return ""
}

// ExpectCount counts the expectations of the namespace; the file is root's.
func (f FS) ExpectCount() (int64, error) {
	return openNet(f, "nf_conntrack_expect", "the expectations", countLines)
}

func countLines(r io.Reader) (int64, error) {
	var n int64
	buf := make([]byte, 32<<10)
	for {
		k, err := r.Read(buf)
		n += int64(bytes.Count(buf[:k], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
