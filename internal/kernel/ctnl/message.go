package ctnl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// message is one netlink message: header fields and what follows.
type message struct {
	typ   uint16
	flags uint16
	seq   uint32
	body  []byte
}

// nextMessage takes the first message off b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < hdrLen {
		return m, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	n := int(host.Uint32(b))
	if n < hdrLen || n > len(b) {
		return m, nil, fmt.Errorf("%w: length %d of %d bytes", ErrMalformed, n, len(b))
	}
	m = message{typ: host.Uint16(b[4:]), flags: host.Uint16(b[6:]), seq: host.Uint32(b[8:]), body: b[hdrLen:n:n]}
	if n = (n + 3) &^ 3; n > len(b) {
		n = len(b)
	}
	return m, b[n:], nil
}

func (m message) subsys() uint8 { return uint8(m.typ >> 8) }
func (m message) kind() uint8   { return uint8(m.typ) }

// attrs returns the attributes behind struct nfgenmsg, and its res_id.
func (m message) attrs() (a attrs, resID uint16, err error) {
	if len(m.body) < genLen {
		return nil, 0, fmt.Errorf("%w: no room for nfgenmsg", ErrMalformed)
	}
	return attrs(m.body[genLen:]), uint16(m.body[2])<<8 | uint16(m.body[3]), nil
}

// errno reads the code of an NLMSG_ERROR or, with a code in it, an NLMSG_DONE;
// nil is success.
func (m message) errno() error {
	if len(m.body) < 4 {
		if m.typ == nlmsgDone {
			return nil
		}
		return fmt.Errorf("%w: error without code", ErrMalformed)
	}
	code := int32(host.Uint32(m.body))
	if code >= 0 {
		return nil
	}
	return kernelError(unix.Errno(-code))
}

// kernelError words what ctnetlink means by an error number. The number stays
// reachable with errors.Is.
func kernelError(e unix.Errno) error {
	switch e {
	case unix.ENOENT:
		return &wordedError{ErrNotFound, e}
	case unix.EOPNOTSUPP:
		return &wordedError{ErrUnsupported, e}
	}
	return e
}

type wordedError struct {
	text  error
	errno unix.Errno
}

func (e *wordedError) Error() string   { return e.text.Error() }
func (e *wordedError) Unwrap() []error { return []error{e.text, e.errno} }

// answers reads blocks until the answer to seq is complete, and calls each
// with every message that belongs to it.
func (c *Conn) answers(seq uint32, each func(message) error) error {
	for {
		b, err := c.receive()
		if err != nil {
			return err
		}
		done, err := walk(b, seq, each)
		if done || err != nil {
			return err
		}
	}
}

// errEnd tells walk that an answer is complete which carries no end mark.
var errEnd = errors.New("end of answer")

// walk calls each with every message of seq in b. done is true behind the
// message that ends the answer.
func walk(b []byte, seq uint32, each func(message) error) (done bool, err error) {
	for len(b) > 0 {
		var m message
		if m, b, err = nextMessage(b); err != nil {
			return false, err
		}
		if m.seq != seq {
			continue
		}
		switch m.typ {
		case nlmsgDone, nlmsgError:
			return true, m.errno()
		case nlmsgOverrun:
			return false, ErrLost
		}
		if m.typ < 16 {
			continue // NLMSG_NOOP and numbers reserved for control
		}
		if err = each(m); errors.Is(err, errEnd) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}
