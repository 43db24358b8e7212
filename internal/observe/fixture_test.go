package observe

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

const recorded = "../../testdata/proc"

func TestRecordedMachines(t *testing.T) {
	for version, max := range map[string]int64{"5.10": 32768, "6.1": 8192, "6.12": 8192, "7.3": 8192} {
		t.Run(version, func(t *testing.T) {
			s, err := Machine(context.Background(), Options{Root: filepath.Join(recorded, version), Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			if s.Limits.Max != ct.Known(max) || s.Limits.Buckets != ct.Known(8192) || s.Limits.Count != ct.Known(6) || s.Limits.MaxWritable != ct.Yes {
				t.Errorf("limits %+v", s.Limits)
			}
			if n, ok := s.Timeouts.Get(ct.TimeoutTCPEstablished); n != 432000 || !ok {
				t.Errorf("established %d %v", n, ok)
			}
			if !strings.HasPrefix(s.Release, version) || s.Version.IsZero() || s.CPUs != 2 || s.Netns.Initial != ct.Yes {
				t.Errorf("host %q %v %d %v", s.Release, s.Version, s.CPUs, s.Netns)
			}
			if s.Tracking.ModuleLoaded != ct.Yes || s.Tracking.BuiltIn != ct.No {
				t.Errorf("tracking %+v", s.Tracking)
			}
			if s.Counters.Drop+s.Counters.EarlyDrop != 0x20 || len(s.PerCPU) != 2 {
				t.Errorf("counters %+v", s.Counters)
			}
			if !s.Memory.SlabBytes.Known || !s.Memory.AvailableBytes.Known {
				t.Errorf("memory %+v", s.Memory)
			}
			if s.Census != nil || s.Rates != nil {
				t.Error("a census of a table that was not recorded")
			}
			told(t, s, "the entries of the table")
		})
	}
}

// told checks that a blind spot is told, with a reason and advice.
func told(t *testing.T, s *ct.Snapshot, what string) {
	t.Helper()
	for _, b := range s.Blind {
		if strings.Contains(b.What, what) {
			if b.Why == "" || b.How == "" {
				t.Errorf("%q is told without reason or advice: %+v", what, b)
			}
			return
		}
	}
	t.Errorf("%q is not told among %+v", what, s.Blind)
}

// copyTree makes a recorded machine that a test may spoil.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestOneSourceMissing spoils one source after the other: reading goes on, and
// what is missing is told.
func TestOneSourceMissing(t *testing.T) {
	const entry = "ipv4 2 tcp 6 100 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22 src=10.0.0.2 dst=10.0.0.1 sport=22 dport=1 [ASSURED] mark=0 zone=0 use=2\n"
	for file, c := range map[string]struct {
		text string // "" removes the file
		told string
	}{
		"proc/modules":               {"", ""}, // a kernel without modules
		"proc/sys/kernel/osrelease":  {"", "kernel release"},
		"proc/sys/kernel/hostname":   {"", "host name"},
		"proc/meminfo":               {"", "the memory"},
		"proc/slabinfo":              {"nf_conntrack x y z\nnf_conntrack 1 1 1 1 x\n", "memory that entries take"},
		"proc/uptime":                {"soon", "uptime"},
		"proc/stat":                  {"", "CPUs"},
		"proc/net/stat/nf_conntrack": {"\x00\xff\n", "counters"},
		"proc/net/nf_conntrack":      {"rubbish\n", "entries"},
		"proc/net/route":             {"rubbish\n", ""},
		"proc/sys/net/core":          {"", ""},
		"sys/module":                 {"", ""},
		"proc/sys/net/netfilter":     {"", "timeouts"},
		"proc/sys/net/ipv4":          {"", ""},
		"proc/net/nf_conntrack_exp":  {"", ""},
		"proc/net/stat":              {"", "counters"},
		"proc/sys/net/netfilter/nf_conntrack_udp_timeout": {"99999999999999999999", "some settings"},
		"proc/sys/net/netfilter/nf_conntrack_max":         {"lots", "some settings"},
	} {
		t.Run(strings.ReplaceAll(file, "/", "_"), func(t *testing.T) {
			root := copyTree(t, filepath.Join(recorded, "6.12"))
			write(t, filepath.Join(root, "proc/net/nf_conntrack"), entry)
			path := filepath.Join(root, file)
			if c.text == "" {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, path, c.text)
			}
			s, err := Machine(context.Background(), Options{Root: root, Seed: 1, Observe: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if c.told != "" {
				told(t, s, c.told)
			} else if len(s.Blind) > 0 {
				t.Errorf("told %+v", s.Blind)
			}
			if !strings.Contains(file, "nf_conntrack") && (s.Census == nil || s.Census.Entries != 1 || !s.Census.Complete) {
				t.Errorf("census %+v", s.Census)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestMachineWithoutAnything(t *testing.T) {
	s, err := Machine(context.Background(), Options{Root: t.TempDir(), Seed: 1})
	if err != nil || len(s.Blind) == 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestModuleNotLoaded(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "proc/modules"), "ext4 1 0 - Live 0x0\n")
	write(t, filepath.Join(root, "proc/sys/kernel/osrelease"), "6.1.0\n")
	write(t, filepath.Join(root, "lib/modules/6.1.0/modules.builtin"), "kernel/fs/fat/fat.ko\n")
	s, err := Machine(context.Background(), Options{Root: root, Seed: 1, Observe: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if s.Tracking.ModuleLoaded != ct.No || s.Tracking.Active != ct.No {
		t.Errorf("tracking %+v", s.Tracking)
	}
	for _, b := range s.Blind {
		if strings.Contains(b.What, "entries of the table") || strings.Contains(b.What, "counters") {
			t.Errorf("%+v is no blind spot where nothing is", b)
		}
	}
}

func TestEntriesAreCountedFromText(t *testing.T) {
	root := copyTree(t, filepath.Join(recorded, "5.10"))
	b, err := fs.ReadFile(os.DirFS("../kernel/procfs/testdata"), "nf_conntrack-5.10")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "proc/net/nf_conntrack"), string(b))
	s, err := Machine(context.Background(), Options{Root: root, Seed: 1, Observe: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c := s.Census
	if c == nil || c.Entries != 6 || !c.Complete || c.Short || len(c.Classes) != 1 || c.Classes[0].Proto != ct.ICMP {
		t.Errorf("census %+v", c)
	}
	if s.Rates == nil || !s.Rates.Panel || s.Rates.BirthsPerSecond != 0 || s.Rates.DeathsPerSecond != 0 {
		t.Errorf("rates %+v", s.Rates)
	}
}
