package ctwalk

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/ctwarden/ctwarden/ct"
)

// A slot is one value of the map: words that both sides read and write, then
// the records of one run.
const (
	slots     = 2 // in turns for walking
	peekSlot  = slots
	slotCount = slots + 1
	slotSize  = 256 << 10
	// steps bounds one run, which cannot be interrupted on a kernel without
	// preemption, to a fraction of a millisecond.
	steps = 2048
)

// Words of a slot, by their offset.
const (
	wHash    = 8 * iota // address of the first bucket
	wBucket             // the next bucket to read
	wEnd                // the bucket to stop before
	wNet                // address of the namespace, or 0 for all
	wNode               // the next node of the bucket that is being read
	wUsed               // bytes of records
	wMark               // bytes of records when this bucket was begun
	wAgain              // how often a bucket was begun anew
	wChanged            // how many entries were not the same to the end
	wState              // how the run ended
	wStatusMask
	wStatus
	wMarkMask
	wMarkValue
	wFamily
	wJiffies
	wTask // address of the task that runs the program
	// What the original tuple must be: of each of its words the bits that matter,
	// and their values.
	wTupleMask
	wTuple    = wTupleMask + tupleSize
	wPeekAddr = wTuple + tupleSize
	wPeekLen  = wPeekAddr + 8
	wAhead    = wPeekLen + 8 // first of the nodes that are fetched ahead
	words     = wAhead + 8*ahead
)

// tupleSize is the length of struct nf_conntrack_tuple, of all that are known.
const tupleSize = 40

// ahead is how many buckets are looked at together, before each is read: memory
// then answers for many at once, where following one chain after the other would
// wait for every node. depth is how many nodes of each.
const ahead, depth = 16, 2

// States in which a run ends.
const (
	stateGoing = iota // all buckets read, or all steps taken
	stateFull         // no room for another record
	stateFault        // an address could not be read
)

// Parts of a record.
const (
	rConn = 8 * iota // address of the entry
	rBucket
	rExt  // bytes of extensions
	rHead // where the copy of the entry begins
)

const peekMax = 256

// record says how the parts of a record lie behind each other: the entry, and
// the extensions.
type record struct{ conn, ext, longest int }

func (l *layout) record() record {
	ext := rHead + align8(l.conn.size)
	return record{conn: rHead, ext: ext, longest: ext + maxExt}
}

func align8(n int) int { return (n + 7) &^ 7 }

// programs are loaded once a process.
type programs struct {
	slots      *ebpf.Map
	walk, peek *ebpf.Program
}

func loadPrograms(l *layout) (*programs, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ctwarden", Type: ebpf.Array, KeySize: 4, ValueSize: slotSize,
		MaxEntries: slotCount, Flags: mmapable})
	if err != nil {
		return nil, fmt.Errorf("create BPF map: %w", err)
	}
	p := &programs{slots: m}
	a := assembler{l: l, r: l.record(), m: m.FD()}
	if p.walk, err = load("ctwarden_walk", a.walk()); err == nil {
		p.peek, err = load("ctwarden_peek", a.peek())
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("load BPF program: %w", err)
	}
	return p, nil
}

const mmapable = 1 << 10 // BPF_F_MMAPABLE

func load(name string, ins asm.Instructions) (*ebpf.Program, error) {
	// A raw tracepoint's program can be run by hand, under rcu_read_lock, without
	// ever being attached to anything (bpf_prog_test_run_raw_tp).
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.RawTracepoint, Instructions: ins, License: "GPL"})
}

func (p *programs) close() {
	_ = p.slots.Close()
	if p.walk != nil {
		_ = p.walk.Close()
	}
	if p.peek != nil {
		_ = p.peek.Close()
	}
}

// assembler writes the programs for one kernel's layout.
type assembler struct {
	l *layout
	r record
	m int
}

// slot finds the slot whose number is at the address in R2, into R0.
func (a *assembler) slot(missing string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, a.m),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, missing),
	}
}

// begin takes the number of the slot from the context and finds it, into R6.
func (a *assembler) begin(name string) asm.Instructions {
	ins := asm.Instructions{
		btf.WithFuncMetadata(asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord).WithSymbol(name), function(name, btf.GlobalFunc)),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
	}
	ins = append(ins, a.slot("out")...)
	return append(ins, asm.Mov.Reg(asm.R6, asm.R0))
}

// copyTo reads n bytes, a multiple of 8, of kernel memory at the address in src
// to base+off. Both are registers that calls leave alone.
//
// From 6.2 on the kernel lets a program look at memory as at a structure that is
// not there (bpf_rdonly_cast): loads that may fail and then give 0, in place of a
// call for each.
func (a *assembler) copyTo(base asm.Register, off, n int, src asm.Register, failed string) asm.Instructions {
	if a.l.cast.function == 0 {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, base), asm.Add.Imm(asm.R1, int32(off)),
			asm.Mov.Imm(asm.R2, int32(n)), asm.Mov.Reg(asm.R3, src),
			asm.FnProbeReadKernel.Call(),
			asm.JNE.Imm(asm.R0, 0, failed),
		}
	}
	var ins asm.Instructions
	for at := 0; at < n; at += 8 {
		in := at % castSpan
		if in == 0 {
			ins = append(ins, asm.Mov.Reg(asm.R1, src), asm.Add.Imm(asm.R1, int32(at)),
				asm.Mov.Imm(asm.R2, int32(a.l.cast.structure)),
				asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: int64(a.l.cast.function)})
		}
		ins = append(ins, asm.LoadMem(asm.R1, asm.R0, int16(in), asm.DWord), asm.StoreMem(base, int16(off+at), asm.R1, asm.DWord))
	}
	return ins
}

// castSpan is how much of memory one look takes in: no more than there are whole
// words in struct pt_regs, of which any kernel has so many.
const castSpan = 160

func get(dst asm.Register, word int16) asm.Instruction {
	return asm.LoadMem(dst, asm.R6, word, asm.DWord)
}

func put(word int16, src asm.Register) asm.Instruction {
	return asm.StoreMem(asm.R6, word, src, asm.DWord)
}

func write(word int16, v int64) asm.Instruction {
	return asm.Instruction{OpCode: asm.StoreImmOp(asm.DWord), Dst: asm.R6, Offset: word, Constant: v}
}

func ret(symbol string, v int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, v).WithSymbol(symbol), asm.Return()}
}

// walk reads whole buckets until the slot is full or the steps are used up. A
// bucket that was not read to its end is left for the next run.
func (a *assembler) walk() asm.Instructions {
	ins := a.begin("walk")
	ins = append(ins, asm.FnJiffies64.Call(), put(wJiffies, asm.R0),
		write(wState, stateGoing), write(wNode, 0), write(wUsed, 0), write(wMark, 0),
		asm.Mov.Imm(asm.R1, steps),
		asm.Instruction{OpCode: asm.LoadImmOp(asm.DWord), Dst: asm.R2, Src: asm.PseudoFunc, Constant: -1}.WithReference("step"),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnLoop.Call(),
		get(asm.R1, wNode), asm.JEq.Imm(asm.R1, 0, "out"),
		get(asm.R1, wMark), put(wUsed, asm.R1))
	ins = append(ins, ret("out", 0)...)
	return append(ins, a.step()...)
}

// step looks at one node; bpf_loop calls it until it returns 1.
func (a *assembler) step() asm.Instructions {
	first := asm.LoadMapPtr(asm.R1, a.m).WithSymbol("step")
	ins := asm.Instructions{btf.WithFuncMetadata(first, stepFunction())}
	ins = append(ins, asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "stop"),
		asm.Mov.Reg(asm.R6, asm.R0), get(asm.R7, wNode), asm.JNE.Imm(asm.R7, 0, "node"))
	ins = append(ins, a.head()...)
	ins = append(ins, a.chainEnd()...)
	ins = append(ins, a.entry()...)
	ins = append(ins, a.wanted()...)
	ins = append(ins, a.extensions()...)
	ins = append(ins, a.steady()...)
	ins = append(ins, a.finish()...)
	ins = append(ins, ret("next", 0)...)
	ins = append(ins, write(wState, stateFull).WithSymbol("full"), asm.Ja.Label("stop"),
		write(wState, stateFault).WithSymbol("fault"))
	return append(ins, ret("stop", 1)...)
}

// head begins the next bucket.
func (a *assembler) head() asm.Instructions {
	ins := asm.Instructions{
		get(asm.R8, wBucket), get(asm.R1, wEnd), asm.JGE.Reg(asm.R8, asm.R1, "stop"),
		get(asm.R1, wUsed), put(wMark, asm.R1),
		get(asm.R9, wHash), asm.Mov.Reg(asm.R1, asm.R8), asm.LSh.Imm(asm.R8, 3), asm.Add.Reg(asm.R9, asm.R8),
		asm.And.Imm(asm.R1, ahead-1), asm.JNE.Imm(asm.R1, 0, "fetched"),
	}
	ins = append(ins, a.fetchAhead()...)
	ins = append(ins, asm.Mov.Imm(asm.R7, 0).WithSymbol("fetched"))
	ins = append(ins, a.copyTo(asm.R6, wNode, 8, asm.R9, "fault")...)
	return append(ins, get(asm.R7, wNode))
}

// fetchAhead follows the chains of the buckets from R9 on, for nothing but to
// have their nodes in the processor's cache. What cannot be read is left to
// those who need it.
func (a *assembler) fetchAhead() asm.Instructions {
	ins := a.copyTo(asm.R6, wAhead, 8*ahead, asm.R9, "fetched")
	for round := range depth {
		for i := range ahead {
			done := fmt.Sprintf("ahead%d.%d", round, i)
			at := int16(wAhead + 8*i)
			ins = append(ins, get(asm.R7, at), asm.Mov.Reg(asm.R1, asm.R7), asm.And.Imm(asm.R1, 1), asm.JNE.Imm(asm.R1, 0, done))
			ins = append(ins, a.copyTo(asm.R6, int(at), 8, asm.R7, done)...)
			ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol(done))
		}
	}
	return ins
}

// chainEnd goes on to the next bucket if the node is the number that ends a
// chain. Another bucket's number says that an entry moved under the walk: what
// this bucket gave is dropped, and it is begun anew.
func (a *assembler) chainEnd() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R7).WithSymbol("node"), asm.And.Imm(asm.R1, 1), asm.JEq.Imm(asm.R1, 0, "entry"),
		asm.RSh.Imm(asm.R7, 1), get(asm.R8, wBucket), write(wNode, 0),
		asm.JNE.Reg(asm.R7, asm.R8, "again"),
		asm.Add.Imm(asm.R8, 1), put(wBucket, asm.R8), asm.Ja.Label("next"),
		get(asm.R1, wMark).WithSymbol("again"), put(wUsed, asm.R1),
		get(asm.R1, wAgain), asm.Add.Imm(asm.R1, 1), put(wAgain, asm.R1), asm.Ja.Label("next"),
	}
}

// entry follows the chain, and copies the entry where the node is that of its
// original direction, and its tuple and status are looked for: of all others no
// more is touched than the cache lines of these.
func (a *assembler) entry() asm.Instructions {
	const stack = -maxHead
	ins := asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("entry")}
	ins = append(ins, a.copyTo(asm.RFP, stack, a.l.conn.hashSize, asm.R7, "fault")...)
	ins = append(ins, asm.LoadMem(asm.R1, asm.RFP, stack, asm.DWord), put(wNode, asm.R1),
		asm.LoadMem(asm.R1, asm.RFP, int16(stack+a.l.tuple.at+a.l.tuple.dir), asm.Byte), asm.JNE.Imm(asm.R1, 0, "next"))
	for at := int16(0); at < tupleSize; at += 8 {
		ins = append(ins, asm.LoadMem(asm.R1, asm.RFP, int16(stack+a.l.tuple.at)+at, asm.DWord),
			get(asm.R2, wTupleMask+at), asm.And.Reg(asm.R1, asm.R2), get(asm.R2, wTuple+at), asm.JNE.Reg(asm.R1, asm.R2, "next"))
	}
	ins = append(ins, asm.Sub.Imm(asm.R7, int32(a.l.conn.hash)),
		get(asm.R1, wStatusMask), asm.JEq.Imm(asm.R1, 0, "anystatus"),
		asm.Mov.Reg(asm.R8, asm.R7), asm.Add.Imm(asm.R8, int32(a.l.conn.status)))
	ins = append(ins, a.copyTo(asm.RFP, stack, 8, asm.R8, "fault")...)
	ins = append(ins, asm.LoadMem(asm.R2, asm.RFP, stack, asm.DWord), get(asm.R1, wStatusMask),
		asm.And.Reg(asm.R2, asm.R1), get(asm.R1, wStatus), asm.JNE.Reg(asm.R1, asm.R2, "next"),
		get(asm.R8, wUsed).WithSymbol("anystatus"), asm.JGT.Imm(asm.R8, int32(slotSize-words-a.r.longest), "full"),
		asm.Mov.Reg(asm.R9, asm.R6), asm.Add.Reg(asm.R9, asm.R8), asm.Add.Imm(asm.R9, words))
	return append(ins, a.copyTo(asm.R9, a.r.conn, align8(a.l.conn.size), asm.R7, "fault")...)
}

// wanted leaves out entries of other namespaces and those that the filter
// does not match.
func (a *assembler) wanted() asm.Instructions {
	field := func(off int, size asm.Size) asm.Instruction {
		return asm.LoadMem(asm.R2, asm.R9, int16(a.r.conn+off), size)
	}
	ins := asm.Instructions{
		get(asm.R1, wNet), asm.JEq.Imm(asm.R1, 0, "anynet"),
		field(a.l.conn.net, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, "next"),
		get(asm.R1, wFamily).WithSymbol("anynet"), asm.JEq.Imm(asm.R1, 0, "anyfamily"),
		field(a.l.conn.hash+a.l.tuple.at+a.l.tuple.family, asm.Half), asm.JNE.Reg(asm.R1, asm.R2, "next"),
		get(asm.R1, wStatusMask).WithSymbol("anyfamily"), field(a.l.conn.status, asm.DWord),
		asm.And.Reg(asm.R2, asm.R1), get(asm.R1, wStatus), asm.JNE.Reg(asm.R1, asm.R2, "next"),
	}
	if !a.l.conn.hasMark {
		return ins
	}
	return append(ins, get(asm.R1, wMarkMask), field(a.l.conn.mark, asm.Word),
		asm.And.Reg(asm.R2, asm.R1), get(asm.R1, wMarkValue), asm.JNE.Reg(asm.R1, asm.R2, "next"))
}

// extensions copies struct nf_ct_ext, whose length is in its head. R8 is that
// length afterwards, 0 where there are none.
func (a *assembler) extensions() asm.Instructions {
	const stack = -maxHead
	ins := asm.Instructions{
		asm.LoadMem(asm.R8, asm.R9, int16(a.r.conn+a.l.conn.ext), asm.DWord), asm.JEq.Imm(asm.R8, 0, "noext"),
	}
	ins = append(ins, a.copyTo(asm.RFP, stack, align8(a.l.ext.header), asm.R8, "fault")...)
	return append(ins,
		asm.LoadMem(asm.R8, asm.RFP, int16(stack+a.l.ext.length), asm.Byte),
		asm.LoadMem(asm.R3, asm.R9, int16(a.r.conn+a.l.conn.ext), asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R9), asm.Add.Imm(asm.R1, int32(a.r.ext)),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.FnProbeReadKernel.Call(),
		asm.JNE.Imm(asm.R0, 0, "fault"))
}

// steady looks at the entry once more, and passes over it unless it was the same
// one from the beginning of its reading to the end, and in the table: struct
// nf_conn is SLAB_TYPESAFE_BY_RCU and may be given to another flow at any moment.
func (a *assembler) steady() asm.Instructions {
	c := &a.l.conn
	const stack = -maxHead - maxSecond
	words := []int{c.net, c.ext, c.master}
	for dir := range 2 {
		for at := 0; at < a.l.tuple.size; at += 8 {
			words = append(words, c.hash+dir*c.hashSize+a.l.tuple.at+at)
		}
	}
	again := func(at int) asm.Instruction { return asm.LoadMem(asm.R1, asm.RFP, int16(stack+at), asm.DWord) }
	ins := asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("noext")}
	ins = append(ins, a.copyTo(asm.RFP, stack, align8(c.ext+8), asm.R7, "fault")...)
	for _, at := range words {
		ins = append(ins, again(at), asm.LoadMem(asm.R2, asm.R9, int16(a.r.conn+at), asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, "changed"))
	}
	const confirmed, dying = int32(ct.StatusConfirmed), int32(ct.StatusDying)
	for _, status := range []asm.Instruction{again(c.status), asm.LoadMem(asm.R1, asm.R9, int16(a.r.conn+c.status), asm.DWord)} {
		ins = append(ins, status, asm.And.Imm(asm.R1, confirmed|dying), asm.JNE.Imm(asm.R1, confirmed, "changed"))
	}
	return append(ins, asm.LoadMem(asm.R1, asm.RFP, int16(stack+c.use), asm.Word), asm.JEq.Imm(asm.R1, 0, "changed"))
}

// finish makes a record of the entry.
func (a *assembler) finish() asm.Instructions {
	return asm.Instructions{
		asm.StoreMem(asm.R9, rExt, asm.R8, asm.DWord),
		asm.StoreMem(asm.R9, rConn, asm.R7, asm.DWord),
		get(asm.R1, wBucket), asm.StoreMem(asm.R9, rBucket, asm.R1, asm.DWord),
		asm.Add.Imm(asm.R8, int32(7+a.r.ext)), asm.And.Imm(asm.R8, -8),
		get(asm.R1, wUsed), asm.Add.Reg(asm.R1, asm.R8), put(wUsed, asm.R1),
		asm.Ja.Label("next"),
		get(asm.R1, wChanged).WithSymbol("changed"), asm.Add.Imm(asm.R1, 1), put(wChanged, asm.R1),
	}
}

// peek reads up to peekMax bytes of kernel memory.
func (a *assembler) peek() asm.Instructions {
	ins := a.begin("peek")
	ins = append(ins, asm.FnGetCurrentTask.Call(), put(wTask, asm.R0), asm.FnJiffies64.Call(), put(wJiffies, asm.R0),
		write(wState, stateGoing),
		get(asm.R2, wPeekLen), asm.JGT.Imm(asm.R2, peekMax, "fault"), asm.JEq.Imm(asm.R2, 0, "out"),
		get(asm.R3, wPeekAddr),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Add.Imm(asm.R1, words),
		asm.FnProbeReadKernel.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		write(wState, stateFault).WithSymbol("fault"))
	return append(ins, ret("out", 0)...)
}

// The kernel wants types of the functions that are handed to bpf_loop.
func function(name string, linkage btf.FuncLinkage) *btf.Func {
	return &btf.Func{Name: name, Linkage: linkage, Type: &btf.FuncProto{
		Return: integer(), Params: []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Void{}}}}}}
}

func stepFunction() *btf.Func {
	f := function("step", btf.StaticFunc)
	p := f.Type.(*btf.FuncProto)
	p.Params = append([]btf.FuncParam{{Name: "index", Type: integer()}}, p.Params...)
	return f
}

func integer() *btf.Int { return &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed} }
