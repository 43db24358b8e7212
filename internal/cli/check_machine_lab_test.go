package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// onAMachine are findings that belong to a whole machine: global settings, the
// tables of its neighbours, its files. prepare makes what is needed, and
// returns how to provoke the finding and what to ask check for.
var onAMachine = []struct {
	codes   string
	prepare func(*testing.T) (provoke func(), args []string)
}{
	{"log-unlimited", func(t *testing.T) (func(), []string) {
		return func() { put(t, "/proc/sys/net/core/message_cost", "0") }, nil
	}},
	{"max-unlimited", limited("max", "0", 0)},
	{"max-exceeds-memory", limited("max", "1000000000", 0)},
	{"max-below-count", limited("max", "5000", 6000)},
	{"buckets-too-few", limited("buckets", "1024", 0)},
	{"long-chains", limited("buckets", "1024", 40000)},
	{"neighbour-table-overflow", overflowNeighbours},
	{"socket-memory", exhaustSocketMemory},
	{"expectation-table-full", expectTooMuch},
	{"setting-lost-at-boot", configured("/etc/sysctl.d/90-ct.conf", "net.netfilter.nf_conntrack_max = 99999\n")},
	{"setting-not-live dead-setting", configured("/etc/modules-load.d/ct.conf", "nf_conntrack\n",
		"/etc/sysctl.d/90-ct.conf", "net.netfilter.nf_conntrack_max = 99999\nnet.ipv4.netfilter.ip_conntrack_max = 77777\n")},
	{"setting-overridden", configured("/etc/modules-load.d/ct.conf", "nf_conntrack\n",
		"/etc/sysctl.d/90-ct.conf", "net.netfilter.nf_conntrack_max = 99999\n",
		"/etc/rc.local", "#!/bin/sh\nsysctl -w net.netfilter.nf_conntrack_max=88888\n")},
}

// TestGuestProvokes provokes them. Before, check must not raise them.
func TestGuestProvokes(t *testing.T) {
	lab.Require(t, "ip", "nft")
	for _, c := range onAMachine {
		t.Run(c.codes, func(t *testing.T) {
			if c.codes == "long-chains" && !kernelVersion(t).AtLeast(5, 15) {
				t.Skip("kernels before 5.15 have no limit")
			}
			lab.SharedLimits(t)
			if c.codes == "max-unlimited" && kernelVersion(t).AtLeast(7, 0) {
				if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", []byte("0\n"), 0); !errors.Is(err, unix.EINVAL) {
					t.Fatalf("kernels from 7.0 on refuse a limit of 0: %v", err)
				}
				return
			}
			provoke, args := c.prepare(t)
			// A finding from the log alone remembers another test.
			raised := func() (codes []string) {
				for _, f := range runCheck(t, append([]string{"--observe", "1s"}, args...)...).Findings {
					if f.Figures != nil || f.Code == "log-unlimited" {
						codes = append(codes, f.Code)
					}
				}
				return codes
			}
			before := raised()
			provoke()
			after := raised()
			for _, code := range strings.Fields(c.codes) {
				if slices.Contains(before, code) || !slices.Contains(after, code) {
					t.Errorf("%s: before %q, after %q", code, before, after)
				}
			}
		})
	}
}

// put writes a file of the machine until the test ends.
func put(t *testing.T, name, text string) {
	t.Helper()
	old, err := os.ReadFile(name)
	if err == nil {
		t.Cleanup(func() { _ = os.WriteFile(name, old, 0o644) })
	} else {
		t.Cleanup(func() { os.Remove(name) })
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// configured writes files: names and texts in turn.
func configured(files ...string) func(*testing.T) (func(), []string) {
	return func(t *testing.T) (func(), []string) {
		return func() {
			for i := 0; i+1 < len(files); i += 2 {
				put(t, files[i], files[i+1])
			}
		}, nil
	}
}

// limited writes a limit of the machine around which so many entries are made:
// before it is lowered, or where they meet it.
func limited(key, value string, entries int) func(*testing.T) (func(), []string) {
	return func(t *testing.T) (func(), []string) {
		p := lab.Server(t)
		fill := func() {
			// Long chains refuse some of them, which is the point.
			if err := p.Server.TryFill(lab.Class{Count: entries, Proto: ct.UDP}); err != nil && key != "buckets" {
				t.Fatal(err)
			}
		}
		if key == "max" {
			fill()
		}
		return func() {
			put(t, "/proc/sys/net/netfilter/nf_conntrack_"+key, value)
			if key == "buckets" {
				fill()
			}
		}, []string{"--netns", p.Server.Path()}
	}
}

// overflowNeighbours sends to more addresses of a network than the table of
// neighbours may hold.
func overflowNeighbours(t *testing.T) (func(), []string) {
	h := lab.NewHost(t, "crowd")
	h.IP("link add v0 type veth peer name v1", "link set v1 up", "address add 10.77.0.1/16 dev v0", "link set v0 up")
	return func() {
		for key, n := range map[string]string{"gc_thresh1": "4", "gc_thresh2": "8", "gc_thresh3": "16"} {
			put(t, "/proc/sys/net/ipv4/neigh/default/"+key, n)
		}
		_ = h.Do(func() error {
			fd, err := net.ListenPacket("udp4", "10.77.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			lab.Go(t, func(ctx context.Context) (int, error) {
				defer fd.Close()
				for i := 2; ctx.Err() == nil; i++ {
					_, _ = fd.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 77, byte(i>>8), byte(i)), Port: 9})
					time.Sleep(time.Millisecond)
				}
				return 0, nil
			})
			return nil
		})
	}, nil
}

// exhaustSocketMemory fills the buffers of connections that nobody reads, and
// makes what they hold the limit.
func exhaustSocketMemory(t *testing.T) (func(), []string) {
	h := lab.NewHost(t, "reader")
	h.IP("link set lo up")
	return func() {
		_ = h.Do(func() error {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			for range 4 {
				c, err := net.Dial("tcp4", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				_, _ = c.Write(make([]byte, 4<<20))
			}
			return nil
		})
		put(t, "/proc/sys/net/ipv4/tcp_mem", fmt.Sprintf("%d %d %d", held(t), held(t), held(t)))
	}, nil
}

// held is how many pages the sockets of TCP hold.
func held(t *testing.T) (pages int) {
	t.Helper()
	data, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\nTCP: ")
	_, mem, _ := strings.Cut(rest, " mem ")
	if _, err := fmt.Sscan(mem, &pages); err != nil || pages == 0 {
		t.Fatalf("TCP holds no memory: %q", data)
	}
	return pages
}

// expectTooMuch lets FTP clients announce more data connections than the kernel
// may expect.
func expectTooMuch(t *testing.T) (func(), []string) {
	p := lab.Server(t)
	p.Server.NFT(`table ip helped {
	ct helper ftp {
		type "ftp" protocol tcp;
	}
	chain in {
		type filter hook prerouting priority filter;
		tcp dport 21 ct helper set "ftp"
	}
}`)
	p.Server.ServeTCP(21, lab.Echo)
	return func() {
		put(t, "/proc/sys/net/netfilter/nf_conntrack_expect_max", "4")
		conns, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 21), p.Client.Sources4, 6)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			fmt.Fprint(c, "USER anonymous\r\n") // the helper looks at the lines after the first
		}
		time.Sleep(200 * time.Millisecond)
		for i, c := range conns {
			own := c.LocalAddr().(*net.TCPAddr).IP.To4()
			fmt.Fprintf(c, "PORT %d,%d,%d,%d,40,%d\r\n", own[0], own[1], own[2], own[3], i)
		}
		time.Sleep(200 * time.Millisecond)
	}, []string{"--netns", p.Server.Path()}
}

func kernelVersion(t *testing.T) ct.KernelVersion {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	v, err := ct.ParseKernelVersion(strings.TrimSpace(string(release)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
