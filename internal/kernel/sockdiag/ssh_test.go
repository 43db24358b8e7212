package sockdiag

import (
	"net/netip"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// TestSSHSocketsTellAsMuchAsAll compares with the index over every socket.
func TestSSHSocketsTellAsMuchAsAll(t *testing.T) {
	ap := netip.MustParseAddrPort
	socks := []Socket{
		{ct.TCP, ap("0.0.0.0:22"), netip.AddrPort{}, Listen, 1},
		{ct.TCP, ap("10.0.0.1:22"), ap("192.0.2.1:5000"), Established, 2},
		{ct.TCP, ap("10.0.0.1:22"), ap("192.0.2.2:5001"), Established, 0}, // held by nobody yet
		{ct.TCP, ap("10.0.0.1:80"), ap("192.0.2.3:5002"), Established, 3},
		{ct.TCP, ap("10.0.0.1:40000"), ap("192.0.2.4:22"), Established, 4}, // a client's
	}
	procs := map[uint32]Process{1: {PID: 1, Name: "sshd"}, 2: {PID: 2, Name: "sshd-session"}, 3: {PID: 3, Name: "nginx"}, 4: {PID: 4, Name: "ssh"}}
	whole := NewIndex(append([]Socket(nil), socks...), procs)
	delete(procs, 3)
	delete(procs, 4)
	part := NewIndex(sshSockets(append([]Socket(nil), socks...), procs), procs)
	for _, s := range socks[1:] {
		f := &ct.Flow{Orig: ct.Tuple{Src: s.Remote.Addr(), Dst: s.Local.Addr(), Proto: ct.TCP, SrcPort: s.Remote.Port(), DstPort: s.Local.Port()}}
		f.Reply, _ = f.Orig.Invert()
		if whole.SSH(f) != part.SSH(f) {
			t.Errorf("%s from %s: %v and %v", s.Local, s.Remote, whole.SSH(f), part.SSH(f))
		}
	}
	if len(whole.ssh) != 2 || len(part.ssh) != 2 {
		t.Errorf("%d and %d connections, want 2", len(whole.ssh), len(part.ssh))
	}
}
