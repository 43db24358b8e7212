package ctnl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// Groups is a set of kinds of events.
type Groups uint32

// Kinds of events, NFNLGRP_CONNTRACK_*.
const (
	GroupNew Groups = 1 << iota
	GroupUpdate
	GroupDestroy
	GroupExpectNew
	GroupExpectUpdate
	GroupExpectDestroy

	// GroupsFlows are all events of entries.
	GroupsFlows = GroupNew | GroupUpdate | GroupDestroy
)

const numGroups = 6

// EventKind says what happened.
type EventKind uint8

// Kinds of events.
const (
	EventNew EventKind = iota + 1
	EventUpdate
	EventDestroy
)

// String returns the kind as conntrack -E prints it.
func (k EventKind) String() string {
	switch k {
	case EventNew:
		return "NEW"
	case EventUpdate:
		return "UPDATE"
	case EventDestroy:
		return "DESTROY"
	}
	return ""
}

// ListenOptions say what to listen to. ReceiveBufferBytes is 32 MiB where it
// is 0; the kernel takes twice that, and only as much as waits to be read.
type ListenOptions struct {
	Options
	Groups Groups
	// Unknown, if set, is called with every attribute that is kept apart.
	Unknown func(*ct.Flow, Unknown)
}

// Handler gets what a Listener hears. A callback that is nil is not called; an
// error from one ends the listening.
type Handler struct {
	// Flow gets the events of entries. The Flow is overwritten by the next
	// event: copy it to keep it. An event carries what the kernel puts into
	// it: the tuples, id, zone and status always; of the rest what changed,
	// and for EventDestroy timeout, state, counters and timestamps.
	Flow func(EventKind, *ct.Flow) error
	// Expect gets the events of expectations, under the same terms.
	Expect func(EventKind, *ct.Expectation) error
	// Lost is called when events were lost because they were not read in
	// time: how many, or 0 where the kernel (before 4.12) does not tell. What
	// the caller knows about the table is out of date from here on; it should
	// read it anew.
	Lost func(events uint64) error
}

const (
	listenBuffer = 32 << 20
	// One event is one datagram of at most a few hundred bytes, so that many
	// are fetched with one system call.
	eventRoom  = 4 << 10
	eventBatch = 128
)

// Listener hears the events of one namespace.
//
// Listening has a price for the kernel: entries made while anybody on the host
// listens carry 128 bytes more, and each event costs the packet path several
// microseconds. With
// nf_conntrack_events=2 (the default from 5.19) entries that were made before
// anybody listened stay silent for ever.
type Listener struct {
	file  *os.File
	raw   syscall.RawConn
	dec   decoder
	buf   []byte
	iov   [eventBatch]unix.Iovec
	msgs  [eventBatch]mmsghdr
	got   int
	err   error
	drops uint32
	lost  uint64
	// behind is set from an overrun until the queue has been emptied: only
	// then does the kernel report the next.
	behind bool
	flow   ct.Flow
	exp    ct.Expectation
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// Listen starts to listen. Like Dial, it loads no module and leaves the
// namespace at once.
func Listen(o ListenOptions) (*Listener, error) {
	if err := Loaded(o.Root); err != nil {
		return nil, err
	}
	if o.ReceiveBufferBytes == 0 {
		o.ReceiveBufferBytes = listenBuffer
	}
	var fd int
	err := netns.Do(o.Netns, func() (err error) {
		fd, err = socket()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open ctnetlink socket: %w", err)
	}
	l := &Listener{file: os.NewFile(uintptr(fd), "ctnetlink"), buf: make([]byte, eventBatch*eventRoom)}
	l.dec.unknown = o.Unknown
	if err := l.join(fd, &o); err != nil {
		l.file.Close()
		return nil, err
	}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// join sizes the buffer before the first event can arrive.
func (l *Listener) join(fd int, o *ListenOptions) error {
	setReceiveBuffer(fd, o.ReceiveBufferBytes)
	for i := range numGroups {
		if o.Groups&(1<<i) == 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, i+1); err != nil {
			return fmt.Errorf("join event group %d: %w", i+1, err)
		}
	}
	for i := range l.msgs {
		l.iov[i].Base = &l.buf[i*eventRoom]
		l.iov[i].SetLen(eventRoom)
		l.msgs[i].hdr.Iov = &l.iov[i]
		l.msgs[i].hdr.SetIovlen(1)
	}
	return nil
}

// Close ends the listening; a Run under way returns.
func (l *Listener) Close() error { return l.file.Close() }

// Lost returns how many events have been lost so far, as far as the kernel
// tells.
func (l *Listener) Lost() uint64 { return l.lost }

// Run passes events on until the context ends, whose error it then returns, or
// a callback returns one. It must not be called twice at a time.
func (l *Listener) Run(ctx context.Context, h Handler) error {
	if err := l.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	read := l.read
	for {
		err := l.raw.Read(read)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if l.err != nil {
			if err := l.overrun(&h); err != nil {
				return err
			}
			continue
		}
		if err := l.handle(&h); err != nil {
			return err
		}
		if l.behind && l.got < eventBatch {
			l.behind = false
			if err := l.report(&h, l.dropped(), false); err != nil {
				return err
			}
		}
	}
}

// read fetches what waits; false makes the poller wait for more.
func (l *Listener) read(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&l.msgs[0])), eventBatch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			l.got, l.err = int(n), nil
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		l.got, l.err = 0, errno
		return true
	}
}

// overrun reports lost events; other errors of reading end the listening.
func (l *Listener) overrun(h *Handler) error {
	if !errors.Is(l.err, unix.ENOBUFS) {
		return os.NewSyscallError("recvmmsg", l.err)
	}
	l.behind = true
	return l.report(h, l.dropped(), true)
}

func (l *Listener) report(h *Handler, n uint64, overrun bool) error {
	l.lost += n
	if h.Lost == nil || n == 0 && !overrun {
		return nil
	}
	return h.Lost(n)
}

// dropped returns how many messages the kernel has dropped for this socket
// since the last call: SK_MEMINFO_DROPS of SO_MEMINFO.
func (l *Listener) dropped() uint64 {
	const drops = 8
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	err := l.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil || errno != 0 || size < 4*(drops+1) {
		return 0
	}
	n := info[drops] - l.drops
	l.drops = info[drops]
	return uint64(n)
}

func (l *Listener) handle(h *Handler) error {
	for i := range l.msgs[:l.got] {
		m := &l.msgs[i]
		if m.hdr.Flags&unix.MSG_TRUNC != 0 || int(m.len) > eventRoom {
			return fmt.Errorf("%w: event of more than %d bytes", ErrMalformed, eventRoom)
		}
		if err := l.datagram(l.buf[i*eventRoom:][:m.len], h); err != nil {
			return err
		}
	}
	return nil
}

func (l *Listener) datagram(b []byte, h *Handler) error {
	for len(b) > 0 {
		m, rest, err := nextMessage(b)
		if err != nil {
			return err
		}
		b = rest
		if err := l.event(m, h); err != nil {
			return err
		}
	}
	return nil
}

func (l *Listener) event(m message, h *Handler) error {
	kind := eventKind(m)
	if kind == 0 {
		return nil
	}
	a, _, err := m.attrs()
	if err != nil {
		return err
	}
	switch {
	case m.subsys() == subsysCT && h.Flow != nil:
		if err := l.dec.entry(a, &l.flow); err != nil {
			return err
		}
		return h.Flow(kind, &l.flow)
	case m.subsys() == subsysExpect && h.Expect != nil:
		if err := l.dec.expectation(a, &l.exp); err != nil {
			return err
		}
		return h.Expect(kind, &l.exp)
	}
	return nil
}

// eventKind tells events apart; CT and EXP number theirs alike.
func eventKind(m message) EventKind {
	switch {
	case m.subsys() != subsysCT && m.subsys() != subsysExpect:
		return 0
	case m.kind() == ctDelete:
		return EventDestroy
	case m.kind() != ctNew:
		return 0
	case m.flags&(flagCreate|flagExcl) != 0:
		return EventNew
	}
	return EventUpdate
}
