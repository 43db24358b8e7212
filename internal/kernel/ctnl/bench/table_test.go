package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// sizesEnv lists the sizes of the tables to measure, with commas; without it
// nothing is measured.
const sizesEnv = "CTWARDEN_BENCH_TABLE"

// roundsEnv bounds how often each is measured. The best of all rounds counts.
const roundsEnv = "CTWARDEN_BENCH_ROUNDS"

func rounds(most int) int {
	if n, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil && n > 0 {
		return min(n, most)
	}
	return most
}

// smallSize is up to where the libraries that keep every entry are asked too,
// and everything but reading is measured.
const smallSize = 1_000_000

// TestTable fills tables and prints how long each reader and writer takes.
func TestTable(t *testing.T) {
	sizes := os.Getenv(sizesEnv)
	if sizes == "" {
		t.Skipf("set %s, or make bench-table", sizesEnv)
	}
	lab.Require(t, "conntrack", "nsenter")
	limits := lab.ExclusiveLimits(t)
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		if buckets := max(n, 262_144); limits.Buckets() < buckets {
			limits.SetBuckets(buckets)
		}
		if want := max(n+n/4, 262_144); limits.Max() < want {
			limits.SetMax(want)
		}
		t.Run(size, func(t *testing.T) {
			t.Run("readers", func(t *testing.T) { readers(t, n) })
			if n > smallSize {
				return
			}
			t.Run("writers", func(t *testing.T) { writers(t, n) })
			t.Run("lists", func(t *testing.T) { lists(t, n) })
			t.Run("evictions", func(t *testing.T) { evictions(t, n) })
		})
	}
	t.Run("events", events)
}

// filled returns a namespace with n entries, one in five of them in prefix.
func filled(t *testing.T, n int) (ns string, took time.Duration) {
	t.Helper()
	h := lab.NewHost(t, "bench")
	began := time.Now()
	populate(t, h.Path(), n, 0)
	return h.Path(), time.Since(began)
}

// emptied removes the entries of a table that has served. The hash table is one
// for all namespaces: what stays slows every later reading down, and some ten
// million entries in a million buckets reach the kernel's limit of a chain
// (ENOSPC).
func emptied(t *testing.T, ns string) {
	t.Helper()
	if err := tool(ns, "conntrack", "-F").Run(); err != nil {
		t.Fatalf("empty %s: %v", ns, err)
	}
}

// lastMark marks the last entry made where somebody waits for it.
const lastMark = 0x1a57

func populate(t *testing.T, ns string, n int, lastMark uint32) {
	t.Helper()
	c, err := ctnl.Dial(ctnl.Options{Netns: ns})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := c.NewBatch()
	b.Refused = func(e *ctnl.EntryError) { t.Fatalf("create: %v", e) }
	for i := range n {
		f := entry(i)
		if i == n-1 {
			f.Mark = lastMark
		}
		if err := b.Create(&f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
}

func entry(i int) ct.Flow {
	net := byte(i / 65536 / 5)
	if i%5 == 0 {
		net = 99
	}
	o := ct.Tuple{Src: netip.AddrFrom4([4]byte{10, net, byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
		Proto: ct.TCP, SrcPort: uint16(1024 + i>>16), DstPort: 443}
	r, _ := o.Invert()
	return ct.Flow{Orig: o, Reply: r, Status: ct.StatusSeenReply | ct.StatusAssured, State: ct.TCPEstablished,
		Fields: ct.HasProtoInfo, TimeoutSeconds: 3600}
}

// readers measures who reads, taking turns, and prints the best of each.
func readers(t *testing.T, n int) {
	ns, took := filled(t, n)
	fmt.Printf("\n%d entries, created in %v (%.2f M/s)\n\n", n, took.Round(time.Millisecond), float64(n)/took.Seconds()/1e6)
	const listTool = "conntrack -L >/dev/null"
	names := []string{"bare receive loop", "ctwarden, walking", "ctwarden, walking, no match", "ctwarden", "ctwarden, one thread", "ctwarden, status, no match",
		"ctwarden, panel of 20,000", "/proc/net/nf_conntrack", listTool}
	most := 4
	if n <= smallSize {
		names = append(names, "vishvananda/netlink 1.3.1", "ti-mo/conntrack 0.6.0")
	} else {
		most = 2
	}
	all := make(map[string][]sample)
	for round := range rounds(most) {
		for _, name := range names {
			slow := strings.Contains(name, "/") && name != "/proc/net/nf_conntrack"
			switch {
			case slow && round >= 2: // twice is enough for those that take long
			case name == listTool:
				all[name] = append(all[name], measureTool(t, ns, "conntrack", "-L"))
			default:
				s := measure(t, name, ns)
				if s.Entries != 0 && s.Entries != n && !strings.Contains(name, "panel") {
					t.Errorf("%s: %d entries of %d", name, s.Entries, n)
				}
				all[name] = append(all[name], s)
			}
		}
	}
	report(names, all, "ctwarden", n)
	emptied(t, ns)
}

func report(names []string, all map[string][]sample, base string, n int) {
	ref := best(all[base])
	fmt.Printf("%-30s %9s %9s %8s %8s %10s %10s %8s\n", "", "wall", "cpu", "× wall", "× cpu", "allocs/e", "bytes/e", "MiB")
	for _, name := range names {
		s := best(all[name])
		fmt.Printf("%-30s %9s %9s %8.2f %8.2f %10.3f %10.1f %8.1f\n", name,
			s.Wall.Round(100*time.Microsecond), s.CPU.Round(100*time.Microsecond),
			float64(s.Wall)/float64(ref.Wall), float64(s.CPU)/float64(ref.CPU),
			float64(s.Allocs)/float64(n), float64(s.Bytes)/float64(n), float64(s.MaxRSS)/(1<<20))
	}
}

// best takes the smallest of each figure: whatever else runs only adds.
func best(all []sample) sample {
	b := all[0]
	for _, s := range all[1:] {
		b.Wall, b.CPU, b.MaxRSS = min(b.Wall, s.Wall), min(b.CPU, s.CPU), min(b.MaxRSS, s.MaxRSS)
	}
	return b
}

// writers measures the deletion and the soft eviction of the entries of a
// prefix, reading included, each on a table of its own.
func writers(t *testing.T, n int) {
	const deleteTool = "conntrack -D -s PREFIX"
	const soft, reaping = "ctwarden, soft: read, retime", "ctwarden, soft: reaping dump"
	all := make(map[string][]sample)
	victims := 0
	for range rounds(3) {
		for _, name := range []string{"ctwarden, delete prefix", soft} {
			ns, _ := filled(t, n)
			s := measure(t, name, ns)
			victims = s.Entries
			all[name] = append(all[name], s)
			if name == soft {
				time.Sleep(1100 * time.Millisecond)
				all[reaping] = append(all[reaping], measure(t, reaping, ns))
			}
			expect(t, ns, n-victims)
			emptied(t, ns)
		}
	}
	ns, _ := filled(t, n)
	all[deleteTool] = append(all[deleteTool], measureTool(t, ns, "conntrack", "-D", "-s", prefix.String()))
	expect(t, ns, n-victims)
	emptied(t, ns)
	fmt.Printf("\n%d of %d entries by prefix, reading included\n\n", victims, n)
	report([]string{"ctwarden, delete prefix", soft, reaping, deleteTool}, all, "ctwarden, delete prefix", victims)
}

func expect(t *testing.T, ns string, want int) {
	t.Helper()
	c, err := ctnl.Dial(ctnl.Options{Netns: ns})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if g, err := c.GlobalStats(); err != nil || int(g.Count) != want {
		t.Errorf("%d entries left, want %d, %v", g.Count, want, err)
	}
}

// events makes entries as fast as one connection can while one listener at a
// time hears of them.
func events(t *testing.T) {
	const n = 200_000
	ours := make([]sample, 0, 3)
	theirs := make([]sample, 0, 3)
	lost := 0
	for range 3 {
		ours = append(ours, hear(t, n))
		s := hearTool(t, n)
		lost = max(lost, n-s.Entries)
		theirs = append(theirs, s)
	}
	a, b := perEvent(ours), perEvent(theirs)
	fmt.Printf("\nNEW events of %d entries made at once, processor time an event\n\n", n)
	fmt.Printf("%-30s %9s, none lost\n", "ctwarden", a)
	fmt.Printf("%-30s %9s, %.2f times ours, at most %d lost\n", "conntrack -E -e NEW -o id", b, float64(b)/float64(a), lost)
}

func perEvent(all []sample) time.Duration {
	per := make([]time.Duration, len(all))
	for i, s := range all {
		per[i] = s.CPU / time.Duration(max(1, s.Entries))
	}
	return slices.Min(per)
}

func hear(t *testing.T, n int) sample {
	t.Helper()
	h := lab.NewHost(t, "bench")
	cmd := command(t, "ctwarden, listen for NEW", h.Path())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	populate(t, h.Path(), n, lastMark)
	line, err := r.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	s := result(t, line)
	if s.Entries != n {
		t.Errorf("heard %d of %d", s.Entries, n)
	}
	return s
}

func hearTool(t *testing.T, n int) sample {
	t.Helper()
	h := lab.NewHost(t, "bench")
	path := filepath.Join(t.TempDir(), "events")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := tool(h.Path(), "conntrack", "-E", "-e", "NEW", "-o", "id", "-b", strconv.Itoa(32<<20))
	cmd.Stdout = file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	populate(t, h.Path(), n, lastMark)
	settle(t, path)
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := cmd.ProcessState
	return sample{CPU: p.UserTime() + p.SystemTime(), Entries: bytes.Count(text, []byte("\n"))}
}

// settle waits until a file has stopped growing.
func settle(t *testing.T, path string) {
	t.Helper()
	for size := int64(-1); ; {
		time.Sleep(500 * time.Millisecond)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() == size {
			return
		}
		size = st.Size()
	}
}
