package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// tree makes a recorded tree of the given settings.
func tree(t *testing.T, settings map[string]string) Tree {
	t.Helper()
	tr := Tree{Root: t.TempDir()}
	for name, v := range settings {
		p, err := tr.Path(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(v+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"net.netfilter.nf_conntrack_max":           "net.netfilter.nf_conntrack_max",
		"net/netfilter/nf_conntrack_max":           "net.netfilter.nf_conntrack_max",
		"/proc/sys/net/netfilter/nf_conntrack_max": "net.netfilter.nf_conntrack_max",
		"net.ipv4.conf.eth0/1.forwarding":          "net.ipv4.conf.eth0/1.forwarding",
		"net/ipv4/conf/eth0.1/forwarding":          "net.ipv4.conf.eth0/1.forwarding",
	} {
		if got := Normalize(in); got != want {
			t.Errorf("Normalize(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPathStaysInside(t *testing.T) {
	for _, name := range []string{"", ".", "..", "net/../../etc/passwd", "net..x", "/etc/passwd", "a/", "net.\x00"} {
		if p, err := (Tree{}).Path(name); !errors.Is(err, ErrBadName) {
			t.Errorf("Path(%q) = %q, %v; want ErrBadName", name, p, err)
		}
	}
	p, err := Tree{}.Path("net.ipv4.conf.eth0/1.forwarding")
	if want := "/proc/sys/net/ipv4/conf/eth0.1/forwarding"; p != want || err != nil {
		t.Errorf("Path = %q, %v; want %q", p, err, want)
	}
}

func TestErasOfNames(t *testing.T) {
	for name, want := range map[string][]string{
		"net.ipv4.ip_conntrack_max":                         {Max, modernMax, classic + "max", classicMax},
		"net/nf_conntrack_max":                              {Max, modernMax, classic + "max", classicMax},
		"net.ipv4.netfilter.ip_conntrack_tcp_timeout_close": {modern + "tcp_timeout_close", classic + "tcp_timeout_close"},
		"net.core.message_cost":                             {"net.core.message_cost"},
	} {
		if got := Aliases(name); !slices.Equal(got, want) {
			t.Errorf("Aliases(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestFindTheLiveName(t *testing.T) {
	old := tree(t, map[string]string{
		"net.ipv4.ip_conntrack_max":                               "65536",
		"net.ipv4.netfilter.ip_conntrack_tcp_timeout_established": "432000",
	})
	for asked, want := range map[string]string{
		Max:                                   "net.ipv4.ip_conntrack_max",
		TimeoutName(ct.TimeoutTCPEstablished): "net.ipv4.netfilter.ip_conntrack_tcp_timeout_established",
	} {
		if got, err := old.Find(asked); got != want || err != nil {
			t.Errorf("Find(%q) = %q, %v; want %q", asked, got, err, want)
		}
	}
	if _, err := old.Find(Buckets); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find(%q): %v; want fs.ErrNotExist", Buckets, err)
	}
}

func TestList(t *testing.T) {
	tr := tree(t, map[string]string{
		"net.netfilter.nf_conntrack_max": "1", "net.nf_conntrack_max": "1",
		"net.netfilter.nf_log_all_netns": "0", "net.netfilter.nf_log/2": "NONE",
		"net.netfilter.nf_flowtable_tcp_timeout": "30",
		"net.ipv4.ip_conntrack_max":              "1", "net.ipv4.ip_forward": "0",
	})
	got, err := tr.List()
	want := []string{"net.ipv4.ip_conntrack_max", "net.netfilter.nf_conntrack_max",
		"net.netfilter.nf_flowtable_tcp_timeout", "net.nf_conntrack_max"}
	if !slices.Equal(got, want) || err != nil {
		t.Errorf("List() = %q, %v; want %q", got, err, want)
	}
	if got, err := (Tree{Root: t.TempDir()}).List(); len(got) > 0 || err != nil {
		t.Errorf("List() of nothing = %q, %v", got, err)
	}
}

func TestWriteReadsBack(t *testing.T) {
	tr := tree(t, map[string]string{Max: "10", Buckets: "512"})
	if got, err := tr.Write(Max, "4096"); got != "4096" || err != nil {
		t.Errorf("Write = %q, %v", got, err)
	}
	if n, err := tr.Int(Max); n != 4096 || err != nil {
		t.Errorf("Int = %d, %v", n, err)
	}
	if _, err := tr.Write("net.netfilter.nf_conntrack_none", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a write made a file: %v", err)
	}
}

func TestTaken(t *testing.T) {
	heads := roundBuckets(1)
	for _, c := range []struct {
		name, want, got string
		ok              bool
	}{
		{Max, "5", "5", true}, {Max, "0x10", "16", true}, {Max, "5", "6", false},
		{"net.ipv4.tcp_mem", "1 2 3", "1\t2\t3", true}, {Max, "x", "5", false},
		{Buckets, "1", itoa(heads), true}, {Buckets, "1", itoa(2 * heads), false},
		{Max, "1", itoa(heads), false},
	} {
		if ok := taken(c.name, c.want, c.got); ok != c.ok {
			t.Errorf("taken(%s, %q, %q) = %v", c.name, c.want, c.got, ok)
		}
	}
}

func TestNumbersOutOfRange(t *testing.T) {
	tr := tree(t, map[string]string{
		"net.a": "99999999999999999999", "net.b": "", "net.c": "\x00\xff",
		"net.d": "-1", "net.e": strings.Repeat("1", 1<<20),
	})
	for _, name := range []string{"net.a", "net.b", "net.c", "net.e"} {
		if n, err := tr.Int(name); err == nil {
			t.Errorf("Int(%s) = %d", name, n)
		}
	}
	if n, err := tr.Int("net.d"); n != -1 || err != nil {
		t.Errorf("Int = %d, %v", n, err)
	}
}

func TestGauge(t *testing.T) {
	tr := tree(t, map[string]string{"net.ipv4.netfilter.ip_conntrack_count": "7"})
	g, err := tr.Open(Count)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if n, err := g.Int(); n != 7 || err != nil {
		t.Errorf("Int = %d, %v", n, err)
	}
	if _, err := tr.Write("net.ipv4.netfilter.ip_conntrack_count", "123456"); err != nil {
		t.Fatal(err)
	}
	if n, err := g.Int(); n != 123456 || err != nil {
		t.Errorf("Int after a change = %d, %v", n, err)
	}
	if a := testing.AllocsPerRun(100, func() { _, _ = g.Int() }); a > 1 {
		t.Errorf("%v allocations a reading", a)
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/x", "..", "/proc/sys/a", ""} {
		f.Add(s)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, name string) {
		n := Normalize(name)
		if c := Canonical(n); Canonical(c) != c {
			t.Errorf("Canonical(%q) is not stable", name)
		}
		p, err := Tree{Root: root}.Path(name)
		if err == nil && !strings.HasPrefix(p, root+"/proc/sys/") {
			t.Errorf("Path(%q) = %q leaves the tree", name, p)
		}
	})
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
