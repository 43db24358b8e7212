package anonymize

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

var key = [KeySize]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 30: 1, 31: 2}

func random4(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, r.Uint32())))
}

func random6(r *rand.Rand) netip.Addr {
	b := binary.BigEndian.AppendUint64(nil, r.Uint64()>>3|1<<61)
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, r.Uint64())))
}

// common bits at the front of two addresses.
func shared(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return 8*i + bits.LeadingZeros8(d)
		}
	}
	return 8 * len(x)
}

func TestPrefixesStay(t *testing.T) {
	m := New(key)
	r := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		a, b := random4(r), random4(r)
		if r.IntN(2) == 0 {
			a, b = random6(r), random6(r)
		}
		n := r.IntN(a.BitLen() + 1)
		b = graft(a, b, n)
		if got, want := shared(m.Addr(a), m.Addr(b)), shared(a, b); got != want {
			t.Fatalf("%v and %v share %d bits; mapped to %v and %v they share %d", a, b, want, m.Addr(a), m.Addr(b), got)
		}
	}
}

// graft returns b with the first n bits of a.
func graft(a, b netip.Addr, n int) netip.Addr {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range n {
		bit := byte(0x80) >> (i % 8)
		y[i/8] = y[i/8]&^bit | x[i/8]&bit
	}
	out, _ := netip.AddrFromSlice(y)
	return out
}

func TestKindsStay(t *testing.T) {
	m := New(key)
	r := rand.New(rand.NewPCG(2, 2))
	block := func(a netip.Addr) (in string) {
		for _, s := range special {
			if s.Contains(a) {
				in = s.String()
			}
		}
		return in
	}
	moved := 0
	for range 50_000 {
		a := random4(r)
		b := m.Addr(a)
		if block(a) != block(b) {
			t.Fatalf("%v in %q became %v in %q", a, block(a), b, block(b))
		}
		if a != b {
			moved++
		}
	}
	if moved < 40_000 {
		t.Errorf("only %d of 50,000 addresses changed", moved)
	}
	for _, s := range []string{"127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "::1", "ff02::1"} {
		if a := netip.MustParseAddr(s); m.Addr(a) != a {
			t.Errorf("%v became %v", a, m.Addr(a))
		}
	}
	for _, s := range []string{"10.0.0.1", "192.168.1.1", "172.16.9.9", "8.8.8.8", "203.0.113.9", "100.64.1.1", "2001:db8::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"} {
		if a := netip.MustParseAddr(s); m.Addr(a) == a {
			t.Errorf("%v stayed", a)
		}
	}
}

func TestSameKeySameMapping(t *testing.T) {
	a := netip.MustParseAddr("198.51.100.7")
	if first, second := New(key).Addr(a), New(key).Addr(a); first != second {
		t.Error("two mappers with one key differ")
	}
	other := key
	other[0]++
	if New(key).Addr(a) == New(other).Addr(a) {
		t.Error("two keys give one mapping")
	}
}

func TestText(t *testing.T) {
	m := New(key)
	m.Name("host", "web1.example.com")
	m.Name("host", "web1")
	m.Name("user", "alice")
	addr := func(s string) string { return m.Addr(netip.MustParseAddr(s)).String() }
	for text, want := range map[string]string{
		"one host, 10.0.3.7, holds it":      "one host, " + addr("10.0.3.7") + ", holds it",
		"SRC=10.0.3.7 DST=192.0.2.1 LEN=40": "SRC=" + addr("10.0.3.7") + " DST=" + addr("192.0.2.1") + " LEN=40",
		"10.0.3.0/24":                       m.Prefix(netip.MustParsePrefix("10.0.3.0/24")).String(),
		"10.0.3.7:443":                      addr("10.0.3.7") + ":443",
		"[2001:db8::1]:443":                 "[" + addr("2001:db8::1") + "]:443",
		"MAC=52:54:00:12:34:56:52:54:00:12:34:57:08:00 SRC=1": "MAC=00:00:00:00:00:00 SRC=1",
		"at 10:53:25 on 2026-11-22T10:53:25.5Z":               "at 10:53:25 on 2026-11-22T10:53:25.5Z",
		"web1 and web1.example.com, not web10":                "host-2 and host-1, not web10",
		"/home/alice/.bashrc /home/bob/x alice":               "/home/user-1/.bashrc /home/user-2/x user-1",
		"nf_conntrack version 0.5.0":                          "nf_conntrack version 0.5.0",
		"999.1.1.1 stays":                                     "999.1.1.1 stays",
	} {
		if got := m.Text(text); got != want {
			t.Errorf("Text(%q) = %q, want %q", text, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("from 10.0.0.1 to 2001:db8::1/64")
	f.Fuzz(func(t *testing.T, text string) {
		m := New(key)
		const secret = "203.0.113.77"
		if got := m.Text(fmt.Sprintf("%s %s %s", text, secret, text)); strings.Contains(got, " "+secret+" ") {
			t.Fatalf("%q keeps the address", got)
		}
	})
}
