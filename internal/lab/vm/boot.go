package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options say what to run in a guest.
type Options struct {
	// Package is the import path, or ./path from the module's root, of the
	// package whose tests run. Its TestMain must call [Main].
	Package string
	// Run selects tests, as -test.run; empty means all.
	Run string
	// Args are further flags for the test binary.
	Args []string
	// Modules can be loaded in the guest, by the kernel's own autoloading too.
	Modules []string
	// Load names modules loaded before the tests start, each with its
	// parameters: "nf_conntrack enable_hooks=1".
	Load []string
	// Programs of this machine are copied to the guest's /bin.
	Programs []string
	// Files maps paths in the guest to files or directories of this machine.
	Files map[string]string
	// Env is the environment of the tests, "NAME=value" without blanks.
	Env []string
	// MemoryMiB defaults to 512, CPUs to 2 (always 1 in virtual time).
	MemoryMiB, CPUs int
	// VirtualTime lets the guest's clock jump over idle time.
	VirtualTime bool
	// Timeout bounds the guest's life in real time; 5 minutes if zero.
	Timeout time.Duration

	packageDir string
}

// NetfilterModules is what tests of connection tracking commonly need.
var NetfilterModules = []string{"nf_conntrack", "nf_conntrack_netlink", "nfnetlink", "nfnetlink_cttimeout",
	"nf_tables", "nft_ct", "nft_nat", "nft_chain_nat", "nft_masq", "nft_redir", "nft_limit", "nft_counter", "nft_connlimit",
	"nft_reject_inet", "nft_log", "nft_quota", "nft_numgen", "sch_tbf", "nf_nat", "nf_flow_table", "nft_flow_offload", "ip_tables", "ip6_tables",
	"iptable_filter", "iptable_nat", "iptable_raw", "xt_conntrack", "xt_state", "xt_CT", "xt_MASQUERADE", "x_tables",
	"nft_compat", "veth", "dummy", "sch_netem", "nf_conntrack_ftp", "nf_synproxy_core", "nft_synproxy", "netlink_diag", "inet_diag", "tcp_diag",
	"nfnetlink_log", "nf_log_syslog", "nfnetlink_queue", "nft_queue", "af_packet", "ipv6", "sctp_diag"}

// Run boots the kernel and reports every test of the guest as a subtest of t.
func (k Kernel) Run(t *testing.T, o Options) {
	t.Helper()
	out, err := k.Boot(t.Context(), t.TempDir(), o)
	results := parseResults(out)
	for _, r := range results {
		t.Run(r.name, func(t *testing.T) {
			switch r.verdict {
			case "PASS":
				if testing.Verbose() {
					t.Log(r.output)
				}
			case "SKIP":
				t.Skip(r.output)
			default:
				t.Errorf("in the guest:\n%s", r.output)
			}
		})
	}
	if err != nil {
		t.Errorf("kernel %s: %v\n%s", k.Release, err, lastLines(out, 40))
		return
	}
	if len(results) == 0 {
		t.Errorf("kernel %s ran no test:\n%s", k.Release, lastLines(out, 40))
	}
}

// Boot runs the guest and returns what it printed. The error tells a guest
// that could not start, did not finish in time, or ended with a failed test.
func (k Kernel) Boot(ctx context.Context, dir string, o Options) (string, error) {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 512
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	binary, pkgDir, err := testBinary(ctx, o.Package)
	if err != nil {
		return "", err
	}
	o.packageDir = pkgDir
	want := append([]string{}, o.Modules...)
	for _, l := range o.Load {
		want = append(want, strings.Fields(l)[0])
	}
	mods, err := resolveModules(k.Modules, want)
	if err != nil {
		return "", err
	}
	initrd := filepath.Join(dir, "initramfs.cpio")
	if err := writeInitramfs(initrd, binary, mods, &o); err != nil {
		return "", fmt.Errorf("pack initramfs: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	out, err := k.qemu(ctx, initrd, &o, "tcg")
	if errors.Is(err, errGuestDied) && !o.VirtualTime && o.CPUs > 1 {
		// Where each CPU is emulated by a thread of its own, one may run into the
		// breakpoint by which the other patches the kernel (text_poke_bp), and
		// the kernel dies of it. A kernel that dies by our doing dies again.
		out, err = k.qemu(ctx, initrd, &o, "tcg,thread=single")
	}
	return out, err
}

var errGuestDied = errors.New("guest ended without saying how")

func (k Kernel) qemu(ctx context.Context, initrd string, o *Options, accel string) (string, error) {
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-m", fmt.Sprint(o.MemoryMiB), "-serial", "stdio", "-accel", accel, "-cpu", "max",
		"-kernel", k.Image, "-initrd", initrd, "-append", k.commandLine(o)}
	if o.VirtualTime {
		args = append(args, "-smp", "1", "-icount", "shift=auto,sleep=off")
	} else {
		args = append(args, "-smp", fmt.Sprint(o.CPUs))
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start qemu: %w", err)
	}
	out, status := readConsole(stdout)
	if err := cmd.Wait(); err != nil && status == "" {
		if ctx.Err() != nil {
			return out, fmt.Errorf("guest did not finish within %s", o.Timeout)
		}
		return out, fmt.Errorf("qemu: %w: %s", err, stderr.String())
	}
	switch status {
	case "0":
		return out, nil
	case "":
		return out, errGuestDied
	}
	return out, fmt.Errorf("tests in the guest ended with code %s", status)
}

// commandLine hands the test flags to init after "--", and its environment as
// parameters that the kernel does not know (both end up with init; see
// init/main.c, unknown_bootoption).
func (k Kernel) commandLine(o *Options) string {
	line := []string{"console=ttyS0", "loglevel=1", "panic=-1", "reboot=t",
		// A host that is busy delivers the emulated timer too late for the kernel to trust it.
		"no_timer_check", "random.trust_cpu=on", "net.ifnames=0",
		guestEnv + "=1", guestLoadEnv + "=" + encodeList(o.Load)}
	if ci := os.Getenv("CI"); ci != "" {
		line = append(line, "CI="+ci)
	}
	line = append(line, o.Env...)
	line = append(line, "--", "-test.v")
	if o.Run != "" {
		line = append(line, "-test.run="+o.Run)
	}
	return strings.Join(append(line, o.Args...), " ")
}

const exitMarker = "ctwarden-guest-exit "

// maxConsole bounds what is kept of a guest that prints without end.
const maxConsole = 64 << 20

// readConsole reads what the guest prints. CTWARDEN_LAB_CONSOLE shows it as it
// comes.
func readConsole(r io.Reader) (out, status string) {
	if os.Getenv("CTWARDEN_LAB_CONSOLE") != "" {
		r = io.TeeReader(r, os.Stderr)
	}
	var b strings.Builder
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 4<<20)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		if rest, ok := strings.CutPrefix(line, exitMarker); ok {
			status = strings.TrimSpace(rest)
			continue
		}
		if b.Len() < maxConsole {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	_, _ = io.Copy(io.Discard, r)
	return b.String(), status
}

type result struct {
	name, verdict, output string
}

// parseResults reads the verbose output of a test binary; only tests of the
// first level are told apart.
func parseResults(out string) []result {
	var results []result
	var body strings.Builder
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "=== RUN   ") && !strings.Contains(line, "/") {
			body.Reset()
			continue
		}
		rest, ok := strings.CutPrefix(line, "--- ")
		verdict, name, ok2 := strings.Cut(rest, ": ")
		if !ok || !ok2 {
			body.WriteString(line)
			continue
		}
		name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
		results = append(results, result{name: name, verdict: verdict, output: body.String()})
		body.Reset()
	}
	return results
}

var builds struct {
	sync.Mutex
	done map[string][2]string
}

// testBinary compiles the tests of a package once a process, without cgo.
func testBinary(ctx context.Context, pkg string) (binary, dir string, err error) {
	builds.Lock()
	defer builds.Unlock()
	if b, ok := builds.done[pkg]; ok {
		return b[0], b[1], nil
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", "", err
	}
	list := exec.CommandContext(ctx, goTool(), "list", "-f", "{{.Dir}}", pkg)
	list.Dir = root
	pkgDir, err := list.Output()
	if err != nil {
		return "", "", fmt.Errorf("find package %s: %w", pkg, err)
	}
	tmp, err := os.MkdirTemp("", "ctwarden-guest-")
	if err != nil {
		return "", "", err
	}
	binary = filepath.Join(tmp, "test")
	build := exec.CommandContext(ctx, goTool(), "test", "-c", "-ldflags=-s -w", "-o", binary, pkg)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build tests of %s: %w: %s", pkg, err, out)
	}
	if builds.done == nil {
		builds.done = make(map[string][2]string)
	}
	dir = strings.TrimSpace(string(pkgDir))
	builds.done[pkg] = [2]string{binary, dir}
	return binary, dir, nil
}

// Cleanup removes the test binaries that this process built.
func Cleanup() {
	builds.Lock()
	defer builds.Unlock()
	for _, b := range builds.done {
		os.RemoveAll(filepath.Dir(b[0]))
	}
	builds.done = nil
}

func goTool() string {
	if p, err := exec.LookPath("go"); err == nil {
		return p
	}
	return "/usr/local/go/bin/go"
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, goTool(), "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
