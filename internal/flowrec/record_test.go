package flowrec

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func samples() []Entry {
	a, m := netip.MustParseAddr, uint32(0xdeadbeef)
	return []Entry{
		{Orig: ct.Tuple{Src: a("10.0.0.1"), Dst: a("192.0.2.1"), Proto: ct.TCP, SrcPort: 1024, DstPort: 443},
			Reply: ct.Tuple{Src: a("192.0.2.1"), Dst: a("203.0.113.1"), Proto: ct.TCP, SrcPort: 443, DstPort: 61000},
			State: ct.TCPEstablished, Status: ct.StatusAssured | ct.StatusSrcNAT, ID: 1 << 31, Mark: m, TimeoutSeconds: 432000, ZoneOrig: 5},
		{Orig: ct.Tuple{Src: a("2001:db8::1"), Dst: a("2001:db8::2"), Proto: ct.ICMPv6, ICMPType: 128, ICMPID: 9},
			Reply: ct.Tuple{Src: a("2001:db8::2"), Dst: a("2001:db8::1"), Proto: ct.ICMPv6, ICMPType: 129, ICMPID: 9}, Zone: 7},
	}
}

func parseAll(b []byte) (all []Entry, err error) {
	for {
		e, rest, ok, err := Next(b)
		if err != nil || !ok {
			return all, err
		}
		all, b = append(all, e), rest
	}
}

func TestEntriesRoundTrip(t *testing.T) {
	var b []byte
	for _, e := range samples() {
		b = Append(b, &e)
	}
	got, err := parseAll(b)
	if err != nil || !reflect.DeepEqual(got, samples()) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = parseAll(b[:len(b)-1]); err != nil || len(got) != 1 {
		t.Errorf("a half-written end: %d entries, %v", len(got), err)
	}
}

func FuzzNext(f *testing.F) {
	var b []byte
	for _, e := range samples() {
		b = Append(b, &e)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseAll(b)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range all {
			again = Append(again, &e)
		}
		if back, err := parseAll(again); err != nil || !reflect.DeepEqual(back, all) {
			t.Errorf("%v\nbecame\n%v, %v", all, back, err)
		}
	})
}
