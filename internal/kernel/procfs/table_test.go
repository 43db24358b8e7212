package procfs

import (
	"os"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func TestTableLines(t *testing.T) {
	const full = ct.HasMark | ct.HasZone | ct.HasUse
	for name, c := range map[string]struct {
		line           string
		tuple, reply   string
		status         ct.Status
		fields         ct.Fields
		state          ct.State
		left           uint32
		packets, bytes uint64
	}{
		"tcp": {
			line:  "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22 packets=5 bytes=60 src=10.0.0.2 dst=192.0.2.1 sport=22 dport=1 packets=6 bytes=70 [ASSURED] mark=5 zone=0 use=2",
			tuple: "src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22", reply: "src=10.0.0.2 dst=192.0.2.1 sport=22 dport=1",
			status: ct.StatusConfirmed | ct.StatusSeenReply | ct.StatusAssured, state: ct.TCPEstablished, left: 431999,
			fields: full | ct.HasTimeout | ct.HasProtoInfo | ct.HasCounters, packets: 6, bytes: 70,
		},
		"icmp": {
			line:  "ipv4     2 icmp     1 29 src=127.0.0.1 dst=127.0.0.2 type=8 code=0 id=98 src=127.0.0.2 dst=127.0.0.1 type=0 code=0 id=98 mark=0 zone=0 use=2",
			tuple: "src=127.0.0.1 dst=127.0.0.2 type=8 code=0 id=98", reply: "src=127.0.0.2 dst=127.0.0.1 type=0 code=0 id=98",
			status: ct.StatusConfirmed | ct.StatusSeenReply, left: 29, fields: full | ct.HasTimeout,
		},
		"udp over IPv6": {
			line:  "ipv6     10 udp      17 29 src=2001:0db8:0000:0000:0000:0000:0000:0001 dst=2001:0db8:0000:0000:0000:0000:0000:0002 sport=5 dport=53 [UNREPLIED] src=2001:0db8:0000:0000:0000:0000:0000:0002 dst=2001:0db8:0000:0000:0000:0000:0000:0001 sport=53 dport=5 mark=0 zone=3 use=2",
			tuple: "src=2001:db8::1 dst=2001:db8::2 sport=5 dport=53", reply: "src=2001:db8::2 dst=2001:db8::1 sport=53 dport=5",
			status: ct.StatusConfirmed, left: 29, fields: full | ct.HasTimeout,
		},
		"offloaded": {
			line:  "ipv4     2 tcp      6 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22 src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1 [OFFLOAD] mark=0 zone=0 use=3",
			tuple: "src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22", reply: "src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1",
			status: ct.StatusConfirmed | ct.StatusSeenReply | ct.StatusOffload, fields: full,
		},
		"gre": {
			line:  "ipv4     2 gre      47 29 timeout=30, stream_timeout=180 src=10.0.0.1 dst=10.0.0.2 srckey=0x10 dstkey=0x0 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 srckey=0x0 dstkey=0x10 mark=0 zone=0 use=2",
			tuple: "src=10.0.0.1 dst=10.0.0.2 srckey=0x10 dstkey=0x0", reply: "src=10.0.0.2 dst=10.0.0.1 srckey=0x0 dstkey=0x10",
			status: ct.StatusConfirmed, left: 29, fields: full | ct.HasTimeout,
		},
		"unknown protocol": {
			line:  "ipv4     2 unknown  50 599 src=10.0.0.1 dst=10.0.0.2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 mark=0 zone=0 use=2",
			tuple: "src=10.0.0.1 dst=10.0.0.2", reply: "src=10.0.0.2 dst=10.0.0.1",
			status: ct.StatusConfirmed, left: 599, fields: full | ct.HasTimeout,
		},
		"2.6.11": {
			line:  "tcp      6 117 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1 use=1",
			tuple: "src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22", reply: "src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1",
			status: ct.StatusConfirmed, state: ct.TCPSynSent, left: 117, fields: full | ct.HasTimeout | ct.HasProtoInfo,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			err := ParseTable(strings.NewReader(c.line+"\n"), func(f *ct.Flow) error {
				n++
				if f.Orig.String() != c.tuple || f.Reply.String() != c.reply {
					t.Errorf("tuples %s and %s", f.Orig, f.Reply)
				}
				if f.Status != c.status || f.Fields != c.fields || f.State != c.state || f.TimeoutSeconds != c.left {
					t.Errorf("status %v fields %#x state %d left %d", f.Status, f.Fields, f.State, f.TimeoutSeconds)
				}
				if f.ReplyCounters != (ct.DirCounters{Packets: c.packets, Bytes: c.bytes}) {
					t.Errorf("counters %+v", f.ReplyCounters)
				}
				return nil
			})
			if n != 1 || err != nil {
				t.Errorf("%d entries, %v", n, err)
			}
		})
	}
}

func TestTableStopsAndRefuses(t *testing.T) {
	const line = "ipv4 2 icmp 1 29 src=127.0.0.1 dst=127.0.0.2 type=8 code=0 id=98 src=127.0.0.2 dst=127.0.0.1 type=0 code=0 id=98 mark=0 zone=0 use=2\n"
	n := 0
	if err := ParseTable(strings.NewReader(strings.Repeat(line, 3)), func(*ct.Flow) error { n++; return ErrStop }); n != 1 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
	for _, bad := range []string{"x", "ipv4 2 tcp 999 5\n", "ipv4 2 tcp 6 5 SYN_SENT src=10.0.0.1\n",
		"ipv4 2 tcp 6 5 src=10.0.0.1 dst=::1 src=::1 dst=::1\n", line[:60], strings.Repeat("a", maxEntryBytes+1)} {
		if err := ParseTable(strings.NewReader(bad), func(*ct.Flow) error { return nil }); err == nil {
			t.Errorf("%.60q was read", bad)
		}
	}
}

func TestTableOfThisMachine(t *testing.T) {
	if _, err := os.Open("/proc/net/nf_conntrack"); err != nil {
		t.Skip(err)
	}
	if err := (FS{}).Table(func(f *ct.Flow) error { return nil }); err != nil {
		t.Error(err)
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte("ipv4 2 tcp 6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22 src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1 [ASSURED] mark=0 zone=0 use=2\n"))
	f.Add([]byte("tcp 6 117 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1 use=1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = ParseTable(strings.NewReader(string(b)), func(f *ct.Flow) error {
			if !f.Orig.IsValid() || !f.Reply.IsValid() {
				t.Errorf("an entry without tuples: %+v", f)
			}
			return nil
		})
	})
}
