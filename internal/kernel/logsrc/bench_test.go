package logsrc

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/klog"
)

// readEnv makes the test binary a program that reads the log it names and
// prints the number of lines, so that it can be measured as others are.
const readEnv = "CTWARDEN_TEST_READ_LOG"

func TestMain(m *testing.M) {
	path := os.Getenv(readEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	c := klog.NewCollector(klog.Options{Now: time.Now(), Location: time.Local})
	if err := Named(context.Background(), c, []string{path}, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	n := uint64(0)
	for _, e := range c.Report().Episodes {
		n += e.Lines
	}
	fmt.Println(n)
}

// program is something that counts the messages in a file.
type program struct {
	name string
	args []string
	env  string
}

// measured is the best time and the largest memory of several runs.
type measured struct {
	seconds  float64
	maxRSSKB int64
	printed  string
}

func (p *program) run(b *testing.B, stdin io.Reader, best *measured) {
	b.Helper()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdin = stdin
	if p.env != "" {
		cmd.Env = append(os.Environ(), readEnv+"="+p.env)
	}
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%s: %v", p.name, err)
	}
	if s := time.Since(began).Seconds(); best.seconds == 0 || s < best.seconds {
		best.seconds = s
	}
	best.maxRSSKB = max(best.maxRSSKB, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	best.printed = strings.TrimSpace(string(out))
}

// BenchmarkGigabyte reads 1 GiB of log from memory with a message in every
// 10,000 lines, in turn with grep and ripgrep counting the fixed string. The
// best of all rounds counts; vs-NAME is how many times faster this is.
func BenchmarkGigabyte(b *testing.B) {
	path, want := gigabyte(b)
	const phrase = "table full, dropping packet"
	programs := []program{
		{name: "ctwarden", args: []string{os.Args[0]}, env: path},
		{name: "grep", args: []string{"grep", "-cF", phrase, path}},
		{name: "rg", args: []string{"rg", "-c", phrase, path}},
		{name: "rg-no-mmap", args: []string{"rg", "--no-mmap", "-c", phrase, path}},
	}
	best := make([]measured, len(programs))
	for b.Loop() {
		for i := range programs {
			if _, err := exec.LookPath(programs[i].args[0]); err == nil {
				programs[i].run(b, nil, &best[i])
			}
		}
	}
	for i, p := range programs {
		if best[i].seconds == 0 {
			continue
		}
		if best[i].printed != fmt.Sprint(want) {
			b.Errorf("%s counts %s, want %d", p.name, best[i].printed, want)
		}
		b.ReportMetric(best[i].seconds, p.name+"-s")
		b.ReportMetric(float64(best[i].maxRSSKB)/1024, p.name+"-MiB")
		if i > 0 {
			b.ReportMetric(best[i].seconds/best[0].seconds, "vs-"+p.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEndlessLine sends 10 GiB without a line end through a pipe.
func BenchmarkEndlessLine(b *testing.B) {
	reader := program{name: "ctwarden", args: []string{os.Args[0]}, env: "-"}
	var best measured
	for b.Loop() {
		reader.run(b, io.LimitReader(letters{}, 10<<30), &best)
	}
	b.ReportMetric(10/best.seconds, "GiB/s")
	b.ReportMetric(float64(best.maxRSSKB)/1024, "MiB")
	b.ReportMetric(0, "ns/op")
}

// letters reads as the letter x for ever.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// gigabyte writes 1 GiB of what servers log, with messages strewn in, to a
// file in memory, and returns how many messages those are.
func gigabyte(b *testing.B) (path string, messages int) {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ctwarden-bench")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "kern.log")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	r := rand.New(rand.NewPCG(1, 1))
	var chunk bytes.Buffer
	for size, line := 0, 0; size < 1<<30; size += chunk.Len() {
		chunk.Reset()
		for chunk.Len() < 1<<20 {
			stamp := fmt.Sprintf("Nov 22 %02d:%02d:%02d web%d ", size>>26, r.IntN(60), r.IntN(60), 1)
			if line++; line%10_000 == 0 {
				fmt.Fprintf(&chunk, "%skernel: [%d.123456] nf_conntrack: nf_conntrack: table full, dropping packet\n", stamp, line)
				messages++
				continue
			}
			fmt.Fprintf(&chunk, stamp+formats[r.IntN(len(formats))]+"\n", r.IntN(100000), r.IntN(255))
		}
		if _, err := w.Write(chunk.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	return path, messages
}

var formats = []string{
	"sshd[%d]: Accepted publickey for deploy from 10.0.%d.7 port 51622 ssh2: ED25519 SHA256:q3Zk9",
	"systemd[1]: Started Session %d of user root (%d).",
	"kernel: [%d.123456] IN=eth0 OUT= MAC=52:54:00 SRC=10.0.%d.1 DST=10.0.0.2 LEN=60 TTL=64 PROTO=TCP SPT=4433 DPT=80 WINDOW=64240 SYN",
	"nginx[%d]: 192.0.2.%d - - \"GET /api/v1/items?page=3 HTTP/1.1\" 200 5123 \"-\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit\"",
	"CRON[%d]: (root) CMD (command -v debian-sa1 > /dev/null && debian-sa1 %d 1)",
	"dockerd[%d]: time=\"2025-11-22T09:00:%02d.123Z\" level=warning msg=\"table of contents supplied callback memory\"",
}
