package guardtable

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const inet = 1 // NFPROTO_INET

// batch is a transaction in the making. Every message carries a label, by
// which a refusal is told.
type batch struct {
	msgs []request
}

type request struct {
	typ, flags uint16
	body       attrs
	label      string
}

func (b *batch) add(msg, flags uint16, body attrs, label string, args ...any) {
	b.msgs = append(b.msgs, request{subsysTables<<8 | msg, unix.NLM_F_REQUEST | flags, body, fmt.Sprintf(label, args...)})
}

// create is for what must not be there yet.
const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// RefusedError says which part of a change the kernel refused; nothing of the
// change holds then.
type RefusedError struct {
	What  string // "chain syn"
	Err   error  // the error code, a unix.Errno
	Words string // what the kernel says of it, often nothing
}

// Error returns the refusal in one sentence.
func (e *RefusedError) Error() string {
	s := fmt.Sprintf("the kernel refused %s: %v", e.What, e.Err)
	if e.Words != "" {
		s += " (" + e.Words + ")"
	}
	return s
}

// Unwrap returns the error code.
func (e *RefusedError) Unwrap() error { return e.Err }

// wholeBatch is the label of refusals that concern no single message.
const wholeBatch = "the transaction"

// commit carries the batch out. With try set, the kernel checks it and then
// drops it: a batch without an end is aborted (nfnetlink_rcv_batch).
//
// The error is errLost where it is not known whether the change holds.
func (s *socket) commit(b *batch, try bool) error {
	if len(b.msgs) == 0 {
		return nil
	}
	first := s.seq + 1
	datagram := s.encode(b, try)
	if len(datagram) > sendBytes/2 {
		return fmt.Errorf("a transaction of %d bytes is too large", len(datagram))
	}
	last := first + uint32(len(b.msgs))
	var refused error
	acked := false
	err := s.exchange(datagram, func(m message) {
		if m.typ != unix.NLMSG_ERROR || m.seq < first || m.seq > last+1 {
			return
		}
		words, err := m.verdict()
		if err == nil {
			acked = acked || m.seq == last
			return
		}
		if refused == nil {
			refused = &RefusedError{b.label(m.seq - first), err, words}
		}
	})
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return err
	case !acked:
		return errLost
	}
	return nil
}

// encode writes the batch with sequence numbers of its own: the beginning has
// the first, then every message the next. The last one asks for an answer,
// which comes when all is done.
func (s *socket) encode(b *batch, try bool) []byte {
	size := 0
	for _, m := range b.msgs {
		size += headerLen + nfgenLen + len(m.body) + 4
	}
	out := make([]byte, 0, size+2*(headerLen+nfgenLen))
	s.seq++
	out = appendMessage(out, batchBegin, unix.NLM_F_REQUEST, unix.AF_UNSPEC, s.seq, subsysTables, nil)
	for i, m := range b.msgs {
		if i == len(b.msgs)-1 {
			m.flags |= unix.NLM_F_ACK
		}
		s.seq++
		out = appendMessage(out, m.typ, m.flags, inet, s.seq, 0, m.body)
	}
	s.seq++
	if !try {
		out = appendMessage(out, batchEnd, unix.NLM_F_REQUEST, unix.AF_UNSPEC, s.seq, subsysTables, nil)
	}
	return out
}

// label names the message at a place; the first is the batch's beginning.
func (b *batch) label(at uint32) string {
	if at == 0 || int(at) > len(b.msgs) {
		return wholeBatch
	}
	return b.msgs[at-1].label
}

// refusedPart returns the label of what was refused with a certain code.
func refusedPart(err error, code error) (string, bool) {
	var r *RefusedError
	if errors.As(err, &r) && errors.Is(r.Err, code) {
		return r.What, true
	}
	return "", false
}

func isTable(label string) bool { return strings.HasPrefix(label, "table ") }
