package ctwalk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// Reaper has the kernel look for entries by their tuples, thousands at a time.
// As every lookup it removes entries on its way that have expired
// (____nf_conntrack_find, nf_ct_gc_expired), and nothing else: so it clears away
// what has run down at the price of the entries asked for, where a dump goes
// through the whole table. Only TCP and UDP in the default zone can be looked for
// in this way (bpf_skb_ct_lookup, Linux 5.18).
type Reaper struct {
	prog  int
	keys  *ebpf.Map
	mem   []byte
	n     int
	netns string
	inode uint64
}

// Layout of the map: the number of the next key, and keys of reapKey bytes.
const (
	reapKeys   = 4096
	reapHeader = 64
	reapShift  = 6
	reapKey    = 1 << reapShift
	// A key: struct bpf_sock_tuple, its length, the protocol, whether it was found.
	keyProto = 40
	keySize  = 44
	keyFound = 48
	// Lengths of struct bpf_sock_tuple.
	tuple4Size = 12
	tuple6Size = 36
	// ctOptsSize is the length of struct bpf_ct_opts that every kernel takes.
	ctOptsSize = 12
)

const (
	lookupFunc  = "bpf_skb_ct_lookup"
	releaseFunc = "bpf_ct_release"
)

// OpenReapers loads n programs, each of which may run beside the others, for a
// namespace as netns.Path understands it, which must have an inode number unless
// that is 0. It says what is missing where it cannot.
func OpenReapers(n int, ns string, inode uint64) ([]*Reaper, error) {
	f, err := findReapFuncs()
	if err != nil {
		return nil, err
	}
	defer f.close()
	var all []*Reaper
	for range n {
		r, err := openReaper(f)
		if err != nil {
			for _, r := range all {
				_ = r.Close()
			}
			return nil, fmt.Errorf("load BPF program: %w", err)
		}
		r.netns, r.inode = ns, inode
		all = append(all, r)
	}
	return all, nil
}

func openReaper(f *reapFuncs) (*Reaper, error) {
	const size = reapHeader + reapKeys*reapKey
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ctwarden_reap", Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1, Flags: mmapable})
	if err != nil {
		return nil, err
	}
	r := &Reaper{prog: -1, keys: m}
	if r.mem, err = unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		r.prog, err = loadClassifier(reapProgram(m.FD(), f), f.module)
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// Close frees the program and its memory.
func (r *Reaper) Close() error {
	if r.prog >= 0 {
		_ = unix.Close(r.prog)
	}
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
	}
	return r.keys.Close()
}

// Add notes a tuple to look for. It returns false where the kind cannot be
// looked for, and when [Reaper.Full] until Run.
func (r *Reaper) Add(t ct.Tuple) bool {
	if t.Proto != ct.TCP && t.Proto != ct.UDP || !t.IsValid() || r.n == reapKeys {
		return false
	}
	k := r.key(r.n)
	clear(k)
	size := tuple6Size
	if t.Is4() {
		size = tuple4Size
		src, dst := t.Src.As4(), t.Dst.As4()
		copy(k, src[:])
		copy(k[4:], dst[:])
	} else {
		src, dst := t.Src.As16(), t.Dst.As16()
		copy(k, src[:])
		copy(k[16:], dst[:])
	}
	k[size-4], k[size-3] = byte(t.SrcPort>>8), byte(t.SrcPort)
	k[size-2], k[size-1] = byte(t.DstPort>>8), byte(t.DstPort)
	native.PutUint32(k[keyProto:], uint32(t.Proto))
	native.PutUint32(k[keySize:], uint32(size))
	r.n++
	return true
}

// Full reports whether no more can be noted before Run.
func (r *Reaper) Full() bool { return r.n == reapKeys }

// Run looks for what was noted and calls found with the position, from 0 in the
// order of Add, of each that is in the table.
func (r *Reaper) Run(found func(int)) error {
	n := r.n
	r.n = 0
	if n == 0 {
		return nil
	}
	native.PutUint64(r.mem, 0)
	err := netns.Do(r.netns, func() error {
		if inode, err := netns.Inode(""); err != nil || r.inode != 0 && inode != r.inode {
			return errors.Join(fmt.Errorf("network namespace %q has changed", r.netns), err)
		}
		return repeat(r.prog, n)
	})
	if err != nil {
		return err
	}
	if native.Uint64(r.mem) != uint64(n) {
		return fmt.Errorf("BPF program ran %d times, not %d", native.Uint64(r.mem), n)
	}
	for i := range n {
		if r.key(i)[keyFound] != 0 {
			found(i)
		}
	}
	return nil
}

func (r *Reaper) key(i int) []byte { return r.mem[reapHeader+i*reapKey:][:reapKey] }

// repeat runs a program for packets so many times. The packet is not looked at.
func repeat(prog, times int) error {
	var packet [64]byte
	var pin runtime.Pinner
	pin.Pin(&packet)
	defer pin.Unpin()
	attr := testRun{fd: uint32(prog), dataSizeIn: uint32(len(packet)), dataIn: uint64(uintptr(unsafe.Pointer(&packet))), repeat: uint32(times)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return os.NewSyscallError("bpf", errno)
	}
	return nil
}

// reapFuncs are the kernel's functions that the program calls: of the kernel
// itself, or of its module.
type reapFuncs struct {
	lookup, release uint32
	module          *btf.Handle // nil where it is no module
}

func (f *reapFuncs) close() { _ = f.module.Close() }

func findReapFuncs() (*reapFuncs, error) {
	kernel, module, err := openBTF()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	var t *btfTypes
	want := btfWanted{structures: []string{lookupFunc, releaseFunc}}
	if module == nil {
		t, err = readBTF(kernel, nil, want)
	} else {
		defer module.Close()
		t, err = readBTF(kernel, module, want)
	}
	if err != nil {
		return nil, err
	}
	f := &reapFuncs{lookup: t.byName[lookupFunc], release: t.byName[releaseFunc]}
	if f.lookup == 0 || f.release == 0 {
		return nil, errors.New("the kernel does not let BPF programs look for entries (" + lookupFunc + ", Linux 5.18)")
	}
	if last := len(t.sections) - 1; last > 0 && f.lookup >= t.sections[last].firstID {
		f.module, err = btf.FindHandle(func(i *btf.HandleInfo) bool { return i.IsKernel && i.Name == "nf_conntrack" })
	}
	return f, err
}

// reapProgram takes the next key of the map and looks for it.
func reapProgram(keys int, f *reapFuncs) asm.Instructions {
	// Functions of a module are told by the second word of an array of descriptors.
	var in int16
	if f.module != nil {
		in = 1
	}
	call := func(id uint32) asm.Instruction {
		return asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Offset: in, Constant: int64(id)}
	}
	lookup := func(size int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R9), asm.Mov.Imm(asm.R3, size),
			asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, -24), asm.Mov.Imm(asm.R5, ctOptsSize),
			call(f.lookup),
		}
	}
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, keys), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R8, asm.R0, 0, asm.DWord),
		asm.JGE.Imm(asm.R8, reapKeys, "out"),
		asm.Mov.Reg(asm.R1, asm.R8), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R9, asm.R0), asm.LSh.Imm(asm.R8, reapShift), asm.Add.Reg(asm.R9, asm.R8), asm.Add.Imm(asm.R9, reapHeader),
		// struct bpf_ct_opts: the namespace of the caller (-1), and the protocol.
		asm.StoreImm(asm.RFP, -24, -1, asm.Word), asm.StoreImm(asm.RFP, -20, 0, asm.Word), asm.StoreImm(asm.RFP, -16, 0, asm.Word),
		asm.LoadMem(asm.R1, asm.R9, keyProto, asm.Word), asm.StoreMem(asm.RFP, -16, asm.R1, asm.Byte),
		asm.LoadMem(asm.R1, asm.R9, keySize, asm.Word), asm.JEq.Imm(asm.R1, tuple4Size, "v4"),
	}
	ins = append(ins, lookup(tuple6Size)...)
	ins = append(ins, asm.Ja.Label("found"))
	v4 := lookup(tuple4Size)
	v4[0] = v4[0].WithSymbol("v4")
	ins = append(ins, v4...)
	return append(ins,
		asm.JEq.Imm(asm.R0, 0, "out").WithSymbol("found"),
		asm.StoreImm(asm.R9, keyFound, 1, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R0), call(f.release),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return())
}

// progLoad is the part of union bpf_attr that BPF_PROG_LOAD reads.
type progLoad struct {
	progType, insnCount         uint32
	insns, license              uint64
	logLevel, logSize           uint32
	logBuf                      uint64
	kernVersion, flags          uint32
	name                        [16]byte
	ifindex, attachType         uint32
	btfFD, funcInfoSize         uint32
	funcInfo                    uint64
	funcInfoCount, lineInfoSize uint32
	lineInfo                    uint64
	lineInfoCount, attachBTF    uint32
	attachProg, coreReloCount   uint32
	fdArray                     uint64
}

// loadClassifier loads a program that is run by hand and never attached. As an XDP
// program, which could do the same, the kernel would synchronize RCU twice a run
// (bpf_prog_change_xdp): 25 ms. The library
// loads calls of a module's functions only from ELF files.
func loadClassifier(ins asm.Instructions, module *btf.Handle) (int, error) {
	// Marshal knows the two orders by their names.
	var order binary.ByteOrder = binary.LittleEndian
	if native.Uint16([]byte{1, 0}) != 1 {
		order = binary.BigEndian
	}
	var code bytes.Buffer
	if err := ins.Marshal(&code, order); err != nil {
		return -1, err
	}
	insns, license, fds := code.Bytes(), []byte("GPL\x00"), [2]int32{}
	if module != nil {
		fds[1] = int32(module.FD())
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&insns[0])
	pin.Pin(&license[0])
	pin.Pin(&fds)
	attr := progLoad{progType: uint32(ebpf.SchedCLS), insnCount: uint32(len(insns) / asm.InstructionSize),
		insns: uint64(uintptr(unsafe.Pointer(&insns[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		fdArray: uint64(uintptr(unsafe.Pointer(&fds)))}
	copy(attr.name[:], "ctwarden_reap")
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, os.NewSyscallError("bpf", errno)
	}
	return int(fd), nil
}
