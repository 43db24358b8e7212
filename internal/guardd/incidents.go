package guardd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

// incidentsFile lies in the state directory: a line of JSON an incident.
const incidentsFile = "incidents.jsonl"

const (
	// incidentsBytes bounds the file; half of it is kept when it is reached.
	incidentsBytes = 1 << 20
	// mostDeeds bounds one incident's line, remembered how many a running guard
	// keeps to tell.
	mostDeeds  = 200
	remembered = 5
)

// incidents keeps what has happened: in memory, and on disk while it enforces.
type incidents struct {
	fs    disk.FS
	dir   string // "" keeps nothing on disk
	inode uint64

	mu   sync.Mutex
	list []guard.Incident // newest first
}

// Incident is one line of the file.
type Incident struct {
	NetnsInode uint64 `json:"netns_inode"`
	guard.Incident
}

func newIncidents(o *Options, inode uint64) *incidents {
	i := &incidents{fs: o.Disk, inode: inode}
	if o.Config.Enforce {
		i.dir = o.StateDir
	}
	return i
}

func (i *incidents) last() []guard.Incident {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.list)
}

// add keeps an incident.
func (i *incidents) add(in *guard.Incident) error {
	kept := *in
	if n := len(kept.Deeds); n > mostDeeds {
		kept.Deeds = slices.Concat(kept.Deeds[:mostDeeds/2], kept.Deeds[n-mostDeeds/2:])
	}
	i.mu.Lock()
	i.list = slices.Insert(i.list, 0, kept)
	i.list = i.list[:min(len(i.list), remembered)]
	i.mu.Unlock()
	if i.dir == "" {
		return nil
	}
	line, err := json.Marshal(Incident{i.inode, kept})
	if err != nil {
		return err
	}
	return i.write(append(line, '\n'))
}

func (i *incidents) write(line []byte) error {
	if err := i.fs.MkdirAll(i.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(i.dir, incidentsFile)
	old, err := i.fs.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old)+len(line) > incidentsBytes {
		old = old[len(old)/2:]
		if _, rest, ok := bytes.Cut(old, []byte("\n")); ok {
			old = rest
		}
	}
	return disk.WriteFile(i.fs, path, append(old, line...), 0o600)
}

// ReadIncidents returns the incidents on disk, the oldest first, and how many
// lines made no sense.
func ReadIncidents(fsys disk.FS, dir string) (list []Incident, damaged int, err error) {
	b, err := fsys.ReadFile(filepath.Join(dir, incidentsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read incidents: %w", err)
	}
	list, damaged = parseIncidents(b)
	return list, damaged, nil
}

func parseIncidents(b []byte) (list []Incident, damaged int) {
	for line := range bytes.Lines(b) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var i Incident
		if err := json.Unmarshal(line, &i); err != nil {
			damaged++
			continue
		}
		list = append(list, i)
	}
	return list, damaged
}

// oneLine is an incident in a sentence.
func oneLine(i *guard.Incident) string {
	f := &i.Figures
	s := fmt.Sprintf("%s, %.0f s, %s, up to %s: %d entries at most (%.0f %% of max), %d refused", i.Start.Format(time.DateTime),
		i.Seconds, i.Class, i.Worst, f.PeakCount, 100*f.PeakFill, f.Refused)
	if i.Observed {
		s += "; only observed"
	}
	return s
}

// IncidentsText writes incidents for a person, the newest first.
func IncidentsText(w io.Writer, list []Incident) error {
	p := &printer{w: w}
	if len(list) == 0 {
		p.line("No incident is on record.")
	}
	for n := range list {
		i := &list[len(list)-1-n].Incident
		f := &i.Figures
		if n > 0 {
			p.line("")
		}
		p.line("%s", oneLine(i))
		p.line("  early drops %d; at most %.0f new entries a second", f.EarlyDropped, f.PeakNewPerSec)
		if f.MaxRaisedTo > 0 {
			p.line("  nf_conntrack_max was raised to %d", f.MaxRaisedTo)
		}
		p.line("  what it cost: %d entries on probation, of which %d moved and stayed and %d ended; %d sources limited",
			f.OnProbation, f.Acquitted, f.Evicted, f.SourcesLimited)
		for _, d := range i.Deeds {
			p.line("  %8.1f s  %s, because %s%s", d.AfterSeconds, d.What, d.Why, outcome(d.Outcome))
		}
		p.proposals("  ", i.Proposals)
	}
	return p.err
}

func outcome(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// Merge adds to the incidents on disk those that a running guard remembers and
// that are not among them.
func Merge(list []Incident, s *Status) []Incident {
	for n := range s.Incidents {
		in := Incident{s.Netns.Inode, s.Incidents[len(s.Incidents)-1-n]}
		if !slices.ContainsFunc(list, func(o Incident) bool { return o.NetnsInode == in.NetnsInode && o.Start.Equal(in.Start) }) {
			list = append(list, in)
		}
	}
	slices.SortStableFunc(list, func(a, b Incident) int { return a.Start.Compare(b.Start) })
	return list
}
