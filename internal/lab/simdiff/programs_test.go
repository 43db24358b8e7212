package simdiff

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
)

// TestReplay captures real programs at a tracking server and at a gateway that
// masquerades, plays the captures into the model, and compares what each has
// left in the table.
func TestReplay(t *testing.T) {
	for _, p := range []struct {
		name            string
		tools           []string
		server, gateway bool
		run             func(*stage)
		drops           func(*sim.Packet) bool
	}{
		{name: "nginx under wrk", tools: []string{"nginx", "wrk"}, server: true, gateway: true, run: runWrk},
		{name: "dig storm", tools: []string{"dig"}, server: true, gateway: true, run: runDig},
		{name: "ssh and scp with loss", tools: []string{"sshd", "ssh", "scp", "ssh-keygen"}, server: true, gateway: true, run: runSSH},
		{name: "curl over IPv6", tools: []string{"nginx", "curl"}, server: true, gateway: true, run: runCurl6},
		{name: "datagrams like QUIC", server: true, gateway: true, run: runQUIC},
		{name: "ping", tools: []string{"ping"}, server: true, gateway: true, run: runPing},
		{name: "traceroute", tools: []string{"traceroute"}, server: true, gateway: true, run: runTraceroute},
		{name: "port scan", tools: []string{"nmap"}, server: true, gateway: true, run: runScan, drops: scanDrops},
	} {
		for _, gateway := range []bool{false, true} {
			if gateway && !p.gateway || !gateway && !p.server {
				continue
			}
			name := p.name + " at the server"
			if gateway {
				name = p.name + " at a gateway"
			}
			t.Run(name, func(t *testing.T) {
				lab.Require(t, append([]string{"conntrack", "tcpdump"}, p.tools...)...)
				lab.SharedLimits(t)
				newStage(t, gateway).compare(p.run, p.drops)
			})
		}
	}
}

// program runs a command on the client for a few seconds at most. Programs may
// fail: what they send is compared, not what they find.
func (s *stage) program(name string, args ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 8*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.client.Do(cmd.Run)
	text := out.String()
	s.Logf("%s: %v\n%s", name, err, text[max(0, len(text)-600):])
}

func runWrk(s *stage) {
	s.server.Nginx(80, false)
	s.server.Nginx(81, true)
	for port, n := range map[uint16]int{80: 20, 81: 10} {
		if _, err := s.client.Wrk(netip.AddrPortFrom(s.server.Addr4, port), n, time.Second); err != nil {
			s.Error(err)
		}
	}
}

// runDig asks from many addresses, some of them from one port, and from one
// port again: at once, and well after the two seconds that make a stream. Near
// those the kernel's clock tick decides, which a capture does not tell.
func runDig(s *stage) {
	s.server.ServeDNS(53)
	batch := filepath.Join(s.TempDir(), "names")
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, "name%d.example.org A\n", i)
	}
	if err := os.WriteFile(batch, []byte(b.String()), 0o644); err != nil {
		s.Fatal(err)
	}
	dig := func(args ...string) {
		s.program("dig", append([]string{"+tries=1", "+time=1", "+short", "+nocookie"}, args...)...)
	}
	at4, at6 := "@"+s.server.Addr4.String(), "@"+s.server.Addr6.String()
	dig(at4, "-f", batch)
	dig(at6, "-f", batch)
	for i := range uint32(8) {
		from := lab.Nth(s.client.Sources4, 100+i).String()
		dig(at4, "-b", from+"#4000", "example.org")
		dig(at4, "-b", from+"#53", "example.org")
		dig(at4, "-b", from+"#53", "again.example.org")
	}
	dig(at4, "-p", "54", "nobody.answers")
	time.Sleep(2500 * time.Millisecond)
	dig(at4, "-b", lab.Nth(s.client.Sources4, 100).String()+"#4000", "later.example.org")
	dig(at4, "-b", lab.Nth(s.client.Sources4, 101).String()+"#4000", "later.example.org")
}

func runSSH(s *stage) {
	dir := s.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		s.Fatal(err)
	}
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		s.Fatal(err)
	}
	s.server.Start(exec.Command(sshd, "-D", "-f", "/dev/null", "-p", "2222", "-h", key,
		"-o", "PidFile=none", "-o", "StrictModes=no", "-o", "AuthorizedKeysFile="+key+".pub",
		"-o", "Subsystem=sftp internal-sftp"))
	time.Sleep(300 * time.Millisecond)
	s.client.Lose(4, 2222)
	options := []string{"-F", "/dev/null", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5"}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o644); err != nil {
		s.Fatal(err)
	}
	at := "root@" + s.server.Addr4.String()
	s.program("ssh", append(options, "-p", "2222", at, "true")...)
	s.program("scp", append(options, "-P", "2222", big, at+":"+big+".up")...)
	s.program("scp", append(options, "-P", "2222", at+":"+big, big+".down")...)
	// One that still speaks, and one that was cut off.
	open := exec.Command("ssh", append(options, "-p", "2222", at, "sleep 20")...)
	s.client.Start(open)
	cut := exec.Command("ssh", append(options, "-p", "2222", at, "cat /dev/zero")...)
	s.client.Start(cut)
	time.Sleep(1500 * time.Millisecond)
	if err := cut.Process.Kill(); err != nil {
		s.Fatal(err)
	}
	time.Sleep(time.Second)
}

func runCurl6(s *stage) {
	s.server.Nginx(80, true)
	url := "http://[" + s.server.Addr6.String() + "]:80/"
	s.program("curl", "-6", "-s", "-m", "3", url+"a", url+"b", url+"c")
	s.program("curl", "-6", "-s", "-m", "3", "-Z", "--parallel-max", "10", url+"[1-50]")
	s.program("curl", "-6", "-s", "-m", "1", "http://["+s.server.Addr6.String()+"]:9/")
	for i := range uint32(4) {
		s.program("curl", "-6", "-s", "-m", "3", "--interface", lab.Nth(s.client.Sources6, 7+i).String(), "--local-port", "3000", url)
	}
}

// runQUIC talks over UDP for longer than the two seconds that make a stream,
// from addresses of which some have one port.
func runQUIC(s *stage) {
	s.server.ServeUDP(443)
	at := netip.AddrPortFrom(s.server.Addr4, 443)
	long, err := s.client.ConnectUDP(at, s.client.Sources4, 40)
	if err != nil {
		s.Fatal(err)
	}
	short, err := s.client.ConnectUDP(netip.AddrPortFrom(s.server.Addr6, 443), s.client.Sources6, 40)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), 1200*time.Millisecond)
	defer cancel()
	if _, err := lab.Chat(ctx, short, 50*time.Millisecond); err != nil {
		s.Error(err)
	}
	ctx, cancel = context.WithTimeout(s.Context(), 2600*time.Millisecond)
	defer cancel()
	if _, err := lab.Chat(ctx, long, 20*time.Millisecond); err != nil {
		s.Error(err)
	}
}

func runPing(s *stage) {
	four, six := s.server.Addr4.String(), s.server.Addr6.String()
	s.program("ping", "-n", "-q", "-c", "5", "-i", "0.2", four)
	s.program("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-s", "4000", four)
	s.program("ping", "-n", "-q", "-c", "3", "-i", "0.2", six)
	s.program("ping", "-n", "-q", "-c", "2", "-i", "0.2", "-s", "4000", six)
	s.program("ping", "-n", "-q", "-c", "300", "-f", four)
	// Datagrams in fragments.
	s.server.ServeUDP(7)
	big, err := s.client.ConnectUDP(netip.AddrPortFrom(s.server.Addr4, 7), s.client.Sources4, 3)
	if err != nil {
		s.Fatal(err)
	}
	for _, c := range big {
		if _, err := c.Write(make([]byte, 2000)); err != nil {
			s.Fatal(err)
		}
	}
	for i := range uint32(3) {
		s.program("ping", "-n", "-q", "-c", "1", "-W", "1", "-e", "77", "-I", lab.Nth(s.client.Sources4, 50+i).String(), four)
	}
}

func runTraceroute(s *stage) {
	four, six := s.server.Addr4.String(), s.server.Addr6.String()
	for _, args := range [][]string{{four}, {"-I", four}, {"-T", "-p", "80", four}, {"-U", "-p", "53", four}, {six}, {"-I", six}, {"-T", six}} {
		s.program("traceroute", append([]string{"-n", "-q", "2", "-w", "0.3", "-m", "3"}, args...)...)
	}
}

// Ports of the scan that the tracker drops without a word.
const scanFirst, scanLast = 300, 320

func scanDrops(p *sim.Packet) bool {
	return p.Tuple.DstPort >= scanFirst && p.Tuple.DstPort <= scanLast
}

func runScan(s *stage) {
	hook := "input"
	if s.gateway {
		hook = "forward"
	}
	s.tracker.NFT(fmt.Sprintf(`table inet scanned {
	chain c { type filter hook %s priority 10; th dport %d-%d drop; }
}`, hook, scanFirst, scanLast))
	s.server.ServeTCP(80, lab.Echo)
	s.server.ServeUDP(53)
	for _, kind := range []string{"-sS", "-sT", "-sX", "-sA", "-sU"} {
		ports := "20-200,298-322"
		if kind == "-sU" {
			ports = "50-60"
		}
		s.program("nmap", "-n", "-Pn", kind, "-T5", "--max-retries", "1", "--max-rtt-timeout", "50ms",
			"--min-rate", "2000", "--host-timeout", "1s", "-p", ports, s.server.Addr4.String())
	}
}
