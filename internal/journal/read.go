package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// maxLine bounds one record; longer lines are damage.
const maxLine = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// line is the outer form: the record's own bytes and their checksum (CRC-32C).
type line struct {
	CRC    string          `json:"crc"`
	Record json.RawMessage `json:"rec"`
}

// Log is what a journal says.
type Log struct {
	Ops []*Op // in the order in which they began
	// Damaged counts lines that could not be understood, and TornBytes what a
	// crash or a full disk left half-written at the end.
	Damaged   int
	TornBytes int
	// Newer counts records of a later format.
	Newer int

	byID map[string]*Op
	// good is the length of the file without its torn end; missingNewline is
	// set if the last record is whole but for its line end.
	good           int64
	missingNewline bool
}

// Op finds an operation, nil if there is none.
func (l *Log) Op(id string) *Op { return l.byID[id] }

// Open returns the operations about which something may still have to be done.
func (l *Log) Open() []*Op {
	var open []*Op
	for _, o := range l.Ops {
		if o.State.Open() {
			open = append(open, o)
		}
	}
	return open
}

// Parse reads a journal. No input is an error: damage is counted, and what
// stands before and after it is used.
func Parse(data []byte) *Log {
	l := &Log{byID: map[string]*Op{}}
	for len(data) > 0 {
		text, rest, ended := bytes.Cut(data, []byte{'\n'})
		size := int64(len(data) - len(rest))
		r, err := decode(text)
		switch {
		case err == nil:
			l.add(r)
			l.missingNewline = !ended
		case errors.Is(err, errNewer):
			l.Newer++
		case !ended:
			l.TornBytes = len(text)
			return l
		case len(bytes.TrimSpace(text)) > 0:
			l.Damaged++
		}
		l.good += size
		data = rest
	}
	return l
}

var errNewer = errors.New("record of a later format")

func decode(text []byte) (*record, error) {
	if len(text) > maxLine {
		return nil, fmt.Errorf("record of %d bytes", len(text))
	}
	var ln line
	if err := json.Unmarshal(text, &ln); err != nil {
		return nil, err
	}
	if ln.CRC != checksum(ln.Record) {
		return nil, errors.New("wrong checksum")
	}
	var v struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(ln.Record, &v); err != nil {
		return nil, err
	}
	if v.Version > Version {
		return nil, errNewer
	}
	r := new(record)
	if err := json.Unmarshal(ln.Record, r); err != nil {
		return nil, err
	}
	return r, r.check()
}

func (r *record) check() error {
	switch {
	case r.ID == "":
		return errors.New("record without id")
	case (r.Op == nil) == (r.Change == nil):
		return errors.New("record is neither a beginning nor a step")
	case r.Change != nil && !r.Change.State.known():
		return fmt.Errorf("unknown state %q", r.Change.State)
	}
	return nil
}

func (l *Log) add(r *record) {
	if r.Op != nil {
		l.begin(r)
		return
	}
	if o := l.byID[r.ID]; o != nil {
		o.apply(r.Change, r.Time)
	} else {
		l.Damaged++ // its beginning was lost
	}
}

func (l *Log) begin(r *record) {
	o := r.Op
	o.ID = r.ID
	if o.State == "" || !o.State.known() {
		o.State = Planned
	}
	for i := range o.Settings {
		if !o.Settings[i].State.known() {
			o.Settings[i].State = Planned
		}
	}
	o.State = o.derive(o.State)
	if old := l.byID[o.ID]; old != nil { // a rewritten journal holds each once
		l.Ops[slices.Index(l.Ops, old)] = o
	} else {
		l.Ops = append(l.Ops, o)
	}
	l.byID[o.ID] = o
}

func encode(r *record) ([]byte, error) {
	r.Version = Version
	rec, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(line{CRC: checksum(rec), Record: rec})
	if err != nil {
		return nil, err
	}
	if len(b) > maxLine {
		return nil, fmt.Errorf("record of %d bytes is over the limit of %d", len(b), maxLine)
	}
	return append(b, '\n'), nil
}

func checksum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }
