// Package hugepages asks for memory in large pages, so that programs that jump
// about in gigabytes look fewer addresses up.
package hugepages

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// least is the size from which the kernel has pages to offer: 2 MiB.
const least = 2 << 20

// Advise asks for huge pages behind a piece of memory. Where the kernel offers
// none, nothing changes; nor does it for pieces that are too small.
func Advise(b []byte) {
	page := uintptr(os.Getpagesize())
	addr := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	skip := -addr & (page - 1)
	if uintptr(len(b)) < skip+least {
		return
	}
	whole := b[skip:]
	_ = unix.Madvise(whole[:uintptr(len(whole))&^(page-1)], unix.MADV_HUGEPAGE)
}
