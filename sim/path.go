package sim

import "github.com/ctwarden/ctwarden/ct"

// Flight is a packet between [Table.In] and [Table.Confirm]: on its way through
// the host. It must be used up by one of Confirm and Abandon, once.
type Flight struct {
	verdict Verdict
	info    Info
	reply   bool
	pending bool // the entry is unconfirmed
	entry   int32
	hash    uint32 // of the original tuple, before NAT
}

// Packet tracks a packet from its entry into the host to its exit. Use In and
// Confirm for packets that are in flight at the same time.
func (t *Table) Packet(at Time, p *Packet) (r Result) {
	f := t.In(at, p)
	t.through(at, &f, p, &r)
	return r
}

// through takes a packet from the first hook to the last.
func (t *Table) through(at Time, f *Flight, p *Packet, r *Result) {
	switch {
	case !f.pending:
		f.result(r, false)
	case p.Flags&FlagDropped != 0:
		t.abandon(f, r)
	default:
		t.confirm(at, f, r)
	}
}

// In does what happens at the first hook: finding the entry or making one, the
// protocol's tracker, destination NAT (nf_conntrack_in).
func (t *Table) In(at Time, p *Packet) (f Flight) {
	var k key
	t.pack(&k, &p.Tuple, zones(p).orig)
	t.Advance(at)
	t.in(p, &k, t.hash(&k), linkUnknown, &f)
	return f
}

// linkUnknown stands for the link of a packet that has not been looked up.
const linkUnknown = -1

// in is In for a packet whose key, hash and perhaps link are known.
func (t *Table) in(p *Packet, k *key, h uint32, link int32, f *Flight) {
	*f = Flight{}
	if p.Flags&(FlagUntracked|FlagNoL4) != 0 || p.Tuple.Proto == ct.GRE && p.Flags&FlagMalformed != 0 {
		f.verdict = Untracked
		if p.Flags&FlagUntracked == 0 {
			f.verdict = Invalid
			t.counters.Invalid++
		}
		return
	}
	if p.Tuple.Proto.IsICMP() && t.icmpControl(p, f) {
		return
	}
	t.track(p, k, h, link, f)
	if f.pending && t.nat.on {
		t.natDestination(f)
	}
}

type zonePair struct{ orig, reply uint16 }

// zones returns the packet's zone for each direction of its flow.
func zones(p *Packet) zonePair {
	switch p.ZoneDir {
	case ZoneOrig:
		return zonePair{orig: p.Zone}
	case ZoneReply:
		return zonePair{reply: p.Zone}
	}
	return zonePair{p.Zone, p.Zone}
}

// outcome is what a protocol's tracker says of a packet.
type outcome uint8

const (
	accept  outcome = iota
	ignored         // accepted, but neither refreshed nor counted
	invalid         // -NF_ACCEPT: passes without its entry
	repeat          // -NF_REPEAT: the entry is gone, look up again
	killed          // accepted, but the entry is gone
)

func (t *Table) track(p *Packet, k *key, h uint32, link int32, f *Flight) {
	replyZone := zones(p).reply
	f.hash = h
	for {
		if link == linkUnknown {
			link = t.lookup(k, h, replyZone)
		}
		if link == 0 && !t.begin(p, k, replyZone, f) {
			return
		}
		if link != 0 {
			f.entry, f.reply = link>>1, link&1 == reply
		}
		e := &t.entries[f.entry]
		if f.reply || e.has(ct.StatusSeenReply) {
			f.info = InfoEstablished
		}
		switch t.handle(e, &t.tracks[f.entry], int(link&1), p) {
		case accept:
			t.account(f, p)
			fallthrough
		case ignored:
			if f.reply {
				e.set(ct.StatusSeenReply)
			}
			return
		case killed:
			t.destroy(f.entry, CauseReset)
			f.entry = 0
			return
		case repeat:
			t.destroy(f.entry, CauseReopened)
			if t.rules.reopenIsInvalid {
				t.counters.Invalid++
			}
			*f = Flight{hash: h}
			link = linkUnknown
		case invalid:
			if f.pending {
				t.release(f.entry)
			}
			t.counters.Invalid++
			*f = Flight{verdict: Invalid}
			return
		}
	}
}

// begin makes an unconfirmed entry for a packet that has none (init_conntrack).
// It reports false for one that cannot have any.
func (t *Table) begin(p *Packet, k *key, replyZone uint16, f *Flight) bool {
	r, ok := k.invert()
	if !ok {
		t.counters.Invalid++
		*f = Flight{verdict: Invalid}
		return false
	}
	i := t.alloc(f.hash)
	if i == 0 {
		t.counters.Drop++
		*f = Flight{verdict: Refused}
		return false
	}
	r = r.withZone(replyZone)
	t.setKeys(i, k, &r)
	t.entries[i].tag = p.Tag
	f.entry, f.pending = i, true
	return true
}

// Directions that a lookup may match.
const (
	originals = 1 << orig
	replies   = 1 << reply
	bothWays  = originals | replies
)

// lookup finds the link of a packet. Where its zone counts for one direction
// only, the two directions have different keys.
func (t *Table) lookup(k *key, h uint32, replyZone uint16) int32 {
	if replyZone == k.zone() {
		return t.find(k, h, bothWays)
	}
	if l := t.find(k, h, originals); l != 0 {
		return l
	}
	other := k.withZone(replyZone)
	return t.find(&other, t.hash(&other), replies)
}

// handle runs the tracker of the flow's protocol (nf_conntrack_handle_packet).
func (t *Table) handle(e *entry, k *track, dir int, p *Packet) outcome {
	switch e.proto() {
	case ct.TCP:
		return t.tcpPacket(e, k, dir, p)
	case ct.UDP:
		return t.udpPacket(e, k, p)
	case ct.ICMP, ct.ICMPv6:
		return t.icmpPacket(e)
	case ct.UDPLite:
		if t.rules.udplite {
			return t.udplitePacket(e, p)
		}
	case ct.SCTP:
		return t.sctpPacket(e, k, dir, p)
	case ct.GRE:
		return t.grePacket(e, k)
	case ct.DCCP:
		if t.rules.dccp {
			return t.dccpPacket(e, k, dir, p)
		}
	}
	t.refresh(e, t.timeouts[ct.TimeoutGeneric])
	return accept
}

// account counts the packet where accounting was on at the entry's birth. What
// does not refresh the entry is not counted (nf_ct_refresh_acct).
func (t *Table) account(f *Flight, p *Packet) {
	if int(f.entry) < len(t.acct) {
		d := &t.acct[f.entry].dir[b2i(f.reply)]
		d.Packets++
		d.Bytes += uint64(p.Length)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Abandon drops the packet on its way, by a rule for example. An unconfirmed
// entry is freed.
func (t *Table) Abandon(f Flight) (r Result) {
	t.abandon(&f, &r)
	return r
}

func (t *Table) abandon(f *Flight, r *Result) {
	if f.pending {
		t.release(f.entry)
		f.entry = 0
	}
	f.result(r, false)
}

// Confirm does what happens at the last hook: source NAT, and putting a new
// entry into the table, where it may lose against one that came first
// (__nf_conntrack_confirm).
func (t *Table) Confirm(at Time, f Flight) (r Result) {
	if !f.pending {
		f.result(&r, false)
		return r
	}
	t.confirm(at, &f, &r)
	return r
}

func (t *Table) confirm(at Time, f *Flight, res *Result) {
	t.Advance(at)
	if t.nat.on {
		t.natSource(f)
	}
	i := f.entry
	e := &t.entries[i]
	o, r := t.key(e, orig), t.key(e, reply)
	rh := t.hash(&r)
	ob, rb := t.bucket(f.hash), t.bucket(rh)
	winner, long := t.scan(&o, &r, ob, rb)
	switch {
	case long:
		t.counters.ChainTooLong++
		t.counters.InsertFailed++
		t.release(i)
		*res = Result{Verdict: Lost}
	case winner != 0:
		t.resolveClash(f, winner, &o, &r, rb, res)
	default:
		e.deadline += t.jiffies
		t.push(ob, i<<1)
		t.push(rb, i<<1|reply)
		e.set(ct.StatusConfirmed)
		t.nat.remember(t, i)
		t.emit(i, EventNew, CauseNone)
		f.result(res, true)
	}
}

func (f *Flight) result(r *Result, created bool) {
	r.Verdict, r.Info, r.Reply, r.Created, r.Entry = f.verdict, f.info, f.reply, created, ID(f.entry)
}

// scan walks both chains for an entry that has one of the tuples already, and
// measures them against this insertion's limit. Expired entries count.
func (t *Table) scan(o, r *key, ob, rb uint32) (winner int32, long bool) {
	limit := uint32(1 << 31)
	if t.rules.spanChain != 0 {
		limit = t.rules.minChain + t.uniform(t.rules.spanChain)
	}
	if winner, long = t.scanChain(o, ob, limit); winner != 0 || long {
		return winner, long
	}
	return t.scanChain(r, rb, limit)
}

func (t *Table) scanChain(k *key, b, limit uint32) (winner int32, long bool) {
	l := t.heads[b]
	if l == 0 {
		return 0, false
	}
	var want [2]sought
	k.sought(&want, bothWays)
	for n := uint32(0); l != 0; n++ {
		e := &t.entries[l>>1]
		w := &want[l&1]
		if e.ends == w.ends && e.what == w.what ||
			e.what&metaSide != 0 && t.sides[e.side()].keys[l&1] == *k {
			return l, false
		}
		if n > limit {
			return 0, true
		}
		l = e.next[l&1]
	}
	return 0, false
}

// same reports whether a link stands for the key.
func (t *Table) same(l int32, k *key) bool {
	e := &t.entries[l>>1]
	return e.proto() == k.proto() && t.key(e, int(l&1)) == *k
}

// allowsClash reports whether the protocol's packets survive a lost race.
func (t *Table) allowsClash(p ct.Proto) bool {
	switch {
	case !t.rules.tracks(p), p == ct.GRE:
		return t.rules.clashGREGeneric
	case p.IsICMP():
		return t.rules.clashICMP
	}
	return p == ct.UDP || p == ct.UDPLite
}

// resolveClash deals with a packet whose entry was made by another packet
// meanwhile: the packet joins that entry, or its own entry lives for a second
// in the reply direction only, or it is dropped (nf_ct_resolve_clash).
func (t *Table) resolveClash(f *Flight, winner int32, o, r *key, rb uint32, res *Result) {
	if !t.allowsClash(o.proto()) {
		t.lose(f, res)
		return
	}
	if t.canMerge(winner>>1, o, r) {
		t.merge(f, winner, res)
		return
	}
	if !t.rules.natClash {
		t.lose(f, res)
		return
	}
	if w, _ := t.scanChain(r, rb, 1<<31); w != 0 {
		if t.canMerge(w>>1, o, r) {
			t.merge(f, w, res)
		} else {
			t.lose(f, res)
		}
		return
	}
	e := &t.entries[f.entry]
	e.deadline = t.jiffies + uint32(t.knobs.HZ)
	e.set(ct.StatusFixedTimeout | ct.StatusNATClash | ct.StatusConfirmed)
	t.push(rb, f.entry<<1|reply)
	t.counters.ClashResolve++
	f.result(res, true)
}

func (t *Table) canMerge(i int32, o, r *key) bool {
	e := &t.entries[i]
	eo, er := t.key(e, orig), t.key(e, reply)
	return eo == *o && er == *r || t.rules.clashReverse && eo == *r && er == *o
}

func (t *Table) merge(f *Flight, winner int32, r *Result) {
	t.release(f.entry)
	f.entry = winner >> 1
	t.counters.ClashResolve++
	f.result(r, false)
}

func (t *Table) lose(f *Flight, r *Result) {
	t.release(f.entry)
	t.counters.Drop++
	t.counters.InsertFailed++
	*r = Result{Verdict: Lost}
}
