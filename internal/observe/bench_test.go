package observe

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

const million = 1_000_000

// manyEntries fills a namespace with a million entries of a server under a
// spoofed flood.
func manyEntries(b *testing.B) *lab.Host {
	b.Helper()
	lab.Require(b, "conntrack")
	limits := lab.ExclusiveLimits(b)
	limits.SetBuckets(1 << 20)
	limits.SetMax(2 * million)
	h := lab.NewHost(b, "million")
	h.Fill(
		lab.Class{Count: 400_000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured},
		lab.Class{Count: 300_000, State: ct.TCPSynSent, TimeoutSeconds: 100_000, Sources: netip.MustParsePrefix("64.0.0.0/4"), Port: 80},
		lab.Class{Count: 200_000, Proto: ct.UDP, TimeoutSeconds: 100_000, Status: ct.StatusSeenReply, Sources: netip.MustParsePrefix("10.64.0.0/12")},
		lab.Class{Count: 100_000, Proto: ct.UDP, TimeoutSeconds: 100_000, Sources: netip.MustParsePrefix("fd01::/64"), Targets: netip.MustParsePrefix("2001:db8::1/128")},
	)
	return h
}

// BenchmarkMillion reads a table of a million entries in every way there is,
// in turn.
func BenchmarkMillion(b *testing.B) {
	h := manyEntries(b)
	ctx := context.Background()
	bench := func(name string, read func() int) {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n = read()
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/table")
			b.ReportMetric(float64(n), "entries")
		})
	}
	bench("bare", func() int { return bareLoop(b, h) })
	bench("ctnl", func() int {
		conn, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		sum, err := conn.Dump(ctx, ctnl.Query{}, func(*ct.Flow) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
		return sum.Entries
	})
	check := func(full bool) int {
		s, err := Machine(ctx, Options{Netns: h.Path(), Full: full})
		if err != nil {
			b.Fatal(err)
		}
		return int(s.Census.Entries)
	}
	bench("full", func() int { return check(true) })
	bench("sample", func() int { return check(false) })
	// Turn by turn, so that what else the machine does hits both alike.
	b.Run("full-to-bare", func(b *testing.B) {
		var bare, full []time.Duration
		var bareCPU, fullCPU time.Duration
		for b.Loop() {
			start, cpu := time.Now(), cpuTime(b)
			bareLoop(b, h)
			middle, middleCPU := time.Now(), cpuTime(b)
			check(true)
			bare, full = append(bare, middle.Sub(start)), append(full, time.Since(middle))
			bareCPU, fullCPU = bareCPU+middleCPU-cpu, fullCPU+cpuTime(b)-middleCPU
		}
		b.ReportMetric(fullCPU.Seconds()/bareCPU.Seconds(), "times-of-cpu")
		b.ReportMetric(median(full).Seconds()/median(bare).Seconds(), "times")
		b.ReportMetric(slices.Min(full).Seconds()/slices.Min(bare).Seconds(), "times-of-least")
	})
	bench("sample-twice", func() int {
		s, err := Machine(ctx, Options{Netns: h.Path(), Observe: time.Millisecond})
		if err != nil {
			b.Fatal(err)
		}
		return int(s.Census.Entries)
	})
	bench("conntrack", func() int {
		out, err := exec.Command("sh", "-c", "ip netns exec "+h.Name+" conntrack -L 2>&1 >/dev/null").Output()
		if err != nil {
			b.Fatal(err)
		}
		f := strings.Fields(string(out))
		n, _ := strconv.Atoi(f[len(f)-6])
		return n
	})
	bench("vishvananda", func() int {
		n := 0
		err := h.Do(func() error {
			for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
				flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
				if err != nil {
					return err
				}
				n += len(flows)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		return n
	})
	for name, full := range map[string]bool{"memory-full": true, "memory-sample": false} {
		b.Run(name, func(b *testing.B) {
			var peak float64
			for b.Loop() {
				peak = peakOfChild(b, h, full)
			}
			b.ReportMetric(peak, "MiB")
		})
	}
}

// cpuTime is the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// bareLoop is the floor: a raw socket, every attribute walked, nothing kept.
func bareLoop(b *testing.B, h *lab.Host) (entries int) {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	const getEntries = 1<<8 | 1
	req := make([]byte, 20)
	binary.NativeEndian.PutUint32(req, 20)
	binary.NativeEndian.PutUint16(req[4:], getEntries)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			b.Fatal(err)
		}
		for m := buf[:n]; len(m) >= 16; {
			size := int(binary.NativeEndian.Uint32(m))
			switch binary.NativeEndian.Uint16(m[4:]) {
			case unix.NLMSG_DONE:
				return entries
			case unix.NLMSG_ERROR:
				b.Fatal("the kernel refused the dump")
			}
			entries++
			walked += walkAttrs(m[20:size])
			m = m[(size+3)&^3:]
		}
	}
}

var walked int // keeps the compiler from leaving the walk out

func walkAttrs(a []byte) (n int) {
	for len(a) >= 4 {
		size := int(binary.NativeEndian.Uint16(a))
		if size < 4 || size > len(a) {
			return n
		}
		n++
		if binary.NativeEndian.Uint16(a[2:])&unix.NLA_F_NESTED != 0 {
			n += walkAttrs(a[4:size])
		}
		a = a[min(len(a), (size+3)&^3):]
	}
	return n
}

// peakOfChild reads in a process of its own, and returns its largest resident
// memory in MiB.
func peakOfChild(b *testing.B, h *lab.Host, full bool) float64 {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildReads$", "-test.v")
	cmd.Env = append(os.Environ(), "CTW_READ="+h.Path(), fmt.Sprintf("CTW_FULL=%v", full))
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("child: %v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "VmHWM:")
	kiB, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
	if err != nil {
		b.Fatalf("child did not tell its memory: %s", out)
	}
	return float64(kiB) / 1024
}

// TestChildReads is the process whose memory is measured.
func TestChildReads(t *testing.T) {
	ns := os.Getenv("CTW_READ")
	if ns == "" {
		t.Skip("it runs as a child of the benchmark only")
	}
	machine(t, Options{Netns: ns, Full: os.Getenv("CTW_FULL") == "true", Observe: 100 * time.Millisecond})
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s", status)
}
