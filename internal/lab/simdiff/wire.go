package simdiff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// chunkFrames is how many packets are under way at once, and carried by one
// system call.
const chunkFrames = 256

// wire is a packet socket at the end of a cable.
type wire struct {
	fd     int
	eth    [12]byte // hardware addresses of a frame that is sent
	frames [chunkFrames][]byte
	n      int
	msgs   [chunkFrames]mmsghdr
	iovs   [chunkFrames]unix.Iovec
	buf    [2048]byte
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func openWire(h *lab.Host, dev string, hop net.HardwareAddr) (*wire, error) {
	w := &wire{}
	copy(w.eth[:6], hop)
	err := h.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		copy(w.eth[6:], ifi.HardwareAddr)
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 32<<20)
		_ = unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		proto := uint16(unix.ETH_P_ALL)
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: ifi.Index})
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", dev, err)
	}
	return w, nil
}

func (w *wire) close() { unix.Close(w.fd) }

// flush sends what is queued.
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
		switch errno {
		case 0:
			done += int(k)
		case unix.EAGAIN, unix.ENOBUFS, unix.EINTR:
			runtime.Gosched()
		default:
			w.n = 0
			return fmt.Errorf("send frames: %w", errno)
		}
	}
	w.n = 0
	return nil
}

// receive calls f with the mark and the class of each packet that waits.
func (w *wire) receive(f func(m simtest.Mark, class uint8)) error {
	for {
		n, _, err := unix.Recvfrom(w.fd, w.buf[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receive frames: %w", err)
		}
		if m, class, ok := readMark(w.buf[:n]); ok {
			f(m, class)
		}
	}
}

// readMark reads the mark and the differentiated services class of a frame.
func readMark(frame []byte) (m simtest.Mark, class uint8, ok bool) {
	if len(frame) < 14+20 {
		return 0, 0, false
	}
	ip := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		return simtest.Mark(binary.BigEndian.Uint16(ip[4:])), ip[1] >> 2, true
	case 0x86dd:
		w := binary.BigEndian.Uint32(ip)
		return simtest.Mark(w & 0xffff), uint8(w >> 22 & 0x3f), true
	}
	return 0, 0, false
}

// wait waits until one of the sockets has something to read.
func wait(milliseconds int, wires ...*wire) {
	var fds [2]unix.PollFd
	for i, w := range wires {
		fds[i] = unix.PollFd{Fd: int32(w.fd), Events: unix.POLLIN}
	}
	_, _ = unix.Poll(fds[:len(wires)], milliseconds)
}
