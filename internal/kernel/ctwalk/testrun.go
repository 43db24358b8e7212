package ctwalk

import (
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// testRun is the part of union bpf_attr that BPF_PROG_TEST_RUN reads.
type testRun struct {
	fd, retval              uint32
	dataSizeIn, dataSizeOut uint32
	dataIn, dataOut         uint64
	repeat, duration        uint32
	ctxSizeIn, ctxSizeOut   uint32
	ctxIn, ctxOut           uint64
	flags, cpu              uint32
	batchSize, _            uint32
}

// run runs a program on a slot. The library can do that too, but allocates a
// good deal each time.
func run(p *ebpf.Program, slot int) error {
	var arg [8]byte
	native.PutUint64(arg[:], uint64(slot))
	var pin runtime.Pinner
	pin.Pin(&arg)
	defer pin.Unpin()
	attr := testRun{fd: uint32(p.FD()), ctxSizeIn: uint32(len(arg)), ctxIn: uint64(uintptr(unsafe.Pointer(&arg)))}
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		switch errno {
		case 0:
			return nil
		case unix.EINTR, unix.EAGAIN:
			continue
		}
		return os.NewSyscallError("bpf", errno)
	}
}
