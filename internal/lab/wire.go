package lab

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchFrames is how many frames one system call carries.
const batchFrames = 64

// wire is a packet socket on a host's cable: what it sends enters the
// neighbour like a packet from outside, past the sending host's own filters.
// One goroutine uses it.
type wire struct {
	link
	fd     int
	frames [batchFrames][]byte
	n      int
	msgs   [batchFrames]mmsghdr
	iovs   [batchFrames]unix.Iovec
	// Sent counts frames that the kernel took.
	sent uint64
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// openWire opens a packet socket. It hears nothing unless listen is set.
func (h *Host) openWire(listen bool) (*wire, error) {
	if h.link.index == 0 {
		return nil, fmt.Errorf("%s has no cable", h.Name)
	}
	proto := 0
	if listen {
		proto = unix.ETH_P_ALL
	}
	w := &wire{link: h.link}
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		w.fd = fd
		if listen {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(uint16(proto)), Ifindex: w.index})
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket in %s: %w", h.Name, err)
	}
	for i := range w.frames {
		w.frames[i] = make([]byte, 0, 128)
	}
	return w, nil
}

func (w *wire) close() { unix.Close(w.fd) }

// queue adds a segment to the batch and sends the batch once it is full.
func (w *wire) queue(s *segment) error {
	w.frames[w.n] = w.appendFrame(w.frames[w.n][:0], s)
	w.n++
	if w.n == batchFrames {
		return w.flush()
	}
	return nil
}

// flush sends the batch. The socket's send buffer is the only thing that can
// be short here; the wait for it is short too.
func (w *wire) flush() error {
	for i := range w.n {
		w.iovs[i].Base = &w.frames[i][0]
		w.iovs[i].SetLen(len(w.frames[i]))
		w.msgs[i].hdr.Iov = &w.iovs[i]
		w.msgs[i].hdr.SetIovlen(1)
	}
	for done := 0; done < w.n; {
		k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(w.fd),
			uintptr(unsafe.Pointer(&w.msgs[done])), uintptr(w.n-done), 0, 0, 0)
		switch {
		case errno == 0:
			done += int(k)
			w.sent += uint64(k)
		case errno == unix.EAGAIN || errno == unix.ENOBUFS || errno == unix.EINTR:
			runtime.Gosched()
		default:
			w.n = 0
			return fmt.Errorf("send frames: %w", errno)
		}
	}
	w.n = 0
	return nil
}

// receive calls f with each TCP segment that waits in the socket.
func (w *wire) receive(f func(segment) error) error {
	var buf [maxFrame]byte
	for {
		n, _, err := unix.Recvfrom(w.fd, buf[:], 0)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive frames: %w", err)
		}
		if s, ok := parseTCP(buf[:n]); ok {
			if err := f(s); err != nil {
				return err
			}
		}
	}
}

// wait waits until the socket has something to read, for some milliseconds.
func (w *wire) wait(milliseconds int) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, milliseconds)
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// lookUpLink reads an interface's index and hardware address.
func (h *Host) lookUpLink(dev string) (l link, err error) {
	err = h.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		l.index = ifi.Index
		copy(l.own[:], ifi.HardwareAddr)
		return nil
	})
	return l, err
}
