package collect

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/anonymize"
	"github.com/ctwarden/ctwarden/internal/diagnose"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/owners"
	"github.com/ctwarden/ctwarden/internal/report"
)

var key = [anonymize.KeySize]byte{5, 6, 7}

const logText = `Nov 22 10:00:00 secret.example.com kernel: nf_conntrack: nf_conntrack: table full in netns 4026532245, dropping packet
Nov 22 10:00:05 secret kernel: net_ratelimit: 77 callbacks suppressed
Nov 22 10:00:06 secret kernel: TCP: request_sock_TCP: Possible SYN flooding on port 10.88.0.1:80. Sending cookies.
`

// logs reads a log with a host and an address in it.
func logs(t testing.TB, now time.Time) *klog.Report {
	t.Helper()
	c := klog.NewCollector(klog.Options{Now: now, Version: ct.KernelVersion{Major: 6, Minor: 18}})
	if err := c.Feed("/home/alice/kern.log", strings.NewReader(logText), klog.Hints{}); err != nil {
		t.Fatal(err)
	}
	return c.Report()
}

func input(t testing.TB) diagnose.Input {
	now := time.Date(2025, 11, 22, 10, 1, 0, 0, time.UTC)
	return diagnose.Input{Now: now, Log: logs(t, now), Blind: []ct.Blind{{What: "the journal", Why: "no rights", How: "run as root"}},
		Snapshot: &ct.Snapshot{Time: now, Host: "secret", Release: "6.18.2", Version: ct.KernelVersion{Major: 6, Minor: 18, Patch: 2},
			Limits:        ct.Limits{Count: ct.Known(262144), Max: ct.Known(262144), Buckets: ct.Known(262144)},
			Timeouts:      ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18}),
			Counters:      ct.Counters{Drop: 7, Has: ct.CounterDrop},
			SelfAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Sysctls:       map[string]string{"net.netfilter.nf_conntrack_max": "262144"},
		},
		Owners: &owners.Report{KeysWhy: "built in", Settings: []owners.Setting{{Key: "net.netfilter.nf_conntrack_max", Winner: -1}}},
	}
}

func archive(t testing.TB, in diagnose.Input, m *anonymize.Mapper, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, New(in, "0.0.0"), files, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func text(t testing.TB, in diagnose.Input) string {
	t.Helper()
	var b bytes.Buffer
	if err := diagnose.Run(in).WriteText(&b, report.Style{Width: 80, Verbose: true}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRoundTrip(t *testing.T) {
	in := input(t)
	d, err := Read(bytes.NewReader(archive(t, in, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text(t, in), text(t, d.Input())); diff != "" {
		t.Error(diff)
	}
	// What is written again is the same, so that nothing was lost on the way.
	if again := archive(t, d.Input(), nil); !bytes.Equal(unpacked(t, again), unpacked(t, archive(t, in, nil))) {
		t.Error("written again it differs")
	}
}

func unpacked(t testing.TB, packed []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRealTable collects a namespace whose addresses are known: the report is
// the same from the archive, and with --anonymize the same but for the names,
// and none of the addresses stands anywhere in it.
func TestRealTable(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "collect")
	h.Track()
	err := h.TryFill(
		lab.Class{Count: 3000, Proto: ct.UDP, Sources: netip.MustParsePrefix("10.77.1.9/32"), Targets: netip.MustParsePrefix("198.51.100.0/24"), TimeoutSeconds: 1000},
		lab.Class{Count: 500, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, Sources: netip.MustParsePrefix("10.77.2.0/24"), Targets: netip.MustParsePrefix("203.0.113.5/32")},
		lab.Class{Count: 300, Proto: ct.UDP, Sources: netip.MustParsePrefix("fd77::/64"), Targets: netip.MustParsePrefix("2001:db8:77::1/128"), TimeoutSeconds: 1000},
	)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := observe.Machine(context.Background(), observe.Options{Netns: h.Path(), Full: true, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	snap.Limits.Max = ct.Known(4000) // or the host's would have to be lowered
	in := diagnose.Input{Now: snap.Time, Snapshot: snap, Log: logs(t, snap.Time)}
	want := text(t, in)
	if !strings.Contains(want, "10.77.1.9") {
		t.Fatalf("the report does not name the source:\n%s", want)
	}
	d, err := Read(bytes.NewReader(archive(t, in, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, text(t, d.Input())); diff != "" {
		t.Errorf("from the archive: %s", diff)
	}

	m := anonymize.New(key)
	for _, name := range []string{"secret.example.com", "secret", snap.Host} {
		m.Name("host", name)
	}
	packed := archive(t, in, m, File{"etc/hosts", []byte("10.77.2.3 secret.example.com secret")}, File{"report.txt", []byte(want)})
	if d, err = Read(bytes.NewReader(packed)); err != nil || !d.Anonymized {
		t.Fatalf("%v, anonymized %v", err, d.Anonymized)
	}
	if diff := cmp.Diff(strings.Fields(m.Text(want)), strings.Fields(text(t, d.Input()))); diff != "" {
		t.Errorf("anonymized: %s", diff)
	}
	whole := unpacked(t, packed)
	for _, secret := range []string{"10.77.", "198.51.100.", "203.0.113.5", "fd77:", "2001:db8:77", "10.88.0.1", "secret", "alice"} {
		if i := bytes.Index(whole, []byte(secret)); i >= 0 {
			t.Errorf("the archive holds %q: %s", secret, whole[max(0, i-60):min(len(whole), i+60)])
		}
	}
}

// packed makes an archive of any members.
func packed(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range members {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestHostileArchives(t *testing.T) {
	for name, tt := range map[string]struct {
		archive []byte
		want    string
	}{
		"empty":          {nil, ErrNoDocument.Error()},
		"not packed":     {[]byte("hello, this is no archive at all"), "magic number mismatch"},
		"no document":    {packed(t, tar.Header{Name: "etc/passwd", Size: 10, Mode: 0o600}), ErrNoDocument.Error()},
		"upwards":        {packed(t, tar.Header{Name: "../../" + Name, Size: 10, Mode: 0o600}), ErrNoDocument.Error()},
		"a link":         {packed(t, tar.Header{Name: Name, Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}), ErrNoDocument.Error()},
		"a device":       {packed(t, tar.Header{Name: Name, Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}), ErrNoDocument.Error()},
		"no JSON":        {packed(t, tar.Header{Name: Name, Size: 10, Mode: 0o600}), "invalid character"},
		"large document": {packed(t, tar.Header{Name: Name, Size: maxDocument + 1, Mode: 0o600}), "larger than"},
		"a bomb":         {packed(t, tar.Header{Name: "x", Size: maxArchive + 4096, Mode: 0o600}, tar.Header{Name: Name, Size: 1, Mode: 0o600}), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && len(tt.archive) > 1000 {
				t.Skip("takes seconds")
			}
			_, err := Read(bytes.NewReader(tt.archive))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	text, err := encode(New(input(f), "0.0.0"), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"schema":"ctwarden.collect/1","snapshot":{"census":{},"rates":{}},"log":{"episodes":[{}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Decode(bytes.NewReader(text))
		if err != nil {
			return
		}
		if err := diagnose.Run(d.Input()).WriteText(io.Discard, report.Style{Width: 80}); err != nil {
			t.Fatal(err)
		}
	})
}
