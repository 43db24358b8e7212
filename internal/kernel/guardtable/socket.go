package guardtable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	subsysTables = 10 // NFNL_SUBSYS_NFTABLES
	batchBegin   = 16 // NFNL_MSG_BATCH_BEGIN
	batchEnd     = 17 // NFNL_MSG_BATCH_END

	// receiveBytes is the room for one answer; the kernel fills dumps up to it.
	receiveBytes = 64 << 10
	// sendBytes bounds a batch, which is one datagram.
	sendBytes = 8 << 20
)

// ErrMalformed is the error of an answer that does not hold together.
var ErrMalformed = errors.New("malformed answer of the kernel")

// errLost says that the kernel had no room for its answer, so that it is not
// known what became of a change.
var errLost = errors.New("the kernel's answer was lost")

// socket is a nfnetlink socket.
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
	s := &socket{fd: fd, buf: make([]byte, receiveBytes)}
	if err := s.setUp(); err != nil {
		s.close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return s, nil
}

func (s *socket) setUp() error {
	// Room for a batch needs CAP_NET_ADMIN, as all that follows does; without
	// it the kernel's refusal of the batch says more than this one would.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBytes)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sendBytes)
	// From 4.12 and 4.11: reasons in words, and answers without the question.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (s *socket) close() { unix.Close(s.fd) }

// portID is the socket's address, by which the kernel knows the owner.
func (s *socket) portID() (uint32, error) {
	a, err := unix.Getsockname(s.fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	nl, ok := a.(*unix.SockaddrNetlink)
	if !ok {
		return 0, ErrMalformed
	}
	return nl.Pid, nil
}

// exchange sends one datagram and gives every message of the answer to each.
// The kernel queues all of it before the call that asks returns, except for
// dumps, of which every reading fetches the next part; so the answer has ended
// when there is nothing more to read.
func (s *socket) exchange(datagram []byte, each func(message)) error {
	if err := s.drain(func(message) {}); err != nil && !errors.Is(err, errLost) {
		return err
	}
	for {
		err := unix.Sendto(s.fd, datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendto", err)
		}
	}
	return s.drain(each)
}

func (s *socket) drain(each func(message)) error {
	var lost error
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			lost = errLost
			continue
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		case n > len(s.buf):
			return fmt.Errorf("%w: %d bytes at once", ErrMalformed, n)
		}
		if err := messages(s.buf[:n], each); err != nil {
			return err
		}
	}
}

// message is one netlink message: its type, sequence number, and what follows
// the header.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// messages walks the messages of one block.
func messages(b []byte, each func(message)) error {
	for len(b) >= headerLen {
		n := int(host.Uint32(b))
		if n < headerLen || n > len(b) {
			return fmt.Errorf("%w: message of %d bytes", ErrMalformed, n)
		}
		each(message{typ: host.Uint16(b[4:]), flags: host.Uint16(b[6:]), seq: host.Uint32(b[8:]), body: b[headerLen:n:n]})
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// attrs returns the attributes of a message of nfnetlink.
func (m message) attrs() attrs {
	if len(m.body) < nfgenLen {
		return nil
	}
	return attrs(m.body[nfgenLen:])
}

// verdict reads an acknowledgement: what the kernel says of it in words, and
// the error code, nil for success.
func (m message) verdict() (words string, err error) {
	const code, text = 4, 1 // struct nlmsgerr's first field; NLMSGERR_ATTR_MSG
	if len(m.body) < code {
		return "", ErrMalformed
	}
	if n := int32(host.Uint32(m.body)); n < 0 {
		err = unix.Errno(-n)
	}
	// With NETLINK_CAP_ACK only the header of the question comes back.
	at := code + headerLen
	if m.flags&unix.NLM_F_CAPPED == 0 && len(m.body) >= at {
		n := int(host.Uint32(m.body[code:]))
		if n < headerLen || n > len(m.body)-code {
			return "", err
		}
		at = code + (n+3)&^3
	}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 || at > len(m.body) {
		return "", err
	}
	return attrs(m.body[at:]).string(text), err
}

// ask sends a question about one object, or with NLM_F_DUMP about many, and
// gives the attributes of every answer to each.
func (s *socket) ask(msg uint16, family uint8, flags uint16, body attrs, each func(attrs)) error {
	s.seq++
	want := s.seq
	var failed error
	q := appendMessage(nil, subsysTables<<8|msg, unix.NLM_F_REQUEST|flags, family, want, 0, body)
	err := s.exchange(q, func(m message) {
		switch {
		case m.seq != want:
		case m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE:
			if _, err := m.verdict(); err != nil && failed == nil {
				failed = err
			}
		case m.typ >= subsysTables<<8:
			each(m.attrs())
		}
	})
	return errors.Join(err, failed)
}

func appendMessage(b []byte, typ, flags uint16, family uint8, seq uint32, res uint16, body []byte) []byte {
	b = host.AppendUint32(b, uint32(headerLen+nfgenLen+len(body)))
	b = host.AppendUint16(b, typ)
	b = host.AppendUint16(b, flags)
	b = host.AppendUint32(b, seq)
	b = host.AppendUint32(b, 0)
	b = append(b, family, 0)
	b = wire.AppendUint16(b, res)
	b = append(b, body...)
	return append(b, make([]byte, (4-len(body)&3)&3)...)
}
