package sockdiag

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

func readProcNet(p ct.Proto, family uint8) ([]Socket, error) {
	path := "/proc/thread-self/net/" + p.String()
	if family == unix.AF_INET6 {
		path += "6"
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no IPv6
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseProcNet(f, p)
}

// parseProcNet reads /proc/net/tcp and its kin. Lines that it cannot read are
// passed over.
func parseProcNet(r io.Reader, p ct.Proto) ([]Socket, error) {
	var all []Socket
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 {
			continue
		}
		local, okL := parseHexAddr(f[1])
		remote, okR := parseHexAddr(f[2])
		state, errS := strconv.ParseUint(f[3], 16, 8)
		inode, errI := strconv.ParseUint(f[9], 10, 32)
		if !okL || !okR || errS != nil || errI != nil {
			continue // the header
		}
		all = append(all, Socket{p, local, remote, uint8(state), uint32(inode)})
	}
	return all, sc.Err()
}

// parseHexAddr reads 0100007F:0016: words in the order of the processor.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, errP := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || errP != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}
