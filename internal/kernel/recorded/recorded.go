// Package recorded makes the folder of another machine, as a sosreport unpacks
// to, safe and complete to read: it copies the plain files that matter into a
// folder of its own, and puts settings that were only recorded as the output
// of a command where the kernel has them.
package recorded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
)

// places are the folders of a machine that are read, besides its logs.
var places = []string{"/proc", "/sys/module", "/etc", "/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d",
	"/usr/lib/modprobe.d", "/usr/local/lib/modprobe.d", "/run/modprobe.d", "/usr/lib/modules-load.d", "/run/modules-load.d",
	"/usr/lib/udev/rules.d", "/usr/lib/tuned", "/usr/lib/systemd",
	"/lib/sysctl.d", "/lib/modprobe.d", "/lib/modules-load.d", "/lib/systemd"}

const (
	maxFiles = 20_000
	maxBytes = 256 << 20
	maxDepth = 12
)

// ErrTooMuch says that a folder holds more than is copied.
var ErrTooMuch = errors.New("more files than a recorded machine has")

// Stage copies what matters of root into a new folder and returns it with the
// function that removes it. Links are followed inside root only; what is no
// plain file, or cannot be read, is left out.
func Stage(root string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", "ctwarden-recorded-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	s := &stage{from: rootfs.Tree{Root: root}, to: dir}
	for _, p := range places {
		if real, rerr := s.from.Resolve(p); rerr == nil && real == p { // /lib may be /usr/lib
			err = errors.Join(err, s.copy(p, 0))
		}
	}
	err = errors.Join(err, s.sosreport())
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("read recorded machine %q: %w", root, err)
	}
	return dir, remove, nil
}

// stage is one copy under way.
type stage struct {
	from  rootfs.Tree
	to    string
	files int
	bytes int
}

// copy copies a file, or a folder with all below it.
func (s *stage) copy(name string, depth int) error {
	if depth > maxDepth {
		return nil
	}
	names, err := s.from.List(name)
	if err != nil {
		return s.copyFile(name)
	}
	for _, n := range names {
		if name == "/proc" && strings.Trim(n, "0123456789") == "" {
			continue // processes
		}
		if s.files++; s.files > maxFiles || s.bytes > maxBytes {
			return ErrTooMuch
		}
		if err := s.copy(path.Join(name, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) copyFile(name string) error {
	data, err := s.from.ReadFile(name)
	if err != nil {
		return nil //nolint:nilerr // what could not be read is missing, and said to be
	}
	s.bytes += len(data)
	return s.write(name, data)
}

func (s *stage) write(name string, data []byte) error {
	to := filepath.Join(s.to, filepath.Clean("/"+name))
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	err := os.WriteFile(to, data, 0o600)
	var p *fs.PathError
	if errors.As(err, &p) && len(name) > 200 {
		return nil // no name of the kernel's
	}
	return err
}

// wanted says which settings a diagnosis reads.
func wanted(key string) bool {
	for _, p := range []string{"net.netfilter.", "net.nf_conntrack", "net.ipv4.netfilter.", "net.ipv4.ip_conntrack",
		"net.core.", "net.ipv4.tcp_", "net.ipv4.ip_local_port_range", "net.ipv4.neigh.default.", "net.ipv6.neigh.default.", "kernel.hostname", "kernel.osrelease"} {
		if strings.HasPrefix(key, p) {
			return !strings.Contains(key, "/")
		}
	}
	return false
}

// fill writes a file of one line unless it is there.
func (s *stage) fill(name, value string) error { return s.fillRaw(name, value+"\n") }

func (s *stage) fillRaw(name, data string) error {
	if _, err := os.Lstat(filepath.Join(s.to, name)); err == nil {
		return nil
	}
	return s.write(name, []byte(data))
}
