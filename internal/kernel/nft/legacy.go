package nft

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options of ip_tables and ip6_tables, which have the same numbers.
const (
	optGetInfo    = 64 // IPT_SO_GET_INFO
	optGetEntries = 65 // IPT_SO_GET_ENTRIES
)

const (
	tableNameLen = 32 // XT_TABLE_MAXNAMELEN
	hooks        = 5  // NF_INET_NUMHOOKS
	infoLen      = tableNameLen + 4 + 4*hooks + 4*hooks + 4 + 4
	entriesHead  = tableNameLen + 8 // size, and padding before the entries
	// maxTableBytes bounds the copy of a table: a million rules and more.
	maxTableBytes = 512 << 20
)

// readLegacy reads a table of legacy iptables, or ip6tables, that exists.
func (c *collector) readLegacy(family uint8, table string) error {
	if runtime.GOARCH == "386" {
		return fmt.Errorf("a 32-bit program reads iptables tables in another layout: %w", errors.ErrUnsupported)
	}
	if len(table) >= tableNameLen {
		return fmt.Errorf("table name of %d bytes", len(table))
	}
	domain, level := unix.AF_INET, unix.SOL_IP
	if family == family6 {
		domain, level = unix.AF_INET6, unix.SOL_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for range patience {
		b, err := blobOf(fd, level, table)
		if errors.Is(err, unix.EAGAIN) {
			continue // replaced between the two questions
		}
		if err != nil {
			return err
		}
		return b.walk(family, table, c)
	}
	return errChanged
}

func blobOf(fd, level int, table string) (*blob, error) {
	info := make([]byte, infoLen)
	copy(info, table)
	if err := getsockopt(fd, level, optGetInfo, info); err != nil {
		return nil, err
	}
	b := &blob{}
	at := tableNameLen + 4
	for i := range hooks {
		b.hookEntry[i] = host.Uint32(info[at+4*i:])
		b.underflow[i] = host.Uint32(info[at+4*(hooks+i):])
	}
	b.validHooks = host.Uint32(info[tableNameLen:])
	size := host.Uint32(info[infoLen-4:])
	if size > maxTableBytes {
		return nil, fmt.Errorf("table of %d bytes is too large to be read", size)
	}
	buf := make([]byte, entriesHead+int(size))
	copy(buf, table)
	host.PutUint32(buf[tableNameLen:], size)
	if err := getsockopt(fd, level, optGetEntries, buf); err != nil {
		return nil, err
	}
	b.entries = buf[entriesHead:]
	return b, nil
}

func getsockopt(fd, level, opt int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
