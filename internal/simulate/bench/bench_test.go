package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ctwarden/ctwarden/internal/capture"
	"github.com/ctwarden/ctwarden/internal/kernel/hugepages"
	"github.com/ctwarden/ctwarden/sim"
)

const (
	benchEnv   = "CTWARDEN_BENCH_SIM"         // numbers of live flows, separated by commas
	keepEnv    = "CTWARDEN_BENCH_SIM_KEEP"    // a directory that keeps the captures for the next run
	subjectEnv = "CTWARDEN_BENCH_SIM_SUBJECT" // a child: what to run
	fileEnv    = "CTWARDEN_BENCH_SIM_FILE"
	flowsEnv   = "CTWARDEN_BENCH_SIM_FLOWS"
)

// Every subject runs in a process of its own, so that memory and processor
// time are its own too.
func TestMain(m *testing.M) {
	if name := os.Getenv(subjectEnv); name != "" {
		if err := child(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type counts struct {
	Packets, Entries, Seen int
	RSS                    int64 // bytes, the most that was resident
}

func child(name string) error {
	file := os.Getenv(fileEnv)
	flows, err := strconv.Atoi(os.Getenv(flowsEnv))
	if err != nil {
		return err
	}
	var c counts
	switch name {
	case "generate":
		c.Packets, err = generate(file, flows)
	case "parse":
		c, err = read(file, nil)
	default:
		cfg := sim.DefaultConfig(sim.Latest())
		cfg.Max, cfg.Buckets, cfg.Seed = flows+flows/8, flows, 1
		cfg.Memory = hugepages.Advise
		var table *sim.Table
		if table, err = sim.New(cfg); err != nil {
			return err
		}
		c, err = read(file, table)
	}
	if err != nil {
		return err
	}
	if c.RSS, err = highWater(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// highWater reads VmHWM: the rusage of a child includes what its parent had when
// it forked.
func highWater() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}

// read takes a capture through a table, in batches as the command does, and then
// reads every entry.
func read(file string, table *sim.Table) (c counts, err error) {
	f, err := os.Open(file)
	if err != nil {
		return c, err
	}
	defer f.Close()
	r, err := capture.NewReader(f)
	if err != nil {
		return c, err
	}
	var (
		at      [sim.BatchSize]sim.Time
		ps      [sim.BatchSize]sim.Packet
		results [sim.BatchSize]sim.Result
	)
	for err == nil {
		n := 0
		for ; n < len(at); n++ {
			if at[n], err = r.Next(&ps[n]); err != nil {
				break
			}
		}
		c.Packets += n
		if table != nil {
			table.Packets(at[:n], ps[:n], results[:n])
		}
	}
	if !errors.Is(err, io.EOF) {
		return c, err
	}
	if table == nil {
		return c, nil
	}
	for _, flow := range table.Dump() {
		c.Entries++
		c.Seen += int(flow.Orig.SrcPort) & 1
	}
	return c, nil
}

// sample is one measurement of a process.
type sample struct {
	CPU, Wall time.Duration
	RSS       int64
	out       []byte
}

func measure(cmd *exec.Cmd) (s sample, err error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return s, fmt.Errorf("%q: %w: %s", cmd.Args, err, tail(errs.Bytes()))
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return sample{cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), time.Since(begin), u.Maxrss << 10, out.Bytes()}, nil
}

func tail(b []byte) []byte { return b[max(0, len(b)-300):] }

func ours(t *testing.T, name, file string, flows int) (sample, counts) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", subjectEnv+"="+name, fileEnv+"="+file, flowsEnv+"="+strconv.Itoa(flows))
	s, err := measure(cmd)
	if err != nil {
		t.Fatal(err)
	}
	var c counts
	if err := json.Unmarshal(s.out, &c); err != nil {
		t.Fatalf("%s: %v", s.out, err)
	}
	s.RSS = c.RSS
	return s, c
}

// peer is another program that keeps the state of flows.
type peer struct {
	name, needs, from string
	most              int // packets that it can be asked to take in this life
	command           func(file, dir string, flows int) []string
}

var peers = []peer{
	{"gVisor's conntrack", "go", "golang", 20e6, func(file, dir string, _ int) []string {
		return []string{filepath.Join(dir, "gvisor"), file}
	}},
	{"nfpcapd (nfdump)", "nfpcapd", "nfdump", 200e6, func(file, dir string, flows int) []string {
		return []string{"nfpcapd", "-r", file, "-w", dir, "-B", strconv.Itoa(2 * flows)}
	}},
	{"softflowd", "softflowd", "softflowd", 20e6, func(file, _ string, flows int) []string {
		return []string{"softflowd", "-r", file, "-d", "-m", strconv.Itoa(flows + flows/8)}
	}},
	{"argus", "argus", "argus-server", 20e6, func(file, _ string, _ int) []string {
		return []string{"argus", "-X", "-r", file, "-w", "/dev/null"}
	}},
	{"tshark -z conv,tcp", "tshark", "tshark", 4e6, func(file, _ string, _ int) []string {
		return []string{"tshark", "-n", "-q", "-z", "conv,tcp", "-r", file}
	}},
}

func TestBench(t *testing.T) {
	sizes := os.Getenv(benchEnv)
	if sizes == "" {
		t.Skip("a measurement: make bench-sim")
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, f := range strings.Split(sizes, ",") {
		flows, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		benchSize(t, w, flows)
	}
	w.Flush()
	fmt.Print("\n" + text.String())
}

func benchSize(t *testing.T, w io.Writer, flows int) {
	file := captureOf(t, flows)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	ours(t, "parse", file, flows) // brings the file into the page cache
	parse, made := ours(t, "parse", file, flows)
	fmt.Fprintf(w, "%d live flows\t%d packets\t%d MB\t\t\t\t\n", flows, made.Packets, info.Size()>>20)
	fmt.Fprintf(w, "\tprocessor s\tM packets/s\tMiB\tB/flow\tours is\t\n")
	row := func(name string, s, base sample, rss int64) {
		ratio := "-"
		if base.CPU > 0 {
			ratio = fmt.Sprintf("%.1f ×", s.CPU.Seconds()/base.CPU.Seconds())
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%d\t%d\t%s\t\n", name, s.CPU.Seconds(), float64(made.Packets)/s.CPU.Seconds()/1e6,
			s.RSS>>20, rss/int64(flows), ratio)
		t.Logf("%d live flows, %s: %s of processor time", flows, name, s.CPU.Round(10*time.Millisecond))
	}
	mine, got := ours(t, "sim", file, flows)
	if again, _ := ours(t, "sim", file, flows); again.CPU < mine.CPU {
		mine = again
	}
	if got.Packets != made.Packets || got.Entries < flows*99/100 {
		t.Errorf("%d live flows: %+v of %d packets", flows, got, made.Packets)
	}
	// What the process takes without a table is not the flows'.
	row("ctwarden: capture and sim", mine, sample{}, mine.RSS-parse.RSS)
	row("capture alone", parse, sample{}, 0)
	for _, p := range peers {
		runPeer(t, w, p, file, flows, made.Packets, func(s sample) { row(p.name, s, mine, s.RSS) })
	}
	fmt.Fprintf(w, "\t\t\t\t\t\t\n")
}

// captureOf makes the capture, or takes the one of an earlier run.
func captureOf(t *testing.T, flows int) string {
	t.Helper()
	dir := os.Getenv(keepEnv)
	if dir == "" {
		dir = t.TempDir()
	}
	file := filepath.Join(dir, fmt.Sprintf("flows-%d.pcap", flows))
	if _, err := os.Stat(file); err != nil {
		ours(t, "generate", file+".part", flows)
		if err := os.Rename(file+".part", file); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func runPeer(t *testing.T, w io.Writer, p peer, file string, flows, packets int, row func(sample)) {
	if _, err := exec.LookPath(p.needs); err != nil {
		fmt.Fprintf(w, "%s\tnot installed: apt-get install %s\t\t\t\t\t\n", p.name, p.from)
		return
	}
	if packets > p.most {
		fmt.Fprintf(w, "%s\tleft out: it would take too long\t\t\t\t\t\n", p.name)
		return
	}
	dir := t.TempDir()
	if p.needs == "go" {
		// A module of its own, built here: it needs the network at the first time.
		build := exec.Command("go", "build", "-o", dir, ".")
		build.Dir = "testdata/gvisor"
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(w, "%s\tcould not be built: %s\t\t\t\t\t\n", p.name, tail(out))
			return
		}
	}
	args := p.command(file, dir, flows)
	s, err := measure(exec.Command(args[0], args[1:]...))
	if err != nil {
		fmt.Fprintf(w, "%s\tfailed: %v\t\t\t\t\t\n", p.name, err)
		return
	}
	row(s)
}
