package simdiff

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// tap is tcpdump at work on a tracking host.
type tap struct {
	t      testing.TB
	cmd    *exec.Cmd
	stderr *bufio.Reader
	file   string
}

// snapLength is enough for every header, and for the packet that an ICMP error
// quotes.
const snapLength = 256

// startTap captures what comes to a host and, unless inOnly is set, what it
// sends, on one interface or on "any".
func startTap(t testing.TB, h *lab.Host, dev string, inOnly bool) *tap {
	t.Helper()
	tp := &tap{t: t, file: filepath.Join(t.TempDir(), "tap.pcap")}
	args := []string{"-i", dev, "-n", "-p", "-Z", "root", "-s", fmt.Sprint(snapLength), "-B", "131072",
		"--time-stamp-precision=nano", "-w", tp.file}
	if inOnly {
		args = append(args, "-Q", "in")
	}
	tp.cmd = exec.Command("tcpdump", args...)
	pipe, err := tp.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Start(tp.cmd)
	tp.stderr = bufio.NewReader(pipe)
	for {
		line, err := tp.stderr.ReadString('\n')
		if err != nil {
			t.Fatalf("tcpdump: %v: %s", err, line)
		}
		if strings.Contains(line, "listening on") {
			return tp
		}
	}
}

// tcpdump's ring hands over a block when it is full or a second old.
const ringTimeout = 1200 * time.Millisecond

var tapCount = regexp.MustCompile(`(\d+) packets? (captured|received by filter|dropped by kernel)`)

// stop ends the capture and returns the file. lost is how many packets it has
// missed.
func (tp *tap) stop() (file *os.File, lost int) {
	tp.t.Helper()
	time.Sleep(ringTimeout)
	if err := tp.cmd.Process.Signal(syscall.SIGINT); err != nil {
		tp.t.Fatal(err)
	}
	rest, _ := io.ReadAll(tp.stderr)
	_ = tp.cmd.Wait()
	got := map[string]int{}
	for _, m := range tapCount.FindAllStringSubmatch(string(rest), -1) {
		got[m[2]], _ = strconv.Atoi(m[1])
	}
	if len(got) < 2 {
		tp.t.Fatalf("tcpdump said %q", rest)
	}
	f, err := os.Open(tp.file)
	if err != nil {
		tp.t.Fatal(err)
	}
	tp.t.Cleanup(func() { f.Close() })
	return f, got["dropped by kernel"]
}
