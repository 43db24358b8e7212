package sockdiag

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Index finds the local socket of a flow. It is a picture of one moment.
type Index struct {
	exact map[pairKey]Process // connected sockets
	bound map[boundKey]Process
	ssh   map[pairKey]bool // established sockets of SSH servers
	ports map[uint16]bool  // on which SSH servers listen
}

type pairKey struct {
	proto         ct.Proto
	local, remote netip.AddrPort
}

type boundKey struct {
	proto ct.Proto
	local netip.AddrPort
}

// NewIndex builds an index from a namespace's sockets and the machine's
// processes.
func NewIndex(socks []Socket, procs map[uint32]Process) *Index {
	x := &Index{make(map[pairKey]Process), make(map[boundKey]Process), make(map[pairKey]bool), make(map[uint16]bool)}
	for _, s := range socks {
		p, known := procs[s.Inode]
		if !known {
			continue
		}
		if s.Remote.Port() != 0 {
			x.exact[pairKey{s.Proto, s.Local, s.Remote}] = p
		} else {
			x.bound[boundKey{s.Proto, s.Local}] = p
		}
	}
	x.findSSH(socks, procs)
	return x
}

// findSSH marks every established connection that an SSH server holds, or that
// came to a port on which one listens: the second covers what no process here
// can be seen to hold.
func (x *Index) findSSH(socks []Socket, procs map[uint32]Process) {
	ports := x.ports
	for _, s := range socks {
		if s.Proto == ct.TCP && s.State == Listen && isSSHServer(procs[s.Inode].Name) {
			ports[s.Local.Port()] = true
		}
	}
	for _, s := range socks {
		if s.Proto == ct.TCP && s.State != Listen && (ports[s.Local.Port()] || isSSHServer(procs[s.Inode].Name)) {
			x.ssh[pairKey{ct.TCP, s.Local, s.Remote}] = true
		}
	}
}

// isSSHServer knows the servers by the name of their processes: OpenSSH before
// and since 9.8, which split the session off, Dropbear and TinySSH.
func isSSHServer(name string) bool {
	return name == "sshd" || strings.HasPrefix(name, "sshd-") || name == "dropbear" || name == "tinysshd"
}

// Open reads sockets and processes and builds the index of a namespace.
func Open(ref string) (*Index, error) {
	socks, err := List(ref)
	if err != nil {
		return nil, err
	}
	procs, err := Processes()
	if err != nil {
		return nil, err
	}
	return NewIndex(socks, procs), nil
}

// sides are the two ways in which a flow can be local: by its sender, and by
// its receiver, who under translation stands in the reply.
func sides(f *ct.Flow) [2]pairKey {
	ap := netip.AddrPortFrom
	return [2]pairKey{
		{f.Orig.Proto, ap(f.Orig.Src, f.Orig.SrcPort), ap(f.Orig.Dst, f.Orig.DstPort)},
		{f.Orig.Proto, ap(f.Reply.Src, f.Reply.SrcPort), ap(f.Reply.Dst, f.Reply.DstPort)},
	}
}

// Owner returns the process at the local end of a flow. A connected socket
// decides; else one that is bound to, or listens on, the local port.
func (x *Index) Owner(f *ct.Flow) (Process, bool) {
	if !f.Orig.Proto.HasPorts() {
		return Process{}, false
	}
	s := sides(f)
	for _, k := range s {
		if p, ok := x.exact[k]; ok {
			return p, true
		}
	}
	for _, k := range s {
		if p, ok := x.bound[boundKey{k.proto, k.local}]; ok {
			return p, true
		}
	}
	return Process{}, false
}

// BoundAnywhere returns the process bound to the receiving port on every
// address. Whether the address is one of this namespace the caller must know.
func (x *Index) BoundAnywhere(f *ct.Flow) (Process, bool) {
	port := f.Reply.SrcPort
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if p, ok := x.bound[boundKey{f.Orig.Proto, netip.AddrPortFrom(any, port)}]; ok {
			return p, true
		}
	}
	return Process{}, false
}

// SSH reports whether a flow is a connection of an SSH server of this machine.
func (x *Index) SSH(f *ct.Flow) bool {
	for _, k := range sides(f) {
		if x.ssh[k] {
			return true
		}
	}
	return false
}

// SSHPeers returns the addresses on the other end of open SSH connections.
func (x *Index) SSHPeers() []netip.Addr {
	var peers []netip.Addr
	for k := range x.ssh {
		peers = append(peers, k.remote.Addr())
	}
	return peers
}

// SSHPorts returns the ports on which SSH servers listen, in order.
func (x *Index) SSHPorts() []uint16 { return slices.Sorted(maps.Keys(x.ports)) }

// AddSSH marks the connection that an SSH_CONNECTION variable names: "client
// port server port".
func (x *Index) AddSSH(env string) {
	f := strings.Fields(env)
	if len(f) != 4 {
		return
	}
	remote, err := netip.ParseAddrPort(joinPort(f[0], f[1]))
	local, err2 := netip.ParseAddrPort(joinPort(f[2], f[3]))
	if err == nil && err2 == nil {
		x.ssh[pairKey{ct.TCP, plain(local), plain(remote)}] = true
	}
}

// plain is an address as entries of the table have it: without a zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone("").Unmap(), a.Port())
}

func joinPort(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}
