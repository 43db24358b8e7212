package ctnl

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// Errors that a caller decides on. The kernel's own error numbers can be found
// with errors.Is too: unix.EPERM (which is also fs.ErrPermission), unix.ENOMEM
// for a full table, unix.EEXIST, unix.EBUSY.
var (
	// ErrModule says that a part of the kernel other than ctnetlink itself is
	// not loaded; the text names it.
	ErrModule = errors.New("kernel module is not loaded")
	// ErrNotFound says that there is no such entry, or not with this id.
	ErrNotFound = errors.New("no such entry")
	// ErrUnsupported says that this kernel does not know the request.
	ErrUnsupported = errors.New("not supported by this kernel")
	// ErrLost says that the socket's receive buffer overflowed and answers are
	// missing.
	ErrLost = errors.New("answers of the kernel were lost")
	// ErrNamespaceGone says that the namespace a connection was made in has
	// been replaced by another.
	ErrNamespaceGone = errors.New("network namespace has changed")
)

// Options say where and how to connect. The zero value is the namespace of the
// caller.
type Options struct {
	// Netns is a namespace as [netns.Path] understands it.
	Netns string
	// Root is put before the paths read to find out whether ctnetlink is
	// loaded. It does not apply to the namespace.
	Root string
	// ReceiveBufferBytes is the size asked for the socket's queue of unread
	// messages; 0 is 4 MiB. Only events and refused writes ever fill it.
	ReceiveBufferBytes int
}

const (
	defaultReceiveBuffer = 4 << 20
	// readLen is the room for one answer. The kernel fills a dump's message
	// block up to the reader's buffer, at most 32 KiB less overhead (16 KiB
	// before 5.3; netlink_dump in net/netlink/af_netlink.c), so more room
	// gains nothing.
	readLen = 64 << 10
)

// Conn is a connection to the tables of one namespace. It must not be used by
// two goroutines at once, nor from inside a callback of its own.
type Conn struct {
	fd    int
	opts  Options
	inode uint64 // of the namespace
	seq   uint32
	buf   []byte
	out   []byte
	from  unix.RawSockaddrNetlink
	dec   decoder
	// stale is set when a dump was left early: the socket is then busy with
	// it and must be replaced before the next request.
	stale  bool
	closed bool
}

// Dial opens a connection. It returns ErrNotLoaded, without having changed
// anything, where the request would load a module. The namespace is left again
// at once; the socket alone does keep it alive until Close.
func Dial(o Options) (*Conn, error) {
	if err := Loaded(o.Root); err != nil {
		return nil, err
	}
	if o.ReceiveBufferBytes == 0 {
		o.ReceiveBufferBytes = defaultReceiveBuffer
	}
	c := &Conn{fd: -1, opts: o, buf: make([]byte, readLen)}
	if err := c.open(); err != nil {
		return nil, err
	}
	return c, nil
}

// open makes the socket. From the second time on it insists on the namespace
// of the first.
func (c *Conn) open() error {
	err := netns.Do(c.opts.Netns, func() error {
		inode, err := netns.Inode("")
		if err != nil {
			return err
		}
		if c.inode != 0 && c.inode != inode {
			return fmt.Errorf("%w: %q", ErrNamespaceGone, c.opts.Netns)
		}
		c.inode = inode
		c.fd, err = socket()
		return err
	})
	if err != nil {
		return fmt.Errorf("open ctnetlink socket: %w", err)
	}
	c.stale = false
	c.setOptions()
	return nil
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK,
		unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// setOptions asks for what helps and is not needed: short error messages, and
// room for one answer to every message of a batch.
func (c *Conn) setOptions() {
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	setReceiveBuffer(c.fd, c.opts.ReceiveBufferBytes)
}

// setReceiveBuffer sets the size, or comes as near as net.core.rmem_max lets a
// process without CAP_NET_ADMIN in the initial user namespace.
func setReceiveBuffer(fd, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
}

// Close closes the connection.
func (c *Conn) Close() error {
	if c.closed {
		return os.ErrClosed
	}
	c.closed = true
	return c.closeSocket()
}

// Release gives the socket up until the next request, which opens another: a
// connection that waits does not keep a namespace alive that has lost all its
// processes. If the namespace has changed by then, that request returns
// ErrNamespaceGone, or netns.ErrNotFound.
func (c *Conn) Release() error { return c.closeSocket() }

func (c *Conn) closeSocket() error {
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// NetnsInode returns the inode number of the namespace that the connection was
// made in.
func (c *Conn) NetnsInode() uint64 { return c.inode }

// ready makes the socket fit for a request.
func (c *Conn) ready() error {
	if c.closed {
		return os.ErrClosed
	}
	if c.fd >= 0 && !c.stale {
		return nil
	}
	if err := c.closeSocket(); err != nil {
		return os.NewSyscallError("close", err)
	}
	return c.open()
}

// send sends what is in b, one or more messages.
func (c *Conn) send(b []byte) error {
	to := unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(c.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0,
			uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return os.NewSyscallError("sendto", errno)
	}
}

// errEmpty says that nothing is waiting. Since the kernel answers before
// sendto and recvfrom return, it is the end of a batch, and elsewhere a fault.
var errEmpty = errors.New("no answer from the kernel")

// receive reads one block of messages into c.buf. The result is valid until
// the next call.
func (c *Conn) receive() ([]byte, error) { return recvFrom(c.fd, c.buf, &c.from) }

// recvFrom reads one block of messages of the kernel into b.
func recvFrom(fd int, b []byte, from *unix.RawSockaddrNetlink) ([]byte, error) {
	for {
		size := uint32(unix.SizeofSockaddrNetlink)
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_TRUNC,
			uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return nil, errEmpty
		case errno == unix.ENOBUFS:
			return nil, ErrLost
		case errno != 0:
			return nil, os.NewSyscallError("recvfrom", errno)
		case int(n) > len(b):
			return nil, fmt.Errorf("%w: %d bytes at once", ErrMalformed, n)
		case from.Pid != 0:
			continue // not from the kernel
		}
		return b[:n], nil
	}
}

// nextSeq returns n sequence numbers in a row, none of them 0, and the first.
func (c *Conn) nextSeq(n uint32) uint32 {
	if c.seq == 0 || c.seq+n < c.seq {
		c.seq = 1 + processSeq.Add(1)%1024
	}
	first := c.seq
	c.seq += n
	return first
}

// processSeq keeps the sockets of one process apart in traces.
var processSeq atomic.Uint32
