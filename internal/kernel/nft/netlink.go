package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Subsystems of nfnetlink, include/uapi/linux/netfilter/nfnetlink.h.
const (
	subsysTables = 10 // NFNL_SUBSYS_NFTABLES
	subsysHook   = 12 // NFNL_SUBSYS_HOOK
)

const (
	headerLen    = 16
	nfgenLen     = 4
	flagDumpIntr = 0x10
	// The kernel fills dump messages up to the reader's room.
	receiveBytes = 64 << 10
	// patience is how often a dump is begun anew because rules changed under it.
	patience = 5
)

var (
	host = binary.NativeEndian
	wire = binary.BigEndian
)

// errChanged says that the rules changed while they were read.
var errChanged = errors.New("the rules changed while they were read")

// socket is a nfnetlink socket. It reads only.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

func dial() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// The kernel answers within the call that asks; the limit is for the case
	// that it does not.
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &socket{fd: fd, buf: make([]byte, receiveBytes)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// dump asks for all objects of a kind and calls each with the family and the
// attributes of every one. begin is called before each attempt.
func (s *socket) dump(ctx context.Context, subsys, msg, family uint8, body []byte, begin func(), each func(family uint8, a attrs)) error {
	for range patience {
		begin()
		intr, err := s.attempt(ctx, uint16(subsys)<<8|uint16(msg), family, body, each)
		if err == nil && !intr {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return errChanged
}

func (s *socket) attempt(ctx context.Context, typ uint16, family uint8, body []byte, each func(uint8, attrs)) (intr bool, err error) {
	s.seq++
	if err := unix.Sendto(s.fd, request(typ, family, s.seq, body), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, os.NewSyscallError("sendto", err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("recvfrom", err)
		}
		if n > len(s.buf) {
			return false, fmt.Errorf("%w: %d bytes at once", ErrMalformed, n)
		}
		done, in, err := messages(s.buf[:n], s.seq, each)
		intr = intr || in
		if done || err != nil {
			return intr, err
		}
	}
}

func request(typ uint16, family uint8, seq uint32, body []byte) []byte {
	b := make([]byte, headerLen+nfgenLen, headerLen+nfgenLen+len(body))
	host.PutUint32(b, uint32(cap(b)))
	host.PutUint16(b[4:], typ)
	host.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	host.PutUint32(b[8:], seq)
	b[headerLen] = family
	return append(b, body...)
}

// messages walks one block of answers. done is set at the end of the dump,
// intr where the kernel marked it as inconsistent.
func messages(b []byte, seq uint32, each func(uint8, attrs)) (done, intr bool, err error) {
	for len(b) >= headerLen {
		n := int(host.Uint32(b))
		if n < headerLen || n > len(b) {
			return false, intr, fmt.Errorf("%w: message of %d bytes", ErrMalformed, n)
		}
		body := b[headerLen:n]
		if host.Uint32(b[8:]) == seq {
			intr = intr || host.Uint16(b[6:])&flagDumpIntr != 0
			switch host.Uint16(b[4:]) {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return true, intr, errorOf(body)
			case unix.NLMSG_NOOP:
			default:
				if len(body) < nfgenLen {
					return false, intr, fmt.Errorf("%w: no header", ErrMalformed)
				}
				each(body[0], attrs(body[nfgenLen:]))
			}
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return false, intr, nil
}

// errorOf reads the code at the end of a dump; 0 is success.
func errorOf(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(host.Uint32(body)); code < 0 {
		return os.NewSyscallError("netlink", unix.Errno(-code))
	}
	return nil
}

// attrs is a row of netlink attributes.
type attrs []byte

// all calls yield with the type and payload of each attribute, and ends at the
// first that does not hold together.
func (a attrs) all(yield func(typ uint16, payload []byte) bool) {
	for len(a) >= 4 {
		n := int(host.Uint16(a))
		if n < 4 || n > len(a) {
			return
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		if !yield(host.Uint16(a[2:])&^flags, a[4:n:n]) {
			return
		}
		a = a[min(len(a), (n+3)&^3):]
	}
}

// get returns the first attribute of a type, or nil.
func (a attrs) get(typ uint16) attrs {
	for t, p := range a.all {
		if t == typ {
			return p
		}
	}
	return nil
}

// text returns a string attribute.
func (a attrs) text(typ uint16) string { return cString(a.get(typ)) }

// u32 returns a number of four bytes, and whether it is there.
func (a attrs) u32(typ uint16) (uint32, bool) {
	p := a.get(typ)
	if len(p) != 4 {
		return 0, false
	}
	return wire.Uint32(p), true
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// appendText appends a string attribute.
func appendText(b []byte, typ uint16, s string) []byte {
	n := 4 + len(s) + 1
	b = host.AppendUint16(b, uint16(n))
	b = host.AppendUint16(b, typ)
	b = append(b, s...)
	return append(b, make([]byte, (n+3)&^3-n+1)...)
}

// appendU32 appends a number.
func appendU32(b []byte, typ uint16, v uint32) []byte {
	b = host.AppendUint16(b, 8)
	b = host.AppendUint16(b, typ)
	return wire.AppendUint32(b, v)
}
