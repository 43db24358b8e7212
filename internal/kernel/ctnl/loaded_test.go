package ctnl

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLoaded(t *testing.T) {
	const release = "proc/sys/kernel/osrelease"
	for name, c := range map[string]struct {
		files map[string]string
		want  error
	}{
		"module":             {map[string]string{"proc/modules": "nf_tables 1 0 - Live 0x0\nnf_conntrack_netlink 53248 0 - Live 0x0\n"}, nil},
		"not loaded":         {map[string]string{"proc/modules": "nf_conntrack 1 0 - Live 0x0\n", release: "6.1.0\n", "lib/modules/6.1.0/modules.builtin": "kernel/net/netfilter/nf_conntrack.ko\n", "proc/kallsyms": "0 t ctnetlink_other\n"}, ErrNotLoaded},
		"similar name":       {map[string]string{"proc/modules": "nf_conntrack_netlink_x 1 0 - Live 0x0\n"}, ErrNotLoaded},
		"no modules at all":  {nil, nil},
		"built in":           {map[string]string{"proc/modules": "", release: "6.1.0\n", "lib/modules/6.1.0/modules.builtin": "kernel/net/netfilter/nf_conntrack_netlink.ko\n"}, nil},
		"in sysfs":           {map[string]string{"proc/modules": "", "sys/module/nf_conntrack_netlink/version": "1"}, nil},
		"in kallsyms":        {map[string]string{"proc/modules": "", "proc/kallsyms": "0000000000000000 t ctnetlink_dump_table\n"}, nil},
		"of another module?": {map[string]string{"proc/modules": "", "proc/kallsyms": "0000000000000000 t ctnetlink_dump_table\t[x]\n"}, ErrNotLoaded},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			path = filepath.Join(root, path)
			os.MkdirAll(filepath.Dir(path), 0o755)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := Loaded(root); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want == nil {
			continue
		}
		if _, err := Dial(Options{Root: root}); !errors.Is(err, c.want) {
			t.Errorf("%s: Dial: %v, want %v", name, err, c.want)
		}
	}
}
