// Package sockdiag lists the sockets of a network namespace and the processes
// that hold them, and finds the one to which a flow belongs.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// Socket is one TCP or UDP socket.
type Socket struct {
	Proto         ct.Proto
	Local, Remote netip.AddrPort // an IPv6 socket's IPv4 addresses are unmapped
	State         uint8          // TCP_ESTABLISHED and so on, include/net/tcp_states.h
	Inode         uint32         // 0 once no process holds it
}

// TCP states that callers ask for.
const (
	Established uint8 = 1
	Listen      uint8 = 10
)

// List returns the sockets of a namespace, named as netns.Path understands it.
// It asks inet_diag, and where that is a module that is not loaded, which
// asking would load, it reads /proc/net.
func List(ref string) (list []Socket, err error) {
	err = netns.Do(ref, func() error {
		var fs procfs.FS
		mods, err := fs.Modules()
		if err != nil {
			return err
		}
		list, err = listHere(mods)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return list, nil
}

// Listening returns the TCP sockets that listen in a namespace. It is cheap
// whatever the number of connections.
func Listening(ref string) (list []Socket, err error) {
	err = netns.Do(ref, func() error {
		mods, err := procfs.FS{}.Modules()
		if err != nil {
			return err
		}
		list, err = listSome(mods, kinds[:1], 1<<Listen)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list listening sockets: %w", err)
	}
	return slices.DeleteFunc(list, func(s Socket) bool { return s.State != Listen }), nil
}

// kind is a protocol whose sockets can be listed.
type kind struct {
	proto        ct.Proto
	name, symbol string
}

var kinds = []kind{{ct.TCP, "tcp_diag", "tcp_diag_dump"}, {ct.UDP, "udp_diag", "udp_diag_dump"}}

const everyState = ^uint32(0)

func listHere(mods *procfs.Modules) ([]Socket, error) { return listSome(mods, kinds, everyState) }

// listSome lists sockets in the states given, and maybe others.
func listSome(mods *procfs.Modules, kinds []kind, states uint32) ([]Socket, error) {
	var all []Socket
	for _, p := range kinds {
		present := mods.Monolithic() || mods.State("inet_diag", "inet_diag_rcv_skb").Present() && mods.State(p.name, p.symbol).Present()
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			socks, err := listOne(p.proto, family, present, states)
			if err != nil {
				return nil, err
			}
			all = append(all, socks...)
		}
	}
	return all, nil
}

func listOne(p ct.Proto, family uint8, diag bool, states uint32) ([]Socket, error) {
	if diag {
		socks, err := dump(p, family, states)
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return socks, err
		}
	}
	return readProcNet(p, family)
}

// Sizes of struct inet_diag_req_v2 and struct inet_diag_msg.
const (
	reqLen = 56
	msgLen = 72
	hdrLen = 16
)

func dump(p ct.Proto, family uint8, states uint32) ([]Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	req := make([]byte, hdrLen+reqLen)
	host := binary.NativeEndian
	host.PutUint32(req, uint32(len(req)))
	host.PutUint16(req[4:], 20) // SOCK_DIAG_BY_FAMILY
	host.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[hdrLen], req[hdrLen+1] = family, uint8(p)
	host.PutUint32(req[hdrLen+4:], states)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var all []Socket
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		var done bool
		if all, done, err = parseDump(all, buf[:n], p); err != nil || done {
			return all, err
		}
	}
}

var errMalformed = errors.New("malformed inet_diag message")

func parseDump(all []Socket, b []byte, p ct.Proto) (_ []Socket, done bool, err error) {
	host := binary.NativeEndian
	for len(b) >= hdrLen {
		n := int(host.Uint32(b))
		if n < hdrLen || n > len(b) {
			return all, false, errMalformed
		}
		switch body := b[hdrLen:n]; host.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return all, true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return all, false, errMalformed
			}
			return all, false, unix.Errno(-int32(host.Uint32(body)))
		default:
			s, ok := parseSocket(body, p)
			if !ok {
				return all, false, errMalformed
			}
			all = append(all, s)
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return all, false, nil
}

func parseSocket(b []byte, p ct.Proto) (Socket, bool) {
	if len(b) < msgLen {
		return Socket{}, false
	}
	at := func(addr, port int) netip.AddrPort {
		var a netip.Addr
		if b[0] == unix.AF_INET {
			a = netip.AddrFrom4([4]byte(b[addr:]))
		} else {
			a = netip.AddrFrom16([16]byte(b[addr:])).Unmap()
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[port:]))
	}
	return Socket{Proto: p, State: b[1], Local: at(8, 4), Remote: at(24, 6),
		Inode: binary.NativeEndian.Uint32(b[68:])}, true
}
