package logsrc

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func gzipped(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, text []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(text, nil)
}

func xzed(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	text := []byte(strings.Repeat("kernel: nf_conntrack: table full, dropping packet\n", 100))
	bz2 := "BZh9\x31\x41\x59\x26\x53\x59\x99\xac\x22\x56\x00\x00\x02\x57\x80\x00\x10\x40\x00\x20\x00\x88\x00\x20\x00\x21\x80\x0c\x02\x76\x68\x65\x3f\x17\x72\x45\x38\x50\x90\x99\xac\x22\x56"
	for name, tt := range map[string]struct {
		packed []byte
		want   []byte
	}{
		"gzip":            {gzipped(t, text), text},
		"gzip, two parts": {append(gzipped(t, text), gzipped(t, text)...), append(bytes.Clone(text), text...)},
		"zstd":            {zstded(t, text), text},
		"xz":              {xzed(t, text), text},
		"plain":           {text, text},
		"empty":           {nil, nil},
		"short":           {[]byte{0x1f}, []byte{0x1f}},
		"nearly bzip2":    {[]byte("BZhello\n"), []byte("BZhello\n")},
		"bzip2 cut":       {[]byte(bz2[:30]), nil},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := unpack(bytes.NewReader(tt.packed), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			got, err := io.ReadAll(u)
			if tt.want != nil && err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, tt.want) && len(got)+len(tt.want) > 0 {
				t.Errorf("unpacked to %d bytes, want %d", len(got), len(tt.want))
			}
		})
	}
}

// TestUnpackLikeTheTools packs with the programs that logrotate runs.
func TestUnpackLikeTheTools(t *testing.T) {
	text := strings.Repeat("kernel: nf_conntrack: table full, dropping packet\n", 1000)
	for _, tool := range [][]string{{"gzip", "-9"}, {"xz", "-6"}, {"xz", "-T2", "-9"}, {"zstd", "-19", "--long=27"}, {"bzip2"}} {
		t.Run(strings.Join(tool, " "), func(t *testing.T) {
			if _, err := exec.LookPath(tool[0]); err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(tool[0], append(tool[1:], "-c")...)
			cmd.Stdin = strings.NewReader(text)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			u, err := unpack(bytes.NewReader(packed), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			if got, err := io.ReadAll(u); err != nil || string(got) != text {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestBombs(t *testing.T) {
	zeros := make([]byte, 4<<20)
	for name, packed := range map[string][]byte{"gzip": gzipped(t, zeros), "zstd": zstded(t, zeros), "xz": xzed(t, zeros)} {
		u, err := unpack(bytes.NewReader(packed), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, u)
		u.Close()
		if n != 1<<20 || !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %d bytes, %v; want the bound and ErrTooLarge", name, n, err)
		}
	}
	exact, err := unpack(bytes.NewReader(gzipped(t, zeros)), int64(len(zeros)))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, exact); n != int64(len(zeros)) || err != nil {
		t.Errorf("a file as large as the bound: %d bytes, %v", n, err)
	}
	greedy := xzed(t, zeros)
	i := bytes.Index(greedy[12:], []byte{0x21, 1}) + 12 + 2
	greedy[i] = 40
	if _, err := unpack(bytes.NewReader(greedy), 1<<20); !errors.Is(err, errDictionary) {
		t.Errorf("xz with a dictionary of 4 GiB: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	text := []byte("kernel: nf_conntrack: table full, dropping packet\n")
	f.Add(gzipped(f, text))
	f.Add(zstded(f, text))
	f.Add(xzed(f, text))
	f.Add(text)
	f.Fuzz(func(t *testing.T, packed []byte) {
		u, err := unpack(bytes.NewReader(packed), 1<<16)
		if err != nil {
			return
		}
		defer u.Close()
		if n, _ := io.Copy(io.Discard, u); n > 1<<16 && n != int64(len(packed)) {
			t.Fatalf("%d bytes", n)
		}
	})
}
