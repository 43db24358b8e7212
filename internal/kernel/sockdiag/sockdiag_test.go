package sockdiag

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// connect returns both ends of a connection over loopback.
func connect(t *testing.T, network, listen string) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Skipf("no %s loopback here: %v", network, err)
	}
	t.Cleanup(func() { l.Close() })
	client, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func flowOf(c net.Conn) *ct.Flow {
	l, r := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	f := &ct.Flow{Orig: ct.Tuple{Src: l.Addr(), Dst: r.Addr(), Proto: ct.TCP, SrcPort: l.Port(), DstPort: r.Port()}}
	f.Reply, _ = f.Orig.Invert()
	return f
}

func TestOwnSocketsAreFound(t *testing.T) {
	for network, listen := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		c, _ := connect(t, network, listen)
		x, err := Open("")
		if err != nil {
			t.Fatal(err)
		}
		p, ok := x.Owner(flowOf(c))
		if !ok || p.PID != os.Getpid() {
			t.Errorf("%s: owner %+v, %v; want this process, %d", network, p, ok, os.Getpid())
		}
		if x.SSH(flowOf(c)) {
			t.Errorf("%s: taken for SSH", network)
		}
	}
}

// TestDiagAgreesWithProc compares the two ways to read sockets on those of
// this test.
func TestDiagAgreesWithProc(t *testing.T) {
	c, s := connect(t, "tcp4", "127.0.0.1:0")
	for _, conn := range []net.Conn{c, s} {
		want := Socket{Proto: ct.TCP, Local: addrPort(conn.LocalAddr()), Remote: addrPort(conn.RemoteAddr()), State: Established}
		for name, list := range map[string]func() ([]Socket, error){
			"inet_diag": func() ([]Socket, error) { return dump(ct.TCP, 2, everyState) },
			"/proc/net": func() ([]Socket, error) { return readProcNet(ct.TCP, 2) },
		} {
			socks, err := list()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(socks, func(s Socket) bool { return s.Local == want.Local && s.Remote == want.Remote })
			if i < 0 || socks[i].Inode == 0 || socks[i].State != want.State {
				t.Errorf("%s does not show %+v", name, want)
			}
		}
	}
}

func TestSSHServersAreKnown(t *testing.T) {
	ap := netip.MustParseAddrPort
	socks := []Socket{
		{ct.TCP, ap("0.0.0.0:2222"), ap("0.0.0.0:0"), Listen, 1},
		{ct.TCP, ap("192.0.2.1:2222"), ap("198.51.100.1:5000"), Established, 2}, // holder unseen
		{ct.TCP, ap("192.0.2.1:22"), ap("198.51.100.2:5001"), Established, 3},
		{ct.TCP, ap("192.0.2.1:80"), ap("198.51.100.3:5002"), Established, 4},
	}
	x := NewIndex(socks, map[uint32]Process{1: {PID: 1, Name: "sshd"}, 3: {PID: 3, Name: "sshd-session"}, 4: {PID: 4, Name: "nginx"}})
	x.AddSSH("2001:db8::9 40000 2001:db8::1 22")
	in := func(src string, sport uint16, dst string, dport uint16) *ct.Flow {
		f := &ct.Flow{Orig: ct.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: ct.TCP, SrcPort: sport, DstPort: dport}}
		f.Reply, _ = f.Orig.Invert()
		return f
	}
	dnat := in("198.51.100.2", 5001, "203.0.113.1", 2200)
	dnat.Reply.Src, dnat.Reply.SrcPort = netip.MustParseAddr("192.0.2.1"), 22
	for _, tc := range []struct {
		f    *ct.Flow
		want bool
	}{
		{in("198.51.100.1", 5000, "192.0.2.1", 2222), true},
		{in("198.51.100.2", 5001, "192.0.2.1", 22), true},
		{dnat, true},
		{in("198.51.100.3", 5002, "192.0.2.1", 80), false},
		{in("2001:db8::9", 40000, "2001:db8::1", 22), true},
	} {
		if got := x.SSH(tc.f); got != tc.want {
			t.Errorf("%s: SSH %v", tc.f.Orig, got)
		}
	}
}

func TestContainerOf(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for cg, want := range map[string]string{
		"0::/system.slice/docker-" + id + ".scope\n":                                "docker:0123456789ab",
		"0::/kubepods.slice/kubepods-pod12.slice/cri-containerd-" + id + ".scope\n": "cri-containerd:0123456789ab",
		"12:cpu:/docker/" + id + "\n0::/docker/" + id + "\n":                        "container:0123456789ab",
		"0::/machine.slice/libpod-" + id + ".scope/container\n":                     "libpod:0123456789ab",
		"0::/lxc.payload.web/system.slice/nginx.service\n":                          "lxc:web",
		"0::/system.slice/nginx.service\n":                                          "",
		"":                                                                          "",
	} {
		if got := containerOf(cg); got != want {
			t.Errorf("%q: %q, want %q", cg, got, want)
		}
	}
}

func FuzzParseDump(f *testing.F) {
	f.Add(make([]byte, hdrLen+msgLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseDump(nil, b, ct.TCP)
	})
}

func FuzzParseProcNet(f *testing.F) {
	f.Add("  sl  local_address rem_address   st\n   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0\n")
	f.Fuzz(func(t *testing.T, s string) {
		parseProcNet(strings.NewReader(s), ct.TCP)
	})
}
