package flowfmt

import (
	"encoding/csv"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func sample() *ct.Flow {
	f := &ct.Flow{
		Orig:   ct.Tuple{Src: netip.MustParseAddr("10.1.2.3"), Dst: netip.MustParseAddr("192.0.2.80"), Proto: ct.TCP, SrcPort: 40000, DstPort: 443},
		Reply:  ct.Tuple{Src: netip.MustParseAddr("192.0.2.80"), Dst: netip.MustParseAddr("203.0.113.1"), Proto: ct.TCP, SrcPort: 443, DstPort: 61000},
		Status: ct.StatusSeenReply | ct.StatusAssured | ct.StatusConfirmed | ct.StatusSrcNAT,
		State:  ct.TCPEstablished, TimeoutSeconds: 431990, Mark: 18, ID: 4000000000, Use: 1, Zone: 5,
		OrigCounters: ct.DirCounters{Packets: 3, Bytes: 300}, ReplyCounters: ct.DirCounters{Packets: 2, Bytes: 4000},
		Labels: [16]byte{0: 9, 15: 128}, Helper: `f"tp`, StartNanos: 1_700_000_000_000_000_000,
	}
	f.Fields = ct.HasTimeout | ct.HasProtoInfo | ct.HasMark | ct.HasID | ct.HasUse | ct.HasZone |
		ct.HasCounters | ct.HasLabels | ct.HasHelper | ct.HasTimestamp
	return f
}

func testContext() *Context {
	t := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	return &Context{NowNanos: 1_700_000_100_000_000_000, Timeouts: &t}
}

func TestFormats(t *testing.T) {
	want := map[Format]string{
		Table: "tcp     ESTABLISHED  4d23h    10.1.2.3:40000        192.0.2.80:443        " +
			"snat=203.0.113.1:61000 mark=0x12 zone=5 helper=f\"tp bytes=4300 idle>=9s\n",
		CSV: "ipv4,tcp,ESTABLISHED,431990,9,10.1.2.3,192.0.2.80,40000,443,192.0.2.80,203.0.113.1,443,61000," +
			",,,30,18,5,,,4000000000,3,300,2,4000,\"f\"\"tp\"\n",
		JSON: `{"family":"ipv4","proto":"tcp","state":"ESTABLISHED","timeout_seconds":431990,"idle_min_seconds":9,` +
			`"orig":{"src":"10.1.2.3","dst":"192.0.2.80","sport":40000,"dport":443},` +
			`"reply":{"src":"192.0.2.80","dst":"203.0.113.1","sport":443,"dport":61000},` +
			`"status":["SEEN_REPLY","ASSURED","CONFIRMED","SRC_NAT"],"mark":18,"zone":5,"id":4000000000,"use":1,` +
			`"orig_packets":3,"orig_bytes":300,"reply_packets":2,"reply_bytes":4000,` +
			`"start_nanoseconds":1700000000000000000,"helper":"f\"tp","labels":[0,3,127]}`,
		Conntrack: "ipv4     2 tcp      6 431990 ESTABLISHED src=10.1.2.3 dst=192.0.2.80 sport=40000 dport=443 packets=3 bytes=300 " +
			"src=192.0.2.80 dst=203.0.113.1 sport=443 dport=61000 packets=2 bytes=4000 [ASSURED] mark=18 zone=5 delta-time=100 helper=f\"tp use=1\n",
	}
	for as, w := range want {
		if got := string(testContext().Append(nil, sample(), as)); got != w {
			t.Errorf("%s:\n%s\nwant\n%s", as, got, w)
		}
	}
}

func TestFormatsAreWellFormed(t *testing.T) {
	flows := []*ct.Flow{sample(), {}, {Helper: "\x01\xff", Fields: ct.HasHelper}}
	for _, f := range flows {
		if b := testContext().AppendJSON(nil, f); !json.Valid(b) {
			t.Errorf("not JSON: %s", b)
		}
		r := csv.NewReader(strings.NewReader(csvHeader + string(testContext().AppendCSV(nil, f))))
		if _, err := r.ReadAll(); err != nil {
			t.Errorf("CSV: %v", err)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	f, c := sample(), testContext()
	buf := make([]byte, 0, 4096)
	for as := range Format(len(formatNames)) {
		if n := testing.AllocsPerRun(50, func() { c.Append(buf, f, as) }); n != 0 {
			t.Errorf("%s: %v allocations an entry", as, n)
		}
	}
}

func TestAppendAddrAsInetNtop(t *testing.T) {
	for in, want := range map[string]string{
		"::": "::", "::1": "::1", "::ffff": "::ffff", "::1:0": "::0.1.0.0", "::c000:201": "::192.0.2.1",
		"::ffff:192.0.2.1": "::ffff:192.0.2.1", "2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1",
		"2001:db8::1:0:0:1": "2001:db8::1:0:0:1", "fe80::1": "fe80::1", "10.0.0.1": "10.0.0.1",
	} {
		if got := string(AppendAddr(nil, netip.MustParseAddr(in))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestAppendSeconds(t *testing.T) {
	for s, want := range map[int64]string{0: "0s", 59: "59s", 60: "1m", 61: "1m1s", 3600: "1h", 3660: "1h1m",
		3601: "1h", 86400: "1d", 431999: "4d23h", 2147483: "24d20h"} {
		if got := string(AppendSeconds(nil, s)); got != want {
			t.Errorf("%d: %s, want %s", s, got, want)
		}
	}
}
