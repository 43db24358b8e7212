package flowexpr

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// samples are flows of every shape that fields tell apart.
func samples() map[string]*ct.Flow {
	tcp := &ct.Flow{
		Orig:   ct.Tuple{Src: addr("10.1.2.3"), Dst: addr("192.0.2.80"), Proto: ct.TCP, SrcPort: 40000, DstPort: 443},
		Reply:  ct.Tuple{Src: addr("192.0.2.80"), Dst: addr("10.1.2.3"), Proto: ct.TCP, SrcPort: 443, DstPort: 40000},
		Status: ct.StatusSeenReply | ct.StatusAssured | ct.StatusConfirmed, State: ct.TCPEstablished,
		Fields: ct.HasTimeout | ct.HasProtoInfo | ct.HasMark | ct.HasID | ct.HasCounters, TimeoutSeconds: 400000,
		Mark: 0x12, ID: 7, OrigCounters: ct.DirCounters{Packets: 3, Bytes: 300}, ReplyCounters: ct.DirCounters{Packets: 2, Bytes: 4000},
	}
	nat := &ct.Flow{
		Orig:   ct.Tuple{Src: addr("192.168.1.5"), Dst: addr("192.0.2.80"), Proto: ct.UDP, SrcPort: 5353, DstPort: 53},
		Reply:  ct.Tuple{Src: addr("192.0.2.80"), Dst: addr("203.0.113.1"), Proto: ct.UDP, SrcPort: 53, DstPort: 61000},
		Status: ct.StatusConfirmed | ct.StatusSrcNAT | ct.StatusSrcNATDone, Fields: ct.HasTimeout | ct.HasZone, TimeoutSeconds: 20, Zone: 5,
	}
	ping := &ct.Flow{
		Orig:   ct.Tuple{Src: addr("2001:db8::1"), Dst: addr("2001:db8::2"), Proto: ct.ICMPv6, ICMPType: 128, ICMPID: 99},
		Reply:  ct.Tuple{Src: addr("2001:db8::2"), Dst: addr("2001:db8::1"), Proto: ct.ICMPv6, ICMPType: 129, ICMPID: 99},
		Status: ct.StatusSeenReply | ct.StatusConfirmed, Fields: ct.HasTimeout | ct.HasLabels, TimeoutSeconds: 29, Labels: [16]byte{0: 8},
	}
	off := &ct.Flow{
		Orig:   ct.Tuple{Src: addr("10.1.2.4"), Dst: addr("192.0.2.80"), Proto: ct.TCP, SrcPort: 1, DstPort: 22},
		Reply:  ct.Tuple{Src: addr("192.0.2.80"), Dst: addr("10.1.2.4"), Proto: ct.TCP, SrcPort: 22, DstPort: 1},
		Status: ct.StatusSeenReply | ct.StatusAssured | ct.StatusConfirmed | ct.StatusOffload, Fields: ct.HasHelper, Helper: "ftp",
	}
	return map[string]*ct.Flow{"tcp": tcp, "nat": nat, "ping": ping, "off": off}
}

func context() *Context {
	t := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	return &Context{Timeouts: &t, NowNanos: time.Unix(1_800_000_000, 0).UnixNano()}
}

func selected(s *Filter) string {
	var names []string
	for _, n := range []string{"tcp", "nat", "ping", "off"} {
		if s.Match(samples()[n], context()) {
			names = append(names, n)
		}
	}
	return strings.Join(names, " ")
}

func TestCompileSelects(t *testing.T) {
	for _, tc := range []struct{ source, want string }{
		{`true`, "tcp nat ping off"},
		{`proto == "tcp"`, "tcp off"},
		{`proto == 6`, "tcp off"},
		{`proto in ["udp", 58]`, "nat ping"},
		{`src in 10.0.0.0/8`, "tcp off"},
		{`src in [10.1.2.3, 2001:db8::/32]`, "tcp ping"},
		{`src == 10.1.2.3`, "tcp"},
		{`10.1.2.3 == src`, "tcp"},
		{`src == "10.1.2.3"`, "tcp"},
		{`src != 10.1.2.3`, "nat ping off"},
		{`src not in 10.0.0.0/8`, "nat ping"},
		{`src == ::1 || dst == 2001:db8::2`, "ping"},
		{`dport in 400..500`, "tcp"},
		{`dport in [22, 53, 440..443]`, "tcp nat off"},
		{`443 >= dport && dport > 53`, "tcp"},
		{`dport != 443`, "nat off"}, // a ping has no port
		{`!(dport == 443)`, "nat off"},
		{`has(dport)`, "tcp nat off"},
		{`!has(dport) && family == "ipv6"`, "ping"},
		{`state == "ESTABLISHED"`, "tcp"}, // unknown while offloaded
		{`state != "SYN_SENT"`, "tcp"},
		{`state in ["syn_sent", "established"]`, "tcp"},
		{`nat`, "nat"},
		{`!nat`, "tcp ping off"},
		{`src_nat and not dst_nat`, "nat"},
		{`assured`, "tcp off"},
		{`unreplied`, "nat"},
		{`"ASSURED" in status`, "tcp off"},
		{`not ("ASSURED" in status)`, "nat ping"},
		{`offloaded`, "off"},
		{`timeout > 1h`, "tcp"},
		{`timeout <= 30s`, "nat ping"},
		{`timeout in 10s..25s`, "nat"},
		{`has(timeout)`, "tcp nat ping"},
		{`idle_min > 8h`, "tcp"},
		{`!(idle_min > 100d)`, "tcp nat ping"},
		{`idle_min < 1m`, "nat ping"},
		{`age > 1s`, ""},
		{`!(age > 1s)`, ""},
		{`mark == 0x12`, "tcp"},
		{`mark == 0x10/0xf0`, "tcp"},
		{`mark != "0x10/0xf0"`, "nat ping off"},
		{`bitand(mark, 2) != 0`, "tcp"},
		{`zone == 5`, "nat"},
		{`3 in labels`, "ping"},
		{`4 in labels`, ""},
		{`helper == "ftp"`, "off"},
		{`helper startsWith "f"`, "off"},
		{`icmp_type == 128`, "ping"},
		{`bytes > 1000`, "tcp"},
		{`bytes <= 1000`, ""},
		{`reply_bytes > 10 * orig_bytes`, "tcp"},
		{`reply_bytes / 0 > 1 || !(reply_bytes / 0 > 1)`, ""},
		{`src == reply_dst`, "tcp ping off"},
		{`sport > dport`, "tcp nat"},
		{`timeout + 1h30m > 5m * 20`, "tcp"},
		{`proto == "tcp" && idle_min > 1h && src in 10.0.0.0/8 && !nat`, "tcp"},
	} {
		s, err := Compile(tc.source)
		if err != nil {
			t.Errorf("%s: %v", tc.source, err)
			continue
		}
		if got := selected(s); got != tc.want {
			t.Errorf("%s selects %q, want %q", tc.source, got, tc.want)
		}
	}
}

// TestUnknownNeverMatches states the rule for each way to be unknown.
func TestUnknownNeverMatches(t *testing.T) {
	f := samples()["off"]
	for _, cond := range []string{`idle_min > 1h`, `timeout > 1h`, `state == "ESTABLISHED"`,
		`bytes == 0`, `age > 1s`, `icmp_type == 8`, `secctx == ""`, `id == 0`} {
		for _, source := range []string{cond, "!(" + cond + ")", cond + " && true", "!(" + cond + ") || false"} {
			s, err := Compile(source)
			if err != nil {
				t.Fatal(err)
			}
			if s.Match(f, context()) {
				t.Errorf("%s matches though it is unknown", source)
			}
		}
	}
	without := context()
	without.Timeouts = nil
	for _, source := range []string{`idle_min >= 0s`, `!(idle_min >= 0s)`} {
		if s, _ := Compile(source); s.Match(samples()["tcp"], without) {
			t.Errorf("%s matches without timeouts", source)
		}
	}
}

// TestFormerTimeoutsLessenIdleness: an entry armed with 600 s looks days idle
// after the timeout was raised.
func TestFormerTimeoutsLessenIdleness(t *testing.T) {
	f := samples()["tcp"]
	f.TimeoutSeconds = 500
	s, _ := Compile(`idle_min > 1h`)
	c := context()
	if !s.Match(f, c) {
		t.Fatal("not idle by today's timeouts")
	}
	former := *c.Timeouts
	former.Set(ct.TimeoutTCPEstablished, 600)
	c.Former = []ct.Timeouts{former}
	if s.Match(f, c) {
		t.Error("idle though a former timeout explains it")
	}
	if !s.Uses("idle_min") || s.Uses("src") {
		t.Error("fields used are wrong")
	}
}

func TestCompileErrors(t *testing.T) {
	for _, tc := range []struct {
		source string
		column int
		part   string
	}{
		{``, 1, "something is missing"},
		{`src in 10.0.0.0/8 && idle > 1h`, 22, "did you mean idle_min?"},
		{`src in 10.0.0.0/33`, 8, "is no prefix"},
		{`src == 10.0.0.0/8`, 8, "write src in 10.0.0.0/8"},
		{`proto == tcp`, 10, "quotation marks"},
		{`proto == "tpc"`, 10, `unknown protocol "tpc"`},
		{`state == "OPENED"`, 10, "unknown state"},
		{`idle_min > 3600`, 10, "carry a unit"},
		{`dport > 1h`, 9, "is a duration"},
		{`dport`, 1, "compare it"},
		{`nat == "yes"`, 8, "write it alone"},
		{`len(src) > 3`, 1, "only functions"},
		{`src.dst`, 5, "not part of the language"},
		{`1 == 1`, 3, "both sides are fixed"},
		{`dport in 80..22`, 12, "empty"},
		{`dport in []`, 10, "empty"},
		{`mark == 0x100/0xff`, 9, "outside its mask"},
		{`src > dst`, 5, "no order"},
		{`200 in labels`, 1, "0 to 127"},
		{`timeout * timeout > 1h`, 9, "cannot join"},
		{`proto == "tcp" &&`, 17, "something is missing"},
		{`src = 10.0.0.1`, 5, "written =="},
		{`idle_min > 1hour`, 13, "durations are written"},
		{"src == \xff", 1, "UTF-8"},
		{strings.Repeat("(", maxSource+1), 1, "longer"},
	} {
		_, err := Compile(tc.source)
		e, ok := err.(*Error)
		if !ok {
			t.Errorf("%.40q: error %v, want *Error", tc.source, err)
			continue
		}
		if e.Column != tc.column || !strings.Contains(e.Reason, tc.part) {
			t.Errorf("%.40q: column %d, %q; want column %d, …%s…", tc.source, e.Column, e.Reason, tc.column, tc.part)
		}
	}
}

func TestKernelPart(t *testing.T) {
	s, err := (&Flags{Proto: "tcp", Src: "10.1.2.3", DPort: "443", Where: `assured && !src_nat && mark == 0x2/0x3 && timeout > 1s`}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	want := Kernel{Family: 4, Proto: ct.Known(6), Src: addr("10.1.2.3"), DstPort: ct.Known(443),
		Mark: Mark{2, 3}, Status: ct.StatusAssured, Mask: ct.StatusAssured | ct.StatusSrcNAT}
	if got := s.Kernel(); got != want {
		t.Errorf("kernel part %+v, want %+v", got, want)
	}
	s, err = (&Flags{Src: "10.0.0.0/8", Where: `src in 10.1.0.0/16 && dst in [2001:db8::/32, 10.0.0.0/8]`}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Kernel(), (Kernel{Family: 4, SrcNet: netip.MustParsePrefix("10.1.0.0/16")}); got != want {
		t.Errorf("kernel part %+v, want %+v", got, want)
	}
	if s, _ = Compile(`src in 10.1.0.0/16 && src in 10.2.0.0/16`); !s.Kernel().Never() {
		t.Error("two prefixes apart were not seen to contradict each other")
	}
	if s, _ = Compile(`proto == "tcp" || nat`); !s.Kernel().IsZero() {
		t.Errorf("a choice gave the kernel %+v", s.Kernel())
	}
	if s, _ = Compile(`assured && "ASSURED" not in status`); !s.Kernel().Never() {
		t.Error("a contradiction was not seen")
	}
}

// permits is what the kernel would let through, by its own comparison.
func permits(k Kernel, f *ct.Flow) bool {
	o := &f.Orig
	return !k.never &&
		(k.Family == 0 || (k.Family == 4) == o.Is4()) &&
		(!k.Proto.Known || k.Proto.N == int64(o.Proto)) &&
		(!k.Src.IsValid() || k.Src == o.Src) && (!k.Dst.IsValid() || k.Dst == o.Dst) &&
		(!k.SrcNet.IsValid() || k.SrcNet.Contains(o.Src)) && (!k.DstNet.IsValid() || k.DstNet.Contains(o.Dst)) &&
		(!k.SrcPort.Known || k.SrcPort.N == int64(o.SrcPort)) &&
		(!k.DstPort.Known || k.DstPort.N == int64(o.DstPort)) &&
		f.Mark&k.Mark.Mask == k.Mark.Value &&
		(!k.Zone.Known || k.Zone.N == int64(max(f.Zone, f.ZoneOrig, f.ZoneReply))) &&
		f.Status&k.Mask == k.Status
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{`proto == "tcp" && idle_min > 1h30m && src in 10.0.0.0/8 && !nat`,
		`dport in [22, 80..90] || mark == 0x1/0xff`, `src in [::1, 2001:db8::/32] and not ("ASSURED" in status)`,
		`bitand(mark, 3) == 1 && reply_bytes / orig_bytes > 10`, `has(state) && state != "SYN_SENT"`,
		`zone == 5 && 3 in labels && helper contains "f"`, `timeout in 1s..2d`, `a ? b : c`, `"unterminated`} {
		f.Add(s)
	}
	flows, ctx := samples(), context()
	f.Fuzz(func(t *testing.T, source string) {
		s, err := Compile(source)
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Column < 1 {
				t.Fatalf("error %#v", err)
			}
			return
		}
		again, err := Compile(s.String())
		if err != nil {
			t.Fatalf("%q compiles and its text %q does not: %v", source, s, err)
		}
		for name, fl := range flows {
			m := s.Match(fl, ctx)
			if m != again.Match(fl, ctx) {
				t.Fatalf("%q: its text selects differently", source)
			}
			if m && !permits(s.Kernel(), fl) {
				t.Fatalf("%q selects %s and the kernel would hide it: %+v", source, name, s.Kernel())
			}
		}
	})
}

func TestMatchAllocatesNothing(t *testing.T) {
	s, err := Compile(`proto in ["tcp", "udp"] && src in [10.0.0.0/8, 192.168.0.0/16] && dport in [22, 53, 440..450] &&
		idle_min >= 0s && state != "CLOSE" && !nat && mark == 0x2/0xf && bytes + 1 > 3`)
	if err != nil {
		t.Fatal(err)
	}
	f, c := samples()["tcp"], context()
	if n := testing.AllocsPerRun(100, func() {
		if !s.Match(f, c) {
			t.Fatal("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations a flow", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	for name, source := range map[string]string{
		"prefix":  `src in 10.0.0.0/8`,
		"typical": `proto == "tcp" && idle_min > 1h && src in 10.0.0.0/8 && !nat`,
		"port":    `dport in [22, 80, 443]`,
	} {
		s, err := Compile(source)
		if err != nil {
			b.Fatal(err)
		}
		f, c := samples()["tcp"], context()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Match(f, c)
			}
		})
	}
}
