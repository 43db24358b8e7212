package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

const (
	netnsDir   = "/run/netns"
	namePrefix = "ctwlab-"
)

// Host is a network namespace that the laboratory made, with a name under
// which ip netns, ctwarden --netns and others find it. It goes away with the
// test. The generators of traffic are its methods.
type Host struct {
	// Name is the namespace's name, "ctwlab-PID-START-N-ROLE".
	Name string
	// Addr4 and Addr6 are the host's own addresses, Dev the interface that
	// carries them. A gateway has those of its inside here.
	Addr4, Addr6 netip.Addr
	Dev          string
	// Sources4 and Sources6 are further prefixes of which every address is the
	// host's own: any of them can be bound to.
	Sources4, Sources6 netip.Prefix
	// Spoof4 and Spoof6 are prefixes that others route to this host and that
	// it owns no address of: answers sent to them end here in silence.
	Spoof4, Spoof6 netip.Prefix

	t    testing.TB
	link link // the cable that generators use
}

var hostSerial atomic.Uint64

// hosts are those that this process has made, by test.
var hosts = struct {
	mu sync.Mutex
	of map[testing.TB][]*Host
}{of: make(map[testing.TB][]*Host)}

// removeHostsOf removes the hosts of a test before its end does.
func removeHostsOf(t testing.TB) {
	hosts.mu.Lock()
	made := hosts.of[t]
	delete(hosts.of, t)
	hosts.mu.Unlock()
	for _, h := range made {
		h.remove()
	}
}

// NewHost makes an empty namespace with its loopback up. The topologies call
// it; a test needs it only for a namespace without neighbours.
func NewHost(t testing.TB, role string) *Host {
	t.Helper()
	o := self()
	name := fmt.Sprintf("%s%d-%d-%d-%s", namePrefix, o.PID, o.Start, hostSerial.Add(1), role)
	h := &Host{Name: name, t: t}
	if err := run("", "ip", "netns", "add", name); err != nil {
		t.Fatalf("lab: make a namespace: %v", err)
	}
	hosts.mu.Lock()
	hosts.of[t] = append(hosts.of[t], h)
	hosts.mu.Unlock()
	t.Cleanup(h.remove)
	h.IP("link set lo up")
	// IPv4 settings of a new namespace are those of the initial one.
	for _, k := range []string{"ipv4.conf.all.rp_filter", "ipv4.conf.default.rp_filter",
		"ipv6.conf.all.accept_dad", "ipv6.conf.default.accept_dad"} {
		h.SetSysctl("net."+k, "0")
	}
	return h
}

// Path is the file that stands for the namespace.
func (h *Host) Path() string { return filepath.Join(netnsDir, h.Name) }

func (h *Host) remove() {
	hosts.mu.Lock()
	hosts.of[h.t] = slices.DeleteFunc(hosts.of[h.t], func(x *Host) bool { return x == h })
	if len(hosts.of[h.t]) == 0 {
		delete(hosts.of, h.t)
	}
	hosts.mu.Unlock()
	if err := removeNamespace(h.Name); err != nil {
		h.t.Errorf("lab: %v", err)
	}
}

// removeNamespace ends the processes that still run in a namespace of the
// laboratory and removes its name. A name that is gone is no error.
func removeNamespace(name string) error {
	if _, ok := ownerOf(name); !ok {
		return fmt.Errorf("namespace %q is none of the laboratory's", name)
	}
	path := filepath.Join(netnsDir, name)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at namespace %s: %w", name, err)
	}
	killInside(st.Dev, st.Ino)
	return run("", "ip", "netns", "del", name)
}

// killInside ends every process whose network namespace is the given one.
func killInside(dev, ino uint64) {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		var st unix.Stat_t
		if unix.Stat(link, &st) != nil || st.Dev != dev || st.Ino != ino {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err == nil && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// namespaceNames lists the named namespaces of the machine.
func namespaceNames() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// ownerOf tells from a name which process made the namespace; ok is false for
// names that are none of the laboratory's.
func ownerOf(name string) (owner, bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	parts := strings.SplitN(rest, "-", 4)
	if !ok || len(parts) != 4 {
		return owner{}, false
	}
	pid, err1 := strconv.Atoi(parts[0])
	start, err2 := strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil || pid <= 0 {
		return owner{}, false
	}
	return owner{PID: pid, Start: start}, true
}

// Do calls f on a thread that is inside the namespace. Sockets that f opens
// stay there and may be used anywhere later; goroutines that f starts are
// outside. f must return: t.Fatal has no place in it. Do returns f's error.
func (h *Host) Do(f func() error) error { return netns.Do(h.Path(), f) }

// Exec runs a command inside the namespace and returns its standard output. A
// failure of the command ends the test.
func (h *Host) Exec(name string, args ...string) string {
	h.t.Helper()
	out, err := h.TryExec(name, args...)
	if err != nil {
		h.t.Fatalf("lab: %s: %v", h.Name, err)
	}
	return out
}

// TryExec is Exec for commands that may fail. The error holds what the command
// wrote to its standard error.
func (h *Host) TryExec(name string, args ...string) (string, error) {
	var out, errOut strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := h.Do(cmd.Run); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, firstLines(errOut.String(), 5))
	}
	return out.String(), nil
}

// Start starts a command inside the namespace. It is killed at the end of the
// test if it still runs then.
func (h *Host) Start(cmd *exec.Cmd) {
	h.t.Helper()
	if err := h.Do(cmd.Start); err != nil {
		h.t.Fatalf("lab: %s: start %s: %v", h.Name, cmd.Path, err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// IP runs one line of ip -batch for each argument.
func (h *Host) IP(lines ...string) {
	h.t.Helper()
	if err := run(strings.Join(lines, "\n")+"\n", "ip", "-netns", h.Name, "-batch", "-"); err != nil {
		h.t.Fatalf("lab: %v", err)
	}
}

// NFT loads a ruleset into the namespace, as nft -f would.
func (h *Host) NFT(ruleset string) {
	h.t.Helper()
	if err := h.TryNFT(ruleset); err != nil {
		h.t.Fatalf("lab: %s: load rules: %v\n%s", h.Name, err, ruleset)
	}
}

// TryNFT is NFT for rules that the kernel may not know.
func (h *Host) TryNFT(ruleset string) error {
	return h.Do(func() error { return run(ruleset, "nft", "-f", "-") })
}

// Track switches connection tracking on: one rule that looks at ct state is
// what makes the kernel register its hooks in a namespace. The rule accepts
// everything.
func (h *Host) Track() {
	h.t.Helper()
	h.NFT(`table inet ctwlab {
	chain input { type filter hook input priority 0; ct state new counter; }
	chain forward { type filter hook forward priority 0; ct state new counter; }
}`)
}

// SetSysctl writes a sysctl of the namespace, named with dots.
func (h *Host) SetSysctl(key, value string) {
	h.t.Helper()
	err := h.Do(func() error { return os.WriteFile(sysctlPath(key), []byte(value), 0) })
	if err != nil {
		h.t.Fatalf("lab: %s: set %s to %s: %v", h.Name, key, value, err)
	}
}

// Sysctl reads a sysctl of the namespace, named with dots.
func (h *Host) Sysctl(key string) string {
	h.t.Helper()
	var b []byte
	err := h.Do(func() (err error) {
		b, err = os.ReadFile(sysctlPath(key))
		return err
	})
	if err != nil {
		h.t.Fatalf("lab: %s: read %s: %v", h.Name, key, err)
	}
	return strings.TrimSpace(string(b))
}

// Count is nf_conntrack_count of the namespace.
func (h *Host) Count() int {
	h.t.Helper()
	n, err := strconv.Atoi(h.Sysctl("net.netfilter.nf_conntrack_count"))
	if err != nil {
		h.t.Fatalf("lab: %s: count: %v", h.Name, err)
	}
	return n
}

func sysctlPath(key string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
}
