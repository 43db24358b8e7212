// Package collect puts all that a diagnosis rests on into one archive, and
// takes it out again on another machine. It is pure: streams in, streams out;
// nothing is unpacked to a disk.
package collect

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/anonymize"
	"github.com/ctwarden/ctwarden/internal/diagnose"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/owners"
)

const (
	// Schema names the document inside the archive.
	Schema = "ctwarden.collect/1"
	// Name is the document's name inside the archive, and in a folder that
	// one was unpacked to.
	Name = "ctwarden/collect.json"

	// maxDocument bounds the document and maxArchive what is unpacked to find
	// it.
	maxDocument = 64 << 20
	maxArchive  = 512 << 20
)

// ErrNoDocument says that an archive holds no document of this kind.
var ErrNoDocument = errors.New("no " + Name + " in it")

// Document is what check has read.
type Document struct {
	Schema     string         `json:"schema"`
	Time       time.Time      `json:"time"`
	Host       string         `json:"host"`
	Kernel     string         `json:"kernel"`
	Netns      ct.Netns       `json:"netns"`
	Tool       string         `json:"ctwarden"` // the version that wrote it
	Anonymized bool           `json:"anonymized"`
	Snapshot   *ct.Snapshot   `json:"snapshot"`
	Log        *klog.Report   `json:"log"`
	Blind      []ct.Blind     `json:"blind"`
	Owners     *owners.Report `json:"owners"`
}

// New makes the document of what was read.
func New(in diagnose.Input, tool string) *Document {
	d := &Document{Schema: Schema, Time: in.Now, Tool: tool,
		Snapshot: in.Snapshot, Log: in.Log, Blind: in.Blind, Owners: in.Owners}
	if s := in.Snapshot; s != nil {
		d.Host, d.Kernel, d.Netns = s.Host, s.Release, s.Netns
	}
	return d
}

// Input is what a diagnosis takes.
func (d *Document) Input() diagnose.Input {
	return diagnose.Input{Now: d.Time, Snapshot: d.Snapshot, Log: d.Log, Blind: d.Blind, Owners: d.Owners}
}

// File is a file that goes into the archive beside the document, as it was
// read.
type File struct {
	Name string // without a leading slash
	Data []byte
}

// Write writes the archive, a tar packed by zstd. With a mapper all addresses
// and the names that it knows are replaced in everything.
func Write(w io.Writer, d *Document, files []File, m *anonymize.Mapper) error {
	text, err := encode(d, m)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	err = add(t, d.Time, File{Name, text})
	for _, f := range files {
		if m != nil {
			f = File{m.Text(f.Name), []byte(m.Text(string(f.Data)))}
		}
		err = errors.Join(err, add(t, d.Time, f))
	}
	return errors.Join(err, t.Close(), z.Close())
}

func add(t *tar.Writer, at time.Time, f File) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Size: int64(len(f.Data)), Mode: 0o600, ModTime: at, Format: tar.FormatPAX}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(f.Data)
	return err
}

// verbatim are the keys whose values are words of a fixed set, numbers of
// versions, which may look like addresses, or names of settings.
var verbatim = []string{"schema", "kernel", "release", "version", "ctwarden", "time", "kind", "era",
	"proto", "main_proto", "state", "effect", "key", "written", "sysctls", "module_params"}

// encode writes the document.
func encode(d *Document, m *anonymize.Mapper) ([]byte, error) {
	copied := *d
	copied.Anonymized = m != nil
	text, err := json.MarshalIndent(&copied, "", " ")
	if err != nil || m == nil {
		return text, err
	}
	var doc any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	return json.MarshalIndent(m.Value(doc, verbatim...), "", " ")
}

// Read finds the document in an archive that Write has made, whatever else is
// in it. Links, devices and names that lead elsewhere are passed over.
func Read(r io.Reader) (*Document, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxDocument), zstd.WithDecoderMaxWindow(maxDocument), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	limited := &io.LimitedReader{R: z, N: maxArchive}
	t := tar.NewReader(limited)
	for {
		h, err := t.Next()
		switch {
		case limited.N <= 0:
			return nil, fmt.Errorf("more than %d bytes, and %w", int64(maxArchive), ErrNoDocument)
		case errors.Is(err, io.EOF):
			return nil, ErrNoDocument
		case err != nil:
			return nil, err
		}
		if h.Typeflag == tar.TypeReg && path.Clean(h.Name) == Name {
			return Decode(t)
		}
	}
}

// Decode reads a document by itself.
func Decode(r io.Reader) (*Document, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("the document is larger than %d bytes", int64(maxDocument))
	}
	d := &Document{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, err
	}
	if d.Schema != Schema {
		return nil, fmt.Errorf("its schema is %q, not %q", d.Schema, Schema)
	}
	if d.Snapshot == nil && d.Log == nil {
		return nil, errors.New("it holds neither a machine nor logs")
	}
	return d, nil
}
