package ctwalk

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// layout is where the running kernel keeps what is read, in bytes.
type layout struct {
	conn  connLayout
	tuple tupleLayout
	proto protoLayout
	ext   extLayout
	find  findLayout
	cast  castLayout
}

// connLayout describes struct nf_conn.
type connLayout struct {
	size                                    int
	use, timeout, zone, zoneDir, hash, node int
	status, net, master, mark, secmark, ext int
	proto, hashSize                         int
	hasMark, hasSecmark, hasZone            bool
}

// tupleLayout describes struct nf_conntrack_tuple; node offsets include those
// of struct nf_conntrack_tuple_hash.
type tupleLayout struct {
	at                                        int // inside nf_conntrack_tuple_hash
	src, srcPort, family, dst, dstPort, proto int
	dir, size                                 int
}

// protoLayout describes union nf_conntrack_proto.
type protoLayout struct {
	tcpState, tcpSeen, tcpSeenSize, tcpScale, tcpFlags int
	sctpState, sctpVTag                                int
	dccpState, dccpRole, dccpSeq                       int // -1 from 6.15 on
}

// extLayout describes struct nf_ct_ext and says which extension has which
// number, -1 for one that this kernel was built without.
type extLayout struct {
	offsets, count, length, header                 int
	helper, seqadj, acct, tstamp, labels, synproxy int
	helperName                                     int // in struct nf_conntrack_helper
}

// findLayout describes what leads from a task to its namespace and its files.
type findLayout struct {
	nsproxy, net                      int
	files, fdt, fd, private           int
	seqPrivate, iterHash, iterBuckets int // -1 without /proc/net/nf_conntrack
}

// castLayout says how memory is looked at without a call, by ids of BTF. The
// structure is one of nothing but words, of which the kernel knows itself.
type castLayout struct{ function, structure uint32 } // 0 before 6.2

// types looks things up in BTF and remembers what was not there.
type types struct {
	btf   *btfTypes
	asked *btfWanted // collects names in place of looking them up
	err   error
}

// loadTypes reads from BTF what readLayout asks for.
func loadTypes() (*types, error) {
	kernel, module, err := openBTF()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	var of io.ReaderAt // an interface that holds a nil pointer is not nil
	if module != nil {
		defer module.Close()
		of = module
	}
	b, err := readBTF(kernel, of, wantedTypes())
	return &types{btf: b}, err
}

// wantedTypes lists what readLayout asks for, by listening to it ask.
func wantedTypes() btfWanted {
	t := &types{asked: new(btfWanted)}
	_, _ = readLayout(t)
	return *t.asked
}

func (t *types) fail(err error) { t.err = errors.Join(t.err, err) }

// member returns where a member is, -1 if it is not known.
func (t *types) member(structure, path string) int {
	if t.asked != nil {
		t.asked.structures = append(t.asked.structures, structure)
		names := strings.Split(path, ".")
		last := len(names) - 1
		t.asked.inner, t.asked.members = append(t.asked.inner, names[:last]...), append(t.asked.members, names[last])
		return 0
	}
	if at, ok := t.btf.member(structure, path); ok {
		return at
	}
	return -1
}

// offset finds a member by its path, "a.b".
func (t *types) offset(structure, path string) int {
	at := t.member(structure, path)
	if at < 0 {
		t.fail(fmt.Errorf("BTF has no %s in struct %s", path, structure))
	}
	return at
}

// optional is like offset, and -1 for what this kernel does not have.
func (t *types) optional(structure, path string) int { return t.member(structure, path) }

func (t *types) size(structure string) int {
	if t.asked != nil {
		t.asked.structures = append(t.asked.structures, structure)
		return 0
	}
	if s := t.btf.structure(structure); s != nil {
		return s.size
	}
	t.fail(fmt.Errorf("BTF does not describe struct %s", structure))
	return 0
}

// number finds a constant of an enumeration, -1 if there is none.
func (t *types) number(enum, name string) int { return t.member(enum, name) }

// readLayout asks BTF for everything.
func readLayout(t *types) (*layout, error) {
	l := &layout{conn: readConn(t), tuple: readTuple(t), proto: readProto(t), ext: readExt(t), find: readFind(t), cast: readCast(t)}
	if t.err != nil {
		return nil, t.err
	}
	return l, l.check()
}

func readConn(t *types) connLayout {
	const s = "nf_conn"
	c := connLayout{size: t.size(s), hashSize: t.size("nf_conntrack_tuple_hash"),
		use: t.offset(s, "ct_general.use"), timeout: t.offset(s, "timeout"),
		hash: t.offset(s, "tuplehash"), status: t.offset(s, "status"), net: t.offset(s, "ct_net"),
		master: t.offset(s, "master"), ext: t.offset(s, "ext"), proto: t.offset(s, "proto"),
		node: t.offset("nf_conntrack_tuple_hash", "hnnode"),
		mark: t.optional(s, "mark"), secmark: t.optional(s, "secmark"), zone: t.optional(s, "zone.id")}
	c.hasMark, c.hasSecmark, c.hasZone = c.mark >= 0, c.secmark >= 0, c.zone >= 0
	if c.hasZone {
		c.zoneDir = t.offset(s, "zone.dir")
	}
	return c
}

func readTuple(t *types) tupleLayout {
	const s = "nf_conntrack_tuple"
	return tupleLayout{at: t.offset("nf_conntrack_tuple_hash", "tuple"), size: t.size(s),
		src: t.offset(s, "src.u3"), srcPort: t.offset(s, "src.u"), family: t.offset(s, "src.l3num"),
		dst: t.offset(s, "dst.u3"), dstPort: t.offset(s, "dst.u"), proto: t.offset(s, "dst.protonum"),
		dir: t.offset(s, "dst.dir")}
}

func readProto(t *types) protoLayout {
	p := protoLayout{tcpState: t.offset("ip_ct_tcp", "state"), tcpSeen: t.offset("ip_ct_tcp", "seen"),
		tcpSeenSize: t.size("ip_ct_tcp_state"), tcpScale: t.offset("ip_ct_tcp_state", "td_scale"),
		tcpFlags:  t.offset("ip_ct_tcp_state", "flags"),
		sctpState: t.optional("ip_ct_sctp", "state"), sctpVTag: t.optional("ip_ct_sctp", "vtag"),
		dccpState: t.optional("nf_ct_dccp", "state"), dccpRole: t.optional("nf_ct_dccp", "role"),
		dccpSeq: t.optional("nf_ct_dccp", "handshake_seq")}
	return p
}

func readExt(t *types) extLayout {
	const s, ids = "nf_ct_ext", "nf_ct_ext_id"
	return extLayout{offsets: t.offset(s, "offset"), length: t.offset(s, "len"), header: t.size(s),
		count:  t.number(ids, "NF_CT_EXT_NUM"),
		helper: t.number(ids, "NF_CT_EXT_HELPER"), seqadj: t.number(ids, "NF_CT_EXT_SEQADJ"),
		acct: t.number(ids, "NF_CT_EXT_ACCT"), tstamp: t.number(ids, "NF_CT_EXT_TSTAMP"),
		labels: t.number(ids, "NF_CT_EXT_LABELS"), synproxy: t.number(ids, "NF_CT_EXT_SYNPROXY"),
		helperName: t.offset("nf_conntrack_helper", "name")}
}

func readFind(t *types) findLayout {
	return findLayout{nsproxy: t.offset("task_struct", "nsproxy"), net: t.offset("nsproxy", "net_ns"),
		files: t.offset("task_struct", "files"), fdt: t.offset("files_struct", "fdt"), fd: t.offset("fdtable", "fd"),
		private: t.offset("file", "private_data"), seqPrivate: t.offset("seq_file", "private"),
		iterHash: t.optional("ct_iter_state", "hash"), iterBuckets: t.optional("ct_iter_state", "htable_size")}
}

func readCast(t *types) (c castLayout) {
	if t.asked != nil {
		t.asked.structures = append(t.asked.structures, "bpf_rdonly_cast", "pt_regs")
		return c
	}
	c.function, c.structure = t.btf.byName["bpf_rdonly_cast"], t.btf.byName["pt_regs"]
	if c.structure == 0 || t.btf.byID[c.structure].size < castSpan {
		c = castLayout{}
	}
	return c
}

// Bounds of what the program is written for, well above what any kernel has.
const (
	maxConn   = 512
	maxExt    = 256
	maxHead   = 64
	maxSecond = 256 // up to the pointer to the extensions
)

// check refuses a layout that the program was not written for.
func (l *layout) check() error {
	switch c := &l.conn; {
	case c.size <= 0 || c.size > maxConn || c.ext+8 > c.size || c.proto > c.size,
		c.hashSize > maxHead || l.tuple.size != tupleSize || l.ext.header > maxHead || l.ext.count > 16,
		c.node != 0, c.hash+2*c.hashSize > c.status, c.ext+8 > maxSecond, max(c.net, c.master, c.status) > c.ext,
		(c.net|c.master|c.status|c.ext|c.hash|c.hashSize|l.tuple.at)%8 != 0:
		return fmt.Errorf("unexpected layout: struct nf_conn of %d bytes", c.size)
	}
	return nil
}
