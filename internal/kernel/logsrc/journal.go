package logsrc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// words select journal entries before they are formatted, which is most of the
// work; klog judges what passes. Lower case matches both.
const words = `conntrack|callbacks suppresse|nf_ct_|syn flooding|table overflow|socket memory|tcp_mem|orphaned sockets`

// fields are all that is wanted of an entry.
const fields = "MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_FACILITY,_TRANSPORT,_HOSTNAME,_SOURCE_MONOTONIC_TIMESTAMP"

// journal feeds the kernel's messages of every boot from systemd's journal, and
// what systemd-sysctl said; the newest first, so that a bound on the time costs
// the oldest.
func journal(ctx context.Context, to Collector, o Options) *ct.Blind {
	tree := rootfs.Tree{Root: o.Root}
	if !hasJournal(tree) {
		return nil
	}
	var where []string
	if o.Root != "" {
		where = []string{"--root=" + o.Root}
	}
	if !o.Since.IsZero() {
		where = append(where, fmt.Sprintf("--since=@%d", o.Since.Unix()))
	}
	ctx, cancel := context.WithTimeout(ctx, o.JournalTime)
	defer cancel()
	err := journalctl(ctx, to, "journal", append(where, "--reverse")...)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return &ct.Blind{What: "the journal", Why: "journalctl is not installed", How: "read the files of /var/log/journal elsewhere: ctwarden check --log FILE"}
	case ctx.Err() != nil:
		return &ct.Blind{What: "the older part of the journal", Why: fmt.Sprintf("journalctl took longer than %v", o.JournalTime),
			How: "journalctl -o json _TRANSPORT=kernel | ctwarden check --log -"}
	}
	return &ct.Blind{What: "the journal", Why: cause(err).Error(), How: "run as root, or as a member of the group systemd-journal"}
}

// hasJournal reports whether there is a journal file, or a folder that may hold
// one and cannot be listed.
func hasJournal(tree rootfs.Tree) bool {
	for _, dir := range []string{"/run/log/journal", "/var/log/journal"} {
		machines, err := tree.List(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
		for _, m := range machines {
			files, err := tree.List(path.Join(dir, m))
			if errors.Is(err, fs.ErrPermission) || slices.ContainsFunc(files, isJournalName) {
				return true
			}
		}
	}
	return false
}

func isJournalName(name string) bool {
	return strings.HasSuffix(name, ".journal") || strings.HasSuffix(name, ".journal~")
}

func journalDir(ctx context.Context, to Collector, dir string) error {
	return journalctl(ctx, to, dir, "--directory="+dir)
}

func journalFile(ctx context.Context, to Collector, file string) error {
	return journalctl(ctx, to, file, "--file="+file)
}

// isJournal recognises a journal file and rewinds.
func isJournal(f *os.File) bool {
	var magic [8]byte
	n, err := f.ReadAt(magic[:], 0)
	return err == nil && n == len(magic) && string(magic[:]) == "LPKSHHRH"
}

// journalctl runs journalctl(1) and feeds what it prints. A build of it without
// pattern matching is run again without.
func journalctl(ctx context.Context, to Collector, name string, where ...string) error {
	err := runJournalctl(ctx, to, name, append(where, "--grep="+words)...)
	var failed *journalError
	if errors.As(err, &failed) && strings.Contains(failed.said, "pattern matching") {
		err = runJournalctl(ctx, to, name, where...)
	}
	return err
}

// journalError is what journalctl said when it failed.
type journalError struct{ said string }

func (e *journalError) Error() string { return "journalctl: " + e.said }

func runJournalctl(ctx context.Context, to Collector, name string, where ...string) error {
	bin, err := exec.LookPath("journalctl")
	if err != nil {
		return err
	}
	args := append(where, "--quiet", "--no-pager", "--output=json", "--output-fields="+fields,
		"_TRANSPORT=kernel", "+", "SYSLOG_IDENTIFIER=systemd-sysctl")
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=")
	cmd.WaitDelay = time.Second
	said := &head{most: 4096}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fedErr := to.Feed(name, &untilDone{ctx, out}, klog.Hints{})
	if fedErr != nil {
		_ = cmd.Process.Kill() // Wait tells how it ended
	}
	ended := said.judge(cmd.Wait())
	return cmp.Or(fedErr, ended)
}

// head keeps the first bytes written to it.
type head struct {
	bytes.Buffer
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), max(0, h.most-h.Len()))])
	return len(p), nil
}

// judge turns journalctl's end into an error. With --grep it exits 1 when
// nothing matched, and says nothing.
func (h *head) judge(exit error) error {
	said, _, _ := strings.Cut(strings.TrimSpace(h.String()), "\n")
	if exit == nil || said == "" && exitCode(exit) == 1 {
		return nil
	}
	return &journalError{cmp.Or(said, exit.Error())}
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// logread feeds the ring buffer of OpenWrt's and busybox's syslog daemons,
// which write no file.
func logread(ctx context.Context, to Collector, o Options) *ct.Blind {
	bin, err := exec.LookPath("logread")
	if err != nil || !filepath.IsAbs(bin) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin)
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil
	}
	fedErr := to.Feed("logread", &untilDone{ctx, out}, klog.Hints{ModTime: o.Now})
	ended := cmd.Wait()
	if err := cmp.Or(fedErr, ended); err != nil {
		return &ct.Blind{What: "the log of syslogd", Why: "logread: " + rootCause(err), How: "logread | ctwarden check --log -"}
	}
	return nil
}
