package explain

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden are the texts whose whole explanation is kept, by file.
var golden = []struct{ file, text, kernel string }{
	{"table-full", "Nov 22 10:00:00 gw kernel: nf_conntrack: nf_conntrack: table full, dropping packet", "6.1"},
	{"table-full-netns", "[ 12.5] nf_conntrack: nf_conntrack: table full in netns 4026532245, dropping packet", "6.18"},
	{"question-of-origin", "    kernel: nf_conntrack: table full, dropping packet.\n    kernel: __ratelimit: 15812 callbacks suppresse", "6.18"},
	{"expectation-table-full", "nf_conntrack: expectation table full", "6.18"},
	{"neighbour-overflow", "Neighbour table overflow", "6.18"},
	{"syn-flood", "TCP: request_sock_TCP: Possible SYN flooding on port 10.88.0.1:80. Sending cookies.", "6.18"},
	{"setting-not-applied", "systemd-sysctl[310]: Couldn't write '262144' to 'net/netfilter/nf_conntrack_max', ignoring: No such file or directory", "6.18"},
	{"sendto", "sendto: Operation not permitted", "6.18"},
	{"security", "no security implication?", "6.18"},
	{"reject-or-drop", "reject or drop?", "6.18"},
	{"memory", "why is the table full when memory is nearly empty?", "6.18"},
	{"timeouts", "Should I shorten the timeouts, generic 600 to 120, established to 54000?", "6.18"},
	{"names", "names differ: sysctl --names --all | grep -i conntrack", "6.18"},
	{"counters", "what do the counters in /proc mean, in real time?", "6.18"},
	{"notrack", "Can I disable tracking?", "6.18"},
	{"ufw", "Does this affect ufw?", "6.18"},
	{"old-name", "net.ipv4.netfilter.ip_conntrack_tcp_timeout_established=600", "6.18"},
	{"old-name-old-kernel", "/proc/sys/net/ipv4/netfilter/ip_conntrack_tcp_timeout_close_wait", "2.6.18"},
	{"insert-old", "insert", "4.4"},
	{"insert-new", "insert", "6.18"},
	{"any-kernel", "nf_conntrack_udp_timeout_stream", ""},
	{"entry", "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 [ASSURED] mark=0 use=1", "6.18"},
	{"stat-line", "cpu=0 found=1 invalid=2 insert=0 insert_failed=3 drop=4 early_drop=5 error=6 search_restart=7 clash_resolve=8 chaintoolong=9", "6.18"},
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.file, func(t *testing.T) {
			var b strings.Builder
			b.WriteString("$ explain (kernel " + g.kernel + ")\n" + g.text + "\n\n")
			if err := Write(&b, For(g.text, version(g.kernel)), 80); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", g.file+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
			}
		})
	}
}

// TestFinds lists what must lead where: the first topic, or all of them.
func TestFinds(t *testing.T) {
	for text, want := range map[string]string{
		"ip_conntrack: table full, dropping packet.":                                    "table-full",
		"net_ratelimit: 496 callbacks suppressed":                                       "suppressed",
		"printk: 12 messages suppressed.":                                               "suppressed",
		"nfs_write: 12 callbacks suppressed":                                            "suppressed-private",
		"TCP: out of memory -- consider tuning tcp_mem":                                 "socket-memory",
		"TCP: too many orphaned sockets":                                                "orphaned-sockets",
		"neighbour: arp_cache: neighbor table overflow!":                                "neighbour-overflow",
		"nf_ct_proto_6: invalid rst IN= OUT=eth0":                                       "invalid-packet",
		"nf_ct_ftp: dropping packet: cannot add expectation ":                           "helper-drop",
		"nf_conntrack version 0.5.0 (65536 buckets, 262144 max)":                        "loaded",
		"nf_conntrack: falling back to vmalloc.":                                        "buckets-fell-back",
		"sysctl: cannot stat /proc/sys/net/netfilter/nf_conntrack_max: No such file":    "setting-not-applied",
		"ping: sendmsg: Operation not permitted":                                        "operation-not-permitted",
		"write udp 10.0.0.1:53: sendto: operation not permitted":                        "operation-not-permitted",
		"conntrack v1.4.7: Operation failed: Cannot allocate memory":                    "cannot-allocate-memory",
		"recvmsg: No buffer space available":                                            "no-buffer-space",
		"connect: Cannot assign requested address":                                      "cannot-assign-address",
		"sysctl: setting key \"net.netfilter.nf_conntrack_max\": Read-only file system": "read-only",
		"error: \"net.ipv4.netfilter.ip_conntrack_max\" is an unknown key":              "unknown-key",
		"net.netfilter.nf_conntrack_count":                                              "count",
		"net.nf_conntrack_max = 0":                                                      "max",
		"net.ipv4.ip_conntrack_max":                                                     "max",
		"/sys/module/nf_conntrack/parameters/hashsize":                                  "buckets",
		"options nf_conntrack hashsize=65536":                                           "buckets",
		"conntrack -F":                                                                  "flush",
		"drop":                                                                          "counter-drop",
		"node_nf_conntrack_stat_early_drop":                                             "counter-early-drop",
		"clashres":                                                                      "counter-clash-resolve",
		"chainlength":                                                                   "counter-chaintoolong",
		"[UNREPLIED]":                                                                   "unreplied",
		"ASSURED":                                                                       "assured",
		"new":                                                                           "counter-new,ct-new",
		"invalid":                                                                       "counter-invalid,ct-invalid",
		"ct state untracked":                                                            "ct-untracked",
		"HW_OFFLOAD":                                                                    "offload",
		"Raise nf_conntrack_max at the expense of memory":                               "raise-max",
		"hashsize = max / 4":                                                            "hashsize-ratio",
		"Too high a value can freeze the system":                                        "too-high",
		"Switch tracking off: possible on a server, never on a NAT router":              "notrack-safe",
		"Make it permanent: append to /etc/sysctl.conf":                                 "make-permanent",
		"Apply it temporarily, watch the log, revert if it does not help":               "try-first",
		"Lower the NAT timeouts against malicious users behind the NAT":                 "nat-users",
		"for i in close_wait fin_wait time_wait; do sysctl …=60; revert to 120 and 262144": "revert-values",
		"Reject rather than drop, so that no entry lingers":                                "reject-or-drop",
		"No security implication other than denial of service":                             "security",
		"The table is full; memory may be nearly empty":                                    "memory-empty",
		"what is the weather": "",
		"":                    "",
	} {
		var ids []string
		for _, topic := range For(text, version("6.18")) {
			ids = append(ids, topic.ID)
		}
		if got := strings.Join(ids, ","); got != want {
			t.Errorf("%q leads to %q, want %q", text, got, want)
		}
	}
}

// TestNothingIsMissing holds the tables against the lists of the other packages.
func TestNothingIsMissing(t *testing.T) {
	var want []string
	for k := range ct.NumTimeouts {
		want = append(want, "net.netfilter.nf_conntrack_"+k.String())
	}
	for s := ct.State(0); s < ct.NumTCPStates; s++ {
		if name := ct.StateName(ct.TCP, s); name != "NONE" {
			want = append(want, name)
		}
	}
	for bit := range 16 {
		want = append(want, ct.Status(1<<bit).String())
	}
	all := ct.Counters{Has: ^ct.CounterSet(0)}
	for name := range all.All {
		want = append(want, name)
	}
	for _, name := range want {
		if len(For(name, version("6.18"))) == 0 {
			t.Errorf("%s is not explained", name)
		}
	}
	for k := klog.TableFull; !strings.HasPrefix(k.String(), "kind-"); k++ {
		if find(messages, k.String()) == nil {
			t.Errorf("the message %v is not explained", k)
		}
	}
}

var rangePattern = regexp.MustCompile(`^\[(\d+\.\d+)?-(\d+\.\d+)?\] `)

func TestTables(t *testing.T) {
	ids := map[string]bool{}
	for _, table := range tables {
		for _, e := range table.entries {
			if ids[e.id] {
				t.Errorf("two entries are called %q", e.id)
			}
			ids[e.id] = true
			for _, s := range slices.Concat(e.means, e.not, e.do, strings.Split(e.answer, "|")) {
				if strings.HasPrefix(s, "[") && !rangePattern.MatchString(s) {
					t.Errorf("%s: %q begins with a bracket that is no range", e.id, s)
				}
				if _, text := splitRange(s); text == "" || !strings.HasSuffix(text, ".") {
					t.Errorf("%s: %q is no sentence", e.id, s)
				}
			}
			for _, n := range e.names {
				if got, _ := normalize(n); got != n && table.group != "question" && table.group != "message" {
					t.Errorf("%s: the name %q is never found; it is looked up as %q", e.id, n, got)
				}
			}
			for _, v := range []string{"2.6", "4.4", "5.10", "6.18"} {
				if tp := (&finder{version: version(v)}).topic("", &e); tp.Answer == "" {
					t.Errorf("%s has no answer for %s", e.id, v)
				}
			}
		}
	}
}

func TestSuggest(t *testing.T) {
	for text, want := range map[string]string{
		"tabel ful": "table full", "nf_conntrak_max": "nf_conntrack_max", "earlydrop": "early_drop", "asured": "assured",
	} {
		if got := Suggest(text); len(got) == 0 || got[0] != want {
			t.Errorf("Suggest(%q) = %q, want %q first", text, got, want)
		}
	}
	if got := Suggest("zzzz"); len(got) != 0 {
		t.Errorf("Suggest of nothing like anything: %q", got)
	}
}

func FuzzFor(f *testing.F) {
	for _, g := range golden {
		f.Add(g.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, topic := range For(text, ct.KernelVersion{}) {
			if topic.Answer == "" || topic.ID == "" {
				t.Fatalf("empty topic %+v", topic)
			}
		}
		if len(Suggest(text)) > 5 {
			t.Fatal("too many suggestions")
		}
	})
}
