package procfs

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxRouteBytes bounds the reading of route lists: the default routes come
// first, and routers hold a million others.
const maxRouteBytes = 256 << 10

// Gateways returns the next hops of the namespace's default routes.
func (f FS) Gateways() ([]netip.Addr, error) {
	v4, err4 := openNet(f, "route", "the IPv4 routes", ParseRoutes4)
	v6, err6 := openNet(f, "ipv6_route", "the IPv6 routes", ParseRoutes6)
	if !exists(f.net("if_inet6")) { // no IPv6 here
		err6 = nil
	}
	return unique(append(v4, v6...)), errors.Join(err4, err6)
}

// ParseRoutes4 reads the gateways of default routes from /proc/net/route,
// whose addresses are hexadecimal in the machine's byte order.
func ParseRoutes4(r io.Reader) ([]netip.Addr, error) {
	var out []netip.Addr
	sc := bufio.NewScanner(io.LimitReader(r, maxRouteBytes))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		gw, err := strconv.ParseUint(f[2], 16, 32)
		if err != nil || gw == 0 {
			continue
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], uint32(gw))
		out = append(out, netip.AddrFrom4(b))
	}
	return out, sc.Err()
}

// ParseRoutes6 reads the gateways of default routes from /proc/net/ipv6_route.
func ParseRoutes6(r io.Reader) ([]netip.Addr, error) {
	var out []netip.Addr
	sc := bufio.NewScanner(io.LimitReader(r, maxRouteBytes))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 5 || f[1] != "00" || strings.Trim(f[0], "0") != "" {
			continue
		}
		if gw, ok := hexAddr6(f[4]); ok && !gw.IsUnspecified() {
			out = append(out, gw)
		}
	}
	return out, sc.Err()
}

func hexAddr6(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}

// Addresses returns the addresses of the namespace's interfaces, without
// loopback ones.
func (f FS) Addresses() ([]netip.Addr, error) {
	if f.Live() && f.Pid == 0 {
		return liveAddresses()
	}
	v4, err4 := openNet(f, "fib_trie", "the IPv4 addresses", ParseFibTrie)
	v6, err6 := openNet(f, "if_inet6", "the IPv6 addresses", ParseIfInet6)
	return unique(append(v4, v6...)), errors.Join(err4, err6)
}

func liveAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return unique(out), nil
}

// LeastMTU is the smallest MTU of the calling thread's devices that are up, the
// loopback left out; 0 is not known.
func LeastMTU() (least int) {
	list, err := net.Interfaces()
	if err != nil {
		return 0
	}
	for _, d := range list {
		if d.Flags&net.FlagUp != 0 && d.Flags&net.FlagLoopback == 0 && d.MTU > 0 && (least == 0 || d.MTU < least) {
			least = d.MTU
		}
	}
	return least
}

// ParseFibTrie reads the host's own IPv4 addresses: leaves of the trie that
// are "/32 host LOCAL".
func ParseFibTrie(r io.Reader) ([]netip.Addr, error) {
	var out []netip.Addr
	var leaf netip.Addr
	sc := bufio.NewScanner(io.LimitReader(r, 4*maxFileBytes))
	for sc.Scan() {
		s := strings.TrimSpace(sc.Text())
		if rest, ok := strings.CutPrefix(s, "|-- "); ok {
			leaf, _ = netip.ParseAddr(rest)
			continue
		}
		if s == "/32 host LOCAL" && leaf.IsValid() && !leaf.IsLoopback() {
			out = append(out, leaf)
		}
	}
	return out, sc.Err()
}

// ParseIfInet6 reads /proc/net/if_inet6.
func ParseIfInet6(r io.Reader) ([]netip.Addr, error) {
	var out []netip.Addr
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) == 0 {
			continue
		}
		if a, ok := hexAddr6(f[0]); ok && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out, sc.Err()
}

// Nameservers returns the resolvers in use: those of resolv.conf and, where it
// names systemd's stub, those behind it. netnsName is the name that ip-netns
// gave the namespace, or "": it has a resolv.conf of its own if one is kept
// under /etc/netns.
func (f FS) Nameservers(netnsName string) ([]netip.Addr, error) {
	path := f.path("etc/resolv.conf")
	if own := f.path("etc/netns/" + netnsName + "/resolv.conf"); netnsName != "" && exists(own) {
		path = own
	}
	servers, err := open(path, "the nameservers", ParseResolvConf)
	stub := netip.AddrFrom4([4]byte{127, 0, 0, 53})
	if slices.Contains(servers, stub) {
		behind, behindErr := open(f.path("run/systemd/resolve/resolv.conf"), "the nameservers", ParseResolvConf)
		if behindErr == nil {
			servers = append(servers, behind...)
		}
	}
	return unique(servers), err
}

// ParseResolvConf reads the nameserver lines of resolv.conf(5).
func ParseResolvConf(r io.Reader) ([]netip.Addr, error) {
	var out []netip.Addr
	sc := bufio.NewScanner(io.LimitReader(r, maxFileBytes))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.WithZone("").Unmap())
		}
	}
	return out, sc.Err()
}

func unique(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
