package procfs

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// recorded is the folder of the machines that real kernels were read on.
const recorded = "../../../testdata/proc"

func TestRecordedMachines(t *testing.T) {
	for _, c := range []struct {
		version     string
		drop        uint32
		chainLength bool
		objectBytes int64
		slabBytes   int64
		hashsize    string
	}{
		{"5.10", 0x20, false, 320, 2 * 4096, "8192"},
		{"6.1", 0x20, true, 256, 0, "8192"},
		{"6.12", 0x20, true, 256, 0, "8192"},
		{"7.3", 0x20, true, 256, 2 * 4096, "8192"},
	} {
		t.Run(c.version, func(t *testing.T) {
			f := FS{Root: filepath.Join(recorded, c.version)}
			st, err := f.ConntrackStat()
			if err != nil {
				t.Fatal(err)
			}
			sum := st.Sum()
			if st.Entries != ct.Known(6) || len(st.PerCPU) != 2 {
				t.Errorf("entries %v, %d CPUs, %+v", st.Entries, len(st.PerCPU), sum)
			}
			if got := sum.Drop + sum.EarlyDrop; got != c.drop {
				t.Errorf("drop %d, want %d", got, c.drop)
			}
			if has := sum.Has&ct.CounterChainTooLong != 0; has != c.chainLength {
				t.Errorf("chaintoolong offered: %v", has)
			}
			slab, err := f.ConntrackSlab()
			if err != nil || slab.ObjectBytes != c.objectBytes || c.slabBytes > 0 && slab.Bytes != c.slabBytes {
				t.Errorf("slab %+v, %v", slab, err)
			}
			if p := f.ModuleParams("nf_conntrack"); p["hashsize"] != c.hashsize {
				t.Errorf("parameters %v", p)
			}
			release, err := f.Release()
			if !strings.HasPrefix(release, c.version+".") || err != nil {
				t.Errorf("release %q, %v", release, err)
			}
			if n, err := f.CPUs(); n != 2 || err != nil {
				t.Errorf("CPUs %d, %v", n, err)
			}
			if total, avail, err := f.Meminfo(); total.N != 1004144<<10 || avail.N != 893020<<10 || err != nil {
				t.Errorf("memory %v %v %v", total, avail, err)
			}
			if up, err := f.Uptime(); up != 11 || err != nil {
				t.Errorf("uptime %d %v", up, err)
			}
			m, err := f.Modules()
			if err != nil {
				t.Fatal(err)
			}
			if l, b := m.Offers(); l != ct.Yes || b != ct.No {
				t.Errorf("nf_conntrack loaded %v built in %v", l, b)
			}
			if s := m.State("nf_conntrack_netlink", "ctnetlink_get_conntrack"); s != ModuleAbsent {
				t.Errorf("nf_conntrack_netlink is %v", s)
			}
		})
	}
}

func TestStatOfAllEras(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want ct.Counters
		bad  bool
	}{
		"2.6.11": {text: "entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete\n" +
			"00000001  00000002 00000003 00000004 00000005 00000006 00000007 00000008 00000009 0000000a 0000000b 0000000c 0000000d  0000000e 0000000f 00000010\n",
			want: ct.Counters{Searched: 2, Found: 3, New: 4, Invalid: 5, Ignore: 6, Delete: 7, DeleteList: 8, Insert: 9,
				InsertFailed: 10, Drop: 11, EarlyDrop: 12, Error: 13, ExpectNew: 14, ExpectCreate: 15, ExpectDelete: 16}},
		"future columns": {text: "entries drop quantum early_drop\n1 2 3 4\n1 2 3 4\n", want: ct.Counters{Drop: 4, EarlyDrop: 8}},
		"cut short":      {text: "entries drop early_drop\n1 2 3\n1 5\n", want: ct.Counters{Drop: 7, EarlyDrop: 3}},
		"more than head": {text: "entries drop\n1 2 3 4 5\n", want: ct.Counters{Drop: 2}},
		"wrap":           {text: "entries drop\n1 ffffffff\n1 2\n", want: ct.Counters{Drop: 1}},
		"empty":          {bad: true},
		"no header":      {text: "00000001 00000002\n", bad: true},
		"binary":         {text: "entries drop\n\x00\xff\x01 \x80\n", bad: true},
		"too wide":       {text: "entries drop\n1 100000000\n", bad: true},
		"endless line":   {text: "entries " + strings.Repeat("x", 1<<20), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := ParseStat(strings.NewReader(c.text))
			if (err != nil) != c.bad {
				t.Fatalf("error %v", err)
			}
			got := st.Sum()
			got.Has = 0
			if err == nil && got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// machine makes a recorded machine of the given files.
func machine(t *testing.T, files map[string]string) FS {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return FS{Root: root}
}

func TestModuleStates(t *testing.T) {
	osrelease := map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n"}
	with := func(more map[string]string) map[string]string {
		m := map[string]string{}
		for k, v := range osrelease {
			m[k] = v
		}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  ModuleState
	}{
		"loaded":           {with(map[string]string{"proc/modules": "nf_tables 1 0 - Live 0x0\n"}), ModuleLoaded},
		"in the list":      {with(map[string]string{"proc/modules": "", "lib/modules/6.1.0/modules.builtin": "kernel/net/netfilter/nf_tables.ko\n"}), ModuleBuiltIn},
		"with parameters":  {with(map[string]string{"proc/modules": "", "sys/module/nf_tables/x": ""}), ModuleBuiltIn},
		"by symbol":        {with(map[string]string{"proc/modules": "", "proc/kallsyms": "0000000000000000 t nft_do_chain\n"}), ModuleBuiltIn},
		"symbol of module": {with(map[string]string{"proc/modules": "", "proc/kallsyms": "0 t nft_do_chain\t[nf_tables]\n"}), ModuleAbsent},
		"absent":           {with(map[string]string{"proc/modules": "", "lib/modules/6.1.0/modules.builtin": "kernel/x.ko\n"}), ModuleAbsent},
		"cannot be told":   {with(map[string]string{"proc/modules": ""}), ModuleUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := machine(t, c.files).Modules()
			if err != nil {
				t.Fatal(err)
			}
			if got := m.State("nf_tables", "nft_do_chain"); got != c.want {
				t.Errorf("state %d, want %d", got, c.want)
			}
		})
	}
	if _, err := machine(t, nil).Modules(); err == nil {
		t.Error("a machine without /proc told about its modules")
	}
	m, err := machine(t, osrelease).Modules()
	if err != nil || !m.Monolithic() {
		t.Errorf("a kernel without modules: %v", err)
	}
}

func TestSlabOfNamespaces(t *testing.T) {
	s, err := ParseSlab(strings.NewReader(`slabinfo - version: 2.1
nf_conntrack_ffff880037a54000    30     50    304   26    2 : tunables    0    0    0 : slabdata      2      2      0
nf_conntrack_ffffffff81cd5240    10     26    304   26    2 : tunables    0    0    0 : slabdata      1      1      0
nf_conntrack_expect      0      0    240   17    1 : tunables
kmalloc-128   1 1 128 32 1
`), 4096)
	want := Slab{Objects: 40, ObjectBytes: 304, Bytes: 3 * 2 * 4096}
	if s != want || err != nil {
		t.Errorf("%+v, %v; want %+v", s, err, want)
	}
	if _, err := ParseSlab(strings.NewReader("nf_conntrack_expect 0 0 240 17 1 :\n"), 4096); !errors.Is(err, ErrNoSlab) {
		t.Errorf("no cache: %v", err)
	}
}

func TestInitialNetns(t *testing.T) {
	for want, files := range map[ct.Tri]map[string]string{
		ct.Yes:     {"proc/sys/net/core/message_cost": "5\n", "proc/sys/net/core/somaxconn": "1\n"},
		ct.No:      {"proc/sys/net/core/somaxconn": "1\n"},
		ct.Unknown: {},
	} {
		if got := machine(t, files).InitialNetns(); got != want {
			t.Errorf("%v: got %v, want %v", files, got, want)
		}
	}
}

func TestContainer(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"":               {"proc/1/cgroup": "0::/init.scope\n"},
		"kubernetes":     {"proc/1/cgroup": "0::/kubepods.slice/x\n"},
		"docker":         {".dockerenv": ""},
		"lxc":            {"proc/1/environ": "A=1\x00container=lxc\x00"},
		"systemd-nspawn": {"run/systemd/container": "systemd-nspawn\n"},
	} {
		if got := machine(t, files).Container(); got != want {
			t.Errorf("%v: %q, want %q", files, got, want)
		}
	}
}

func TestAddressesRoutesAndResolvers(t *testing.T) {
	f := machine(t, map[string]string{
		"proc/net/fib_trie": "Main:\n  |-- 192.0.2.0\n     /24 link UNICAST\n  |-- 192.0.2.2\n     /32 host LOCAL\nLocal:\n  |-- 127.0.0.1\n     /32 host LOCAL\n  |-- 192.0.2.2\n     /32 host LOCAL\n",
		"proc/net/if_inet6": "20010db8000000000000000000000005 02 40 00 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\nzz\n",
		"proc/net/route":    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\neth0\t000200C0\t00000000\t1\t0\t0\t0\t00FFFFFF\n",
		"proc/net/ipv6_route": "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 1 0 3 eth0\n" +
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 1 0 200200 lo\n",
		"etc/resolv.conf":                  "# x\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver bad\noptions edns0\n",
		"run/systemd/resolve/resolv.conf":  "nameserver 198.51.100.1\n",
		"etc/netns/ctw-a/resolv.conf":      "nameserver 198.51.100.9\n",
		"proc/net/nf_conntrack_expect":     "1 a\n2 b\n",
		"proc/net/ip_tables_names":         "nat\nfilter\n",
		"proc/sys/net/core/message_burst":  "10\n",
		"proc/sys/net/ipv4/ip_conntrack_x": "",
	})
	check := func(what string, got []netip.Addr, err error, want ...string) {
		t.Helper()
		var w []netip.Addr
		for _, s := range want {
			w = append(w, netip.MustParseAddr(s))
		}
		if !slices.Equal(got, w) || err != nil {
			t.Errorf("%s: %v, %v; want %v", what, got, err, w)
		}
	}
	got, err := f.Addresses()
	check("addresses", got, err, "192.0.2.2", "2001:db8::5")
	got, err = f.Gateways()
	check("gateways", got, err, "192.0.2.1", "fe80::1")
	got, err = f.Nameservers("")
	check("nameservers", got, err, "127.0.0.53", "198.51.100.1", "fe80::1")
	got, err = f.Nameservers("ctw-a")
	check("nameservers of a namespace", got, err, "198.51.100.9")
	if n, err := f.ExpectCount(); n != 2 || err != nil {
		t.Errorf("expectations %d, %v", n, err)
	}
	if v4, v6, err := f.IPTables(); !slices.Equal(v4, []string{"nat", "filter"}) || len(v6) > 0 || err != nil {
		t.Errorf("tables %v %v %v", v4, v6, err)
	}
}

func TestNetnsNumber(t *testing.T) {
	if n, err := ParseNetns("net:[4026531840]"); n != 4026531840 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "net:[]", "net:[x]", "mnt:[1]", "net:[1", "net:[-1]"} {
		if _, err := ParseNetns(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestThisMachine(t *testing.T) {
	var f FS
	if _, err := f.NetnsInode(); err != nil {
		t.Error(err)
	}
	if n, err := f.CPUs(); n < 1 || err != nil {
		t.Errorf("CPUs %d, %v", n, err)
	}
	if _, err := f.Addresses(); err != nil {
		t.Error(err)
	}
	if total, _, err := f.Meminfo(); !total.Known || err != nil {
		t.Errorf("memory %v, %v", total, err)
	}
	own := FS{Pid: os.Getpid()}
	a, errA := f.NetnsInode()
	b, errB := own.NetnsInode()
	if a != b || errA != nil || errB != nil {
		t.Errorf("namespace %d by thread, %d by process: %v %v", a, b, errA, errB)
	}
}

func FuzzParsers(f *testing.F) {
	for _, s := range []string{
		"", "entries drop\n1 2\n", "nf_conntrack 24 24 320 12 1 : tunables\n", "MemTotal: 5 kB\n",
		"nf_conntrack 9223372036854775807 9223372036854775807 9223372036854775807 1 9223372036854775807 :\n",
		"cpu0 1\ncpu1 2\n", "eth0 00000000 010200C0 3 0 0 0 00000000\n", "|-- 192.0.2.2\n/32 host LOCAL\n",
		"nameserver 192.0.2.1\n", "00000000000000000000000000000000 00 0 0 fe800000000000000000000000000001\n",
		"nf_tables 1 0 - Live 0x0\n", "0 t nft_do_chain\n", "net:[1]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := func() io.Reader { return strings.NewReader(string(b)) }
		if st, err := ParseStat(r()); err == nil {
			_ = st.Sum()
		}
		if s, err := ParseSlab(r(), 65536); err == nil && (s.Bytes < 0 || s.Objects < 0) {
			t.Errorf("negative slab %+v", s)
		}
		if m, err := ParseMeminfo(r()); err == nil {
			for k, v := range m {
				if v.N < 0 {
					t.Errorf("negative %s", k)
				}
			}
		}
		_, _ = ParseCPUs(r())
		_, _ = ParseRoutes4(r())
		_, _ = ParseRoutes6(r())
		_, _ = ParseFibTrie(r())
		_, _ = ParseIfInet6(r())
		_, _ = ParseResolvConf(r())
		_, _ = ParseModules(r())
		_, _ = ParseBuiltin(r())
		_, _ = ParseNames(r())
		_, _ = hasBuiltinSymbol(r(), "nft_do_chain")
		_, _ = ParseNetns(string(b))
		_, _ = parseUptime(string(b))
		_ = containerOf(b)
	})
}
