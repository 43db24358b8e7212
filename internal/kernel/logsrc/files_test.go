package logsrc

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/klog"
)

// recorder is a Collector that keeps what it is fed.
type recorder struct {
	names []string
	texts []string
	hints []klog.Hints
}

func (r *recorder) Feed(name string, in io.Reader, h klog.Hints) error {
	text, err := io.ReadAll(in)
	r.names, r.texts, r.hints = append(r.names, name), append(r.texts, string(text)), append(r.hints, h)
	return err
}

func write(t *testing.T, root, name string, text []byte, age time.Duration) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, text, 0o644); err != nil {
		t.Fatal(err)
	}
	at := now.Add(-age)
	if err := os.Chtimes(p, at, at); err != nil {
		t.Fatal(err)
	}
}

var now = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

func TestFilesNewestFirst(t *testing.T) {
	root := t.TempDir()
	const hour, day = time.Hour, 24 * time.Hour
	write(t, root, "var/log/messages-20260112.xz", xzed(t, []byte("four\n")), 3*day)
	write(t, root, "var/log/messages-20260114", []byte("two\n"), 1*day)
	write(t, root, "var/log/messages-20260113.zst", zstded(t, []byte("three\n")), 2*day)
	write(t, root, "var/log/messages", []byte("one\n"), hour)
	write(t, root, "var/log/messages-20250101.gz", gzipped(t, []byte("too old\n")), 300*day)
	write(t, root, "var/log/messages.secret", []byte("not rotated\n"), hour)
	write(t, root, "var/log/kern.log.1", []byte("kern two\n"), 2*hour)
	write(t, root, "var/log/kern.log", []byte("kern one\n"), hour)
	write(t, root, "etc/secret", []byte("secret\n"), hour)
	if err := os.Symlink("/etc/secret", filepath.Join(root, "var/log/syslog")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../../../etc/passwd", filepath.Join(root, "var/log/syslog.1")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "var/log/warn"), 0o600); err != nil {
		t.Fatal(err)
	}
	var r recorder
	blind := Machine(context.Background(), &r, Options{Root: root, Now: now, Since: now.Add(-30 * day)})
	want := []string{"kern one\n", "kern two\n", "one\n", "two\n", "three\n", "four\n", "secret\n"}
	if !slices.Equal(r.texts, want) {
		t.Errorf("fed %q of %q, want %q", r.texts, r.names, want)
	}
	if h := r.hints[3]; h.Family != "/var/log/messages" || !h.ModTime.Equal(now.Add(-day)) {
		t.Errorf("hints of the second file: %+v", h)
	}
	var unread []string
	for _, b := range blind {
		unread = append(unread, b.What+": "+b.Why)
	}
	if got := strings.Join(unread, "; "); !strings.Contains(got, "/var/log/warn: not a regular file") {
		t.Errorf("not seen: %q; want the pipe", got)
	}
}

func TestFilesBound(t *testing.T) {
	root := t.TempDir()
	big := bytes.Repeat([]byte("x"), 1<<20)
	write(t, root, "var/log/kern.log", big, time.Hour)
	write(t, root, "var/log/kern.log.1.gz", gzipped(t, big), 2*time.Hour)
	write(t, root, "var/log/kern.log.2.gz", gzipped(t, big), 3*time.Hour)
	var r recorder
	blind := Machine(context.Background(), &r, Options{Root: root, Now: now, MaxBytes: 3 << 19})
	if len(r.texts) != 2 || len(r.texts[1]) != 1<<19 {
		t.Errorf("fed %d files", len(r.texts))
	}
	if len(blind) != 2 || blind[1].What != "older log files" || blind[1].How != "ctwarden check --log /var/log/kern.log.2.gz" {
		t.Errorf("not seen: %+v", blind)
	}
}

func TestNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.gz", gzipped(t, []byte("packed\n")), time.Hour)
	var r recorder
	err := Named(context.Background(), &r, []string{filepath.Join(dir, "a.gz"), filepath.Join(dir, "none"), "-"}, strings.NewReader("in\n"))
	if err == nil || !strings.Contains(err.Error(), `open log "`+filepath.Join(dir, "none")+`": no such file`) {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(r.texts, []string{"packed\n", "in\n"}) {
		t.Errorf("fed %q", r.texts)
	}
}

func TestContextEndsReading(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var r recorder
	if err := Named(ctx, &r, []string{"-"}, strings.NewReader("in\n")); err == nil {
		t.Error("read on after the end")
	}
}
