package ctwalk

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// decoder turns records into flows.
type decoder struct {
	w      *Walker
	q      *Query
	fn     func(*ct.Flow) error
	see    func([]byte)
	sum    *Summary
	flow   ct.Flow
	bucket uint64
}

func (d *decoder) records(b []byte, jiffies uint64) error {
	w := d.w
	for len(b) > 0 {
		ext := int(word(b, rExt))
		size := align8(w.rec.ext + ext)
		r := b[:size]
		b = b[size:]
		if d.repeated(r) {
			continue
		}
		left := int32(native.Uint32(r[w.rec.conn+w.layout.conn.timeout:]) - uint32(jiffies))
		if left <= 0 {
			d.sum.Expired++
			continue
		}
		if err := d.decode(r, uint32(left)); err != nil {
			return err
		}
		if d.see != nil {
			d.see(r)
		}
		d.sum.Entries++
		if err := d.fn(&d.flow); err != nil {
			return err
		}
	}
	return nil
}

// repeated reports whether the entry has been seen in this bucket: one that is
// given away and comes back to the same bucket leads through it once more.
func (d *decoder) repeated(r []byte) bool {
	w := d.w
	conn, bucket := word(r, rConn), word(r, rBucket)
	if bucket != d.bucket {
		d.bucket = bucket
		w.same = append(w.same[:0], conn)
		return false
	}
	if slices.Contains(w.same, conn) {
		return true
	}
	w.same = append(w.same, conn)
	return false
}

// decode fills the flow as ctnetlink_fill_info would show the entry.
func (d *decoder) decode(r []byte, left uint32) error {
	w, f := d.w, &d.flow
	c := &w.layout.conn
	e := r[w.rec.conn:]
	rare := f.Fields&^(ct.HasTimeout|ct.HasProtoInfo|ct.HasMark|ct.HasUse|ct.HasID|ct.HasCounters) != 0
	if rare {
		*f = ct.Flow{}
	}
	f.Status = ct.Status(word(e, c.status))
	f.Fields = ct.HasUse
	f.Use = native.Uint32(e[c.use:])
	if f.ID = 0; d.q.IDs {
		f.ID = w.id(*w.seed, r)
		f.Fields |= ct.HasID
	}
	f.TCP, f.SCTP, f.DCCP, f.State, f.TimeoutSeconds, f.Mark = ct.TCPInfo{}, ct.SCTPInfo{}, ct.DCCPInfo{}, 0, 0, 0
	w.tuple(e[c.hash+w.layout.tuple.at:], &f.Orig)
	w.tuple(e[c.hash+c.hashSize+w.layout.tuple.at:], &f.Reply)
	if f.Status&ct.StatusOffload == 0 {
		f.TimeoutSeconds = left / uint32(w.hz)
		f.Fields |= ct.HasTimeout
		w.protocol(e[c.proto:], f)
	}
	if c.hasMark {
		f.Mark = native.Uint32(e[c.mark:])
		f.Fields |= ct.HasMark
	}
	if c.hasZone {
		zone(f, native.Uint16(e[c.zone:]), e[c.zoneDir])
	}
	f.OrigCounters, f.ReplyCounters = ct.DirCounters{}, ct.DirCounters{}
	if n := int(word(r, rExt)); n > 0 {
		if err := w.extensions(r[w.rec.ext:w.rec.ext+n], f); err != nil {
			return err
		}
	}
	if master := word(e, c.master); master != 0 {
		if err := w.master(master, f); err != nil {
			return err
		}
	}
	if c.hasSecmark && native.Uint32(e[c.secmark:]) != 0 && d.q.SecCtx != nil {
		return d.q.SecCtx(f)
	}
	return nil
}

// zone sets what ctnetlink_dump_zone_id shows.
func zone(f *ct.Flow, id uint16, dir uint8) {
	f.Zone, f.ZoneOrig, f.ZoneReply = 0, 0, 0
	if id == 0 {
		return
	}
	switch dir {
	case 1:
		f.ZoneOrig = id
	case 2:
		f.ZoneReply = id
	case 3:
		f.Zone = id
		f.Fields |= ct.HasZone
	}
}

// tuple decodes struct nf_conntrack_tuple. Only protocols with a tracker of
// their own show what the port fields hold.
func (w *Walker) tuple(b []byte, t *ct.Tuple) {
	l := &w.layout.tuple
	*t = ct.Tuple{Proto: ct.Proto(b[l.proto])}
	if b[l.family] == unix.AF_INET {
		t.Src, t.Dst = netip.AddrFrom4([4]byte(b[l.src:])), netip.AddrFrom4([4]byte(b[l.dst:]))
	} else {
		t.Src, t.Dst = netip.AddrFrom16([16]byte(b[l.src:])), netip.AddrFrom16([16]byte(b[l.dst:]))
	}
	switch t.Proto {
	case ct.TCP, ct.UDP, ct.SCTP, ct.DCCP, ct.UDPLite, ct.GRE:
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(b[l.srcPort:]), binary.BigEndian.Uint16(b[l.dstPort:])
	case ct.ICMP, ct.ICMPv6:
		t.ICMPID = binary.BigEndian.Uint16(b[l.srcPort:])
		t.ICMPType, t.ICMPCode = b[l.dstPort], b[l.dstPort+1]
	}
}

// protocol decodes union nf_conntrack_proto.
func (w *Walker) protocol(b []byte, f *ct.Flow) {
	l := &w.layout.proto
	switch f.Orig.Proto {
	case ct.TCP:
		f.State = ct.State(b[l.tcpState])
		orig, reply := b[l.tcpSeen:], b[l.tcpSeen+l.tcpSeenSize:]
		f.TCP = ct.TCPInfo{WScaleOrig: orig[l.tcpScale], WScaleReply: reply[l.tcpScale],
			FlagsOrig: orig[l.tcpFlags], FlagsReply: reply[l.tcpFlags]}
	case ct.SCTP:
		if l.sctpState < 0 {
			return
		}
		f.State = ct.State(native.Uint32(b[l.sctpState:]))
		f.SCTP = ct.SCTPInfo{VTagOrig: binary.BigEndian.Uint32(b[l.sctpVTag:]), VTagReply: binary.BigEndian.Uint32(b[l.sctpVTag+4:])}
	case ct.DCCP:
		if l.dccpState < 0 {
			return
		}
		f.State = ct.State(b[l.dccpState])
		f.DCCP = ct.DCCPInfo{Role: b[l.dccpRole], HandshakeSeq: native.Uint64(b[l.dccpSeq:])}
	default:
		return
	}
	f.Fields |= ct.HasProtoInfo
}

// extensions decodes struct nf_ct_ext.
func (w *Walker) extensions(b []byte, f *ct.Flow) error {
	l := &w.layout.ext
	// part returns extension id, n bytes of it, or nil.
	part := func(id, n int) []byte {
		if id < 0 || l.offsets+id >= len(b) {
			return nil
		}
		at := int(b[l.offsets+id])
		if at == 0 || at+n > len(b) {
			return nil
		}
		return b[at : at+n]
	}
	if p := part(l.acct, 32); p != nil {
		f.Fields |= ct.HasCounters
		f.OrigCounters = ct.DirCounters{Packets: word(p, 0), Bytes: word(p, 8)}
		f.ReplyCounters = ct.DirCounters{Packets: word(p, 16), Bytes: word(p, 24)}
	}
	if p := part(l.tstamp, 16); p != nil {
		f.Fields |= ct.HasTimestamp
		f.StartNanos, f.StopNanos = int64(word(p, 0)), int64(word(p, 8))
	}
	if p := part(l.labels, 16); p != nil && [16]byte(p) != [16]byte{} {
		f.Fields |= ct.HasLabels
		f.Labels = [16]byte(p)
	}
	if p := part(l.seqadj, 24); p != nil && f.Status&ct.StatusSeqAdjust != 0 {
		f.Fields |= ct.HasSeqAdj
		f.SeqAdjOrig, f.SeqAdjReply = seqAdj(p), seqAdj(p[12:])
	}
	if p := part(l.synproxy, 12); p != nil {
		f.Fields |= ct.HasSynProxy
		f.SynProxy = ct.SynProxy{ISN: native.Uint32(p), ITS: native.Uint32(p[4:]), TSOff: native.Uint32(p[8:])}
	}
	if p := part(l.helper, 8); p != nil && word(p, 0) != 0 {
		name, err := w.helper(word(p, 0))
		if err != nil {
			return err
		}
		f.Fields |= ct.HasHelper
		f.Helper = name
	}
	return nil
}

func seqAdj(b []byte) ct.SeqAdj {
	return ct.SeqAdj{CorrectionPos: native.Uint32(b), OffsetBefore: native.Uint32(b[4:]), OffsetAfter: native.Uint32(b[8:])}
}

// helper reads the name of a helper, of which there are few. They are in use by
// the entry, whose master or itself keeps the module loaded.
func (w *Walker) helper(address uint64) (string, error) {
	if name, ok := w.helpers[address]; ok {
		return name, nil
	}
	b, err := w.peek(address+uint64(w.layout.ext.helperName), 16)
	if err != nil {
		return "", err
	}
	name, _, _ := bytes.Cut(b, []byte{0})
	w.helpers[address] = string(name)
	return string(name), nil
}

// master reads the tuple of the flow that expected this one. An expected entry
// holds a reference to it.
func (w *Walker) master(address uint64, f *ct.Flow) error {
	b, err := w.peek(address+uint64(w.layout.conn.hash+w.layout.tuple.at), w.layout.tuple.size)
	if err != nil {
		return err
	}
	w.tuple(b, &f.Master)
	f.Fields |= ct.HasMaster
	return nil
}
