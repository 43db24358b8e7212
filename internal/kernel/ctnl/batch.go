package ctnl

import (
	"errors"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

const (
	// batchMessages and batchBytes bound one sendto: enough that the system
	// call no longer counts, little enough for the default send buffer
	// (net.core.wmem_default, 212,992) and for the answers, should the kernel
	// refuse every message, to fit the receive buffer.
	batchMessages = 750
	batchBytes    = 128 << 10
	// messageRoom is more than any one message takes.
	messageRoom = 2 << 10
	// maxHelperName is NF_CT_HELPER_NAME_LEN without the final zero.
	maxHelperName = 15
)

// EntryError is the kernel's refusal of one message of a batch.
type EntryError struct {
	// Index counts the messages of the batch from 0, in the order of the
	// calls that made them.
	Index int
	// Orig is the original tuple in the refused message.
	Orig ct.Tuple
	// Err is the kernel's reason: an unix.Errno, or an error that wraps one.
	Err error
}

func (e *EntryError) Error() string { return fmt.Sprintf("%s: %v", e.Orig, e.Err) }

// Unwrap returns the kernel's reason.
func (e *EntryError) Unwrap() error { return e.Err }

// Batch collects changes and sends hundreds of them at once. The kernel carries
// each out on its own, in order: there is no transaction. Send what is left
// with Flush.
//
// No acknowledgement is asked for: the kernel works a batch off before sendto
// returns, and reports refusals only, so that a change which is not reported
// has been made.
type Batch struct {
	// Refused, if set, is called with each refusal, in order, while a later
	// call sends the batch. The EntryError is the callback's to keep.
	Refused func(*EntryError)

	c     *Conn
	enc   encoder
	first uint32   // sequence number of starts[0]
	start []uint32 // where each message begins in enc.b
	done  int      // messages sent
	fails int
}

// NewBatch returns an empty batch on this connection. Other requests may use
// the connection between its calls.
func (c *Conn) NewBatch() *Batch {
	return &Batch{c: c, enc: encoder{make([]byte, 0, batchBytes)}, start: make([]uint32, 0, batchMessages)}
}

// Sent returns how many messages have been sent.
func (b *Batch) Sent() int { return b.done }

// Failed returns how many of them the kernel refused.
func (b *Batch) Failed() int { return b.fails }

// begin makes room for one message and starts it.
func (b *Batch) begin(kind uint8, flags uint16, family uint8) (start int, err error) {
	if len(b.start) == batchMessages || len(b.enc.b) > batchBytes-messageRoom {
		if err := b.Flush(); err != nil {
			return 0, err
		}
	}
	if len(b.start) == 0 {
		b.first = b.c.nextSeq(batchMessages)
	}
	seq := b.first + uint32(len(b.start))
	b.start = append(b.start, uint32(len(b.enc.b)))
	return b.enc.begin(subsysCT, kind, flags, seq, family), nil
}

// Flush sends what has been collected and reports the refusals. Its error says
// that the batch could not be sent, or that answers were lost (ErrLost): then
// it is unknown which of the last messages were refused.
func (b *Batch) Flush() error {
	if len(b.start) == 0 {
		return nil
	}
	defer func() {
		b.done += len(b.start)
		b.enc.b, b.start = b.enc.b[:0], b.start[:0]
	}()
	if err := b.c.ready(); err != nil {
		return err
	}
	if err := b.c.send(b.enc.b); err != nil {
		return fmt.Errorf("send %d changes: %w", len(b.start), err)
	}
	return b.refusals()
}

// refusals reads what the kernel answered to the batch just sent.
func (b *Batch) refusals() error {
	for {
		block, err := b.c.receive()
		if errors.Is(err, errEmpty) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read refusals: %w", err)
		}
		for len(block) > 0 {
			var m message
			if m, block, err = nextMessage(block); err != nil {
				return err
			}
			b.answer(m)
		}
	}
}

func (b *Batch) answer(m message) {
	i := m.seq - b.first
	if m.typ != nlmsgError || int64(i) >= int64(len(b.start)) {
		return
	}
	err := m.errno()
	if err == nil {
		return
	}
	b.fails++
	if b.Refused != nil {
		b.Refused(&EntryError{Index: b.done + int(i), Orig: b.orig(int(i)), Err: err})
	}
}

// orig reads the original tuple back out of a message of ours.
func (b *Batch) orig(i int) ct.Tuple {
	m, _, err := nextMessage(b.enc.b[b.start[i]:])
	if err != nil {
		return ct.Tuple{}
	}
	a, _, err := m.attrs()
	if err != nil {
		return ct.Tuple{}
	}
	var f ct.Flow
	if new(decoder).entry(a, &f) != nil {
		return ct.Tuple{}
	}
	return f.Orig
}

// Create adds an entry. Both tuples must be set and Orig valid; the timeout is
// TimeoutSeconds, with 0 the entry has expired as it is born. Status bits
// ASSURED, SEEN_REPLY and FIXED_TIMEOUT are taken over; where a NAT bit is
// set, the kernel binds the translation that Reply shows. State, mark, zone
// (only one of Zone, ZoneOrig and ZoneReply), labels, helper, master, sequence
// adjustment and SYNPROXY are taken over where Fields has them. Labels need a
// rule that uses labels; an unknown helper, or NAT where it is not loaded,
// makes a modular kernel load a module.
//
// Refusals: unix.EEXIST if there is an entry, unix.ENOMEM if the table is
// full, unix.EINVAL for what the protocol's tracker does not accept.
func (b *Batch) Create(f *ct.Flow) error {
	if err := creatable(f); err != nil {
		return err
	}
	start, err := b.begin(ctNew, flagCreate|flagExcl, family(f.Orig))
	if err != nil {
		return err
	}
	b.enc.newEntry(f)
	b.enc.end(start)
	return nil
}

// creatable says what an entry lacks to be put into a message.
func creatable(f *ct.Flow) error {
	switch {
	case !f.Orig.IsValid() || !f.Reply.IsValid() || f.Orig.Is4() != f.Reply.Is4():
		return fmt.Errorf("entry %q, %q: not a pair of tuples", f.Orig, f.Reply)
	case f.Has(ct.HasMaster) && (!f.Master.IsValid() || f.Master.Is4() != f.Orig.Is4()):
		return fmt.Errorf("entry %q: master %q is no tuple of its family", f.Orig, f.Master)
	case len(f.Helper) > maxHelperName:
		return fmt.Errorf("entry %q: helper %q has too long a name", f.Orig, f.Helper)
	}
	return nil
}

// Change says what to change about an entry. What is left at zero stays.
type Change struct {
	// TimeoutSeconds is what remains from now on, until the flow's next packet
	// sets it anew. There is no way to say 0, which would end the flow at once.
	TimeoutSeconds uint32
	// MarkMask chooses the bits of the mark that are set to those of Mark.
	Mark, MarkMask uint32
	// Status bits are set: SEEN_REPLY, ASSURED, FIXED_TIMEOUT. None can be
	// cleared.
	Status ct.Status
}

// Update changes an entry that exists; it never makes one. The kernel finds it
// by tuple and zone and does not look at the id: if the entry has died and the
// same tuple come back since it was read, the new one is changed. Whoever
// minds reads it again first.
//
// Refusals: ErrNotFound; from 6.0 on unix.EPERM for the timeout of an entry
// with FIXED_TIMEOUT; unix.EBUSY for a status that has lost a bit since the entry
// was read.
func (b *Batch) Update(k Key, ch Change) error {
	if !k.valid() {
		return errNoKey
	}
	orig := k.Orig()
	if ch == (Change{}) {
		return fmt.Errorf("entry %q: nothing to change", orig)
	}
	start, err := b.begin(ctNew, 0, family(orig))
	if err != nil {
		return err
	}
	b.enc.names(orig, k.zone, k.zoneOrig)
	b.enc.change(ch, k.status)
	b.enc.end(start)
	return nil
}

// Delete removes an entry. The kernel refuses with ErrNotFound if it has gone,
// or if another entry with the same tuple has taken its place; unless that one
// also got the memory of the old, for then it has the same id too (nf_ct_get_id
// makes the id of an entry's address and tuple).
func (b *Batch) Delete(k Key) error {
	if !k.valid() {
		return errNoKey
	}
	orig := k.Orig()
	start, err := b.begin(ctDelete, 0, family(orig))
	if err != nil {
		return err
	}
	b.enc.names(orig, k.zone, k.zoneOrig)
	b.enc.u32(ctaID, k.id)
	b.enc.end(start)
	return nil
}

var errNoKey = errors.New("key names no entry")

// newEntry appends the attributes that make an entry.
func (e *encoder) newEntry(f *ct.Flow) {
	nat := f.Status & ct.StatusNAT
	e.tuple(ctaTupleOrig, f.Orig, f.ZoneOrig)
	e.tuple(ctaTupleReply, untranslated(f.Reply, f.Orig, nat), f.ZoneReply)
	if f.Zone != 0 {
		e.u16(ctaZone, f.Zone)
	}
	// The kernel refuses a status that differs in IPS_CONFIRMED from its own.
	e.u32(ctaStatus, uint32(f.Status&settable|ct.StatusConfirmed))
	e.u32(ctaTimeout, f.TimeoutSeconds)
	if nat&ct.StatusSrcNAT != 0 {
		e.nat(ctaNATSrc, f.Reply.Dst.AsSlice(), f.Reply.Is4(), f.Reply.DstPort, f.Reply.Proto)
	}
	if nat&ct.StatusDstNAT != 0 {
		e.nat(ctaNATDst, f.Reply.Src.AsSlice(), f.Reply.Is4(), f.Reply.SrcPort, f.Reply.Proto)
	}
	if f.Has(ct.HasProtoInfo) {
		e.protoInfo(f)
	}
	if f.Mark != 0 {
		e.u32(ctaMark, f.Mark)
	}
	e.extras(f)
}

const settable = ct.StatusSeenReply | ct.StatusAssured | ct.StatusFixedTimeout

func (e *encoder) extras(f *ct.Flow) {
	if f.Has(ct.HasLabels) {
		e.bytes(ctaLabels, f.Labels[:])
	}
	if f.Has(ct.HasHelper) {
		n := e.nest(ctaHelp)
		e.bytes(ctaHelpName, append([]byte(f.Helper), 0))
		e.unnest(n)
	}
	if f.Has(ct.HasMaster) {
		e.tuple(ctaTupleMaster, f.Master, 0)
	}
	if f.Has(ct.HasSeqAdj) {
		e.seqAdj(ctaSeqAdjOrig, f.SeqAdjOrig)
		e.seqAdj(ctaSeqAdjReply, f.SeqAdjReply)
	}
	if f.Has(ct.HasSynProxy) {
		n := e.nest(ctaSynProxy)
		e.u32(ctaSynProxyISN, f.SynProxy.ISN)
		e.u32(ctaSynProxyITS, f.SynProxy.ITS)
		e.u32(ctaSynProxyTSOff, f.SynProxy.TSOff)
		e.unnest(n)
	}
}

func (e *encoder) seqAdj(typ uint16, s ct.SeqAdj) {
	n := e.nest(typ)
	e.u32(ctaSeqAdjCorrectionPos, s.CorrectionPos)
	e.u32(ctaSeqAdjOffsetBefore, s.OffsetBefore)
	e.u32(ctaSeqAdjOffsetAfter, s.OffsetAfter)
	e.unnest(n)
}

// nat appends the range, of one address and one port, that a translation is to
// be chosen from.
func (e *encoder) nat(typ uint16, addr []byte, is4 bool, port uint16, p ct.Proto) {
	minIP, maxIP := uint16(ctaNATv6Min), uint16(ctaNATv6Max)
	if is4 {
		minIP, maxIP = ctaNATv4Min, ctaNATv4Max
	}
	n := e.nest(typ)
	e.bytes(minIP, addr)
	e.bytes(maxIP, addr)
	if p.HasPorts() {
		in := e.nest(ctaNATProto)
		e.u16(ctaNATPortMin, port)
		e.u16(ctaNATPortMax, port)
		e.unnest(in)
	}
	e.unnest(n)
}

// untranslated undoes in a reply tuple the translations of which nf_nat is to
// know: nf_nat_setup_info makes them itself, and marks the entry with them,
// only where the reply does not show them yet.
func untranslated(reply, orig ct.Tuple, nat ct.Status) ct.Tuple {
	if nat&ct.StatusSrcNAT != 0 {
		reply.Dst, reply.DstPort = orig.Src, orig.SrcPort
	}
	if nat&ct.StatusDstNAT != 0 {
		reply.Src, reply.SrcPort = orig.Dst, orig.DstPort
	}
	return reply
}

// names appends what finds an entry: its original tuple and its zone. The
// default zone goes without saying, because kernels without zones refuse to
// hear of any.
func (e *encoder) names(orig ct.Tuple, zone, zoneOrig uint16) {
	e.tuple(ctaTupleOrig, orig, zoneOrig)
	if zone != 0 {
		e.u16(ctaZone, zone)
	}
}

// change appends what to change. The kernel takes a status as a whole.
func (e *encoder) change(ch Change, status ct.Status) {
	if ch.TimeoutSeconds != 0 {
		e.u32(ctaTimeout, ch.TimeoutSeconds)
	}
	if ch.MarkMask != 0 {
		e.u32(ctaMark, ch.Mark&ch.MarkMask)
		e.u32(ctaMarkMask, ch.MarkMask)
	}
	if set := ch.Status & settable; set != 0 {
		e.u32(ctaStatus, uint32(status|set))
	}
}
