package logsrc

import (
	"context"
	"path"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/recorded"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// outputs feeds the logs that a sosreport has as the output of commands: the
// journal's, which may overlap, and the kernel's ring buffer.
func outputs(ctx context.Context, to Collector, o Options) []ct.Blind {
	tree := rootfs.Tree{Root: o.Root}
	var blind []ct.Blind
	one := func(name string, h klog.Hints) {
		f, st, err := openRegular(tree, name)
		if err != nil {
			blind = append(blind, unreadable(name, err))
			return
		}
		defer f.Close()
		h.ModTime = st.ModTime()
		if !o.Now.IsZero() && h.ModTime.After(o.Now) {
			h.ModTime = o.Now
		}
		if err := feed(ctx, to, name, f, h, o.MaxBytes); err != nil {
			blind = append(blind, ct.Blind{What: "the rest of " + name, Why: rootCause(err), How: "ctwarden check --log " + name})
		}
	}
	const logs, kernel = "/sos_commands/logs", "/sos_commands/kernel"
	names, _ := tree.List(logs)
	for _, n := range names {
		if strings.HasPrefix(n, "journalctl_--no-pager") {
			one(path.Join(logs, n), klog.Hints{})
		}
	}
	// The ring buffer's own clock needs the time of the boot; dmesg -T has
	// worked with it.
	if boot, ok := recorded.BootTime(o.Root); ok && tree.Exists(kernel+"/dmesg") {
		one(kernel+"/dmesg", klog.Hints{Boot: boot})
	} else if tree.Exists(kernel + "/dmesg_-T") {
		one(kernel+"/dmesg_-T", klog.Hints{})
	} else if tree.Exists(kernel + "/dmesg") {
		one(kernel+"/dmesg", klog.Hints{})
	}
	return blind
}
