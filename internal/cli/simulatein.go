package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ctwarden/ctwarden/internal/capture"
	"github.com/ctwarden/ctwarden/internal/simulate"
	"github.com/ctwarden/ctwarden/internal/workload"
)

// trafficInput is what the traffic comes from: a workload or captures.
type trafficInput struct {
	files    []string
	spec     *workload.Spec
	captures *capture.Merge
	opened   []*os.File
	size     int64 // of all files, 0 where one is a stream
	read     atomic.Int64
}

func isYAML(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".yaml" || ext == ".yml"
}

func (s *simulator) input(files []string) (*trafficInput, error) {
	in := &trafficInput{files: files}
	if slices.ContainsFunc(files, isYAML) {
		if len(files) > 1 {
			return nil, &HintError{errors.New("a workload file stands alone"), "give one workload file, or captures; classes of several workloads can be written into one file"}
		}
		if err := in.parse(); err != nil {
			return nil, err
		}
		in.spec.Multiply(s.times)
		return in, in.spec.Validate()
	}
	if s.times != 1 {
		return nil, &HintError{errors.New("--times is for workload files only"), "a workload fitted to the live table comes from `ctwarden record`"}
	}
	if s.scale != 1 {
		return nil, &HintError{errors.New("--scale thins workload files only"), "leave it out: captures are simulated packet by packet"}
	}
	if slices.Contains(files, "-") {
		if s.find != "" {
			return nil, &HintError{errors.New("--find reads the traffic many times, and standard input can be read once"), "write the capture to a file"}
		}
		if s.env.StdinTTY {
			return nil, &HintError{errors.New("standard input is a terminal"), "pipe a capture into it, such as: tcpdump -i any -w - -s 128 | ctwarden simulate -"}
		}
	}
	return in, in.open(s.env.Stdin)
}

func (in *trafficInput) parse() error {
	f, err := os.Open(in.files[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if in.spec, err = workload.Parse(f); err != nil {
		return &HintError{fmt.Errorf("%s: %w", in.files[0], err), "the fields are described in docs/workload.md"}
	}
	return nil
}

// open opens the captures from their beginning.
func (in *trafficInput) open(stdin io.Reader) error {
	in.close()
	in.size = 0
	in.read.Store(0)
	streams := false
	readers := make([]*capture.Reader, len(in.files))
	for i, name := range in.files {
		r := stdin
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			in.opened = append(in.opened, f)
			r = f
			info, err := f.Stat()
			streams = streams || err != nil || !info.Mode().IsRegular()
			if err == nil {
				in.size += info.Size()
			}
		} else {
			streams = true
		}
		c, err := capture.NewReader(&countingReader{r, &in.read})
		if err != nil {
			hint := "if it is a workload, its name must end in .yaml"
			if name == "-" {
				name, hint = "standard input", "workload files are given by name"
			}
			return &HintError{fmt.Errorf("%s: %w", name, err), hint}
		}
		readers[i] = c
	}
	if streams {
		in.size = 0
	}
	in.captures = capture.NewMerge(readers, in.files)
	return nil
}

func (in *trafficInput) close() {
	for _, f := range in.opened {
		f.Close()
	}
	in.opened = nil
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// share is how much of the files has been read, negative for streams.
func (in *trafficInput) share() float64 {
	if in.size == 0 {
		return -1
	}
	return min(1, float64(in.read.Load())/float64(in.size))
}

func (in *trafficInput) generated(s *simulator) func() (simulate.Traffic, error) {
	return func() (simulate.Traffic, error) {
		return &simulate.Generated{Spec: in.spec, Seed: s.seed, Scale: s.scale}, nil
	}
}

// again returns a maker of traffic that begins anew each time.
func (in *trafficInput) again(s *simulator) (func() (simulate.Traffic, error), error) {
	if in.spec != nil {
		return in.generated(s), nil
	}
	return func() (simulate.Traffic, error) {
		if err := in.open(nil); err != nil {
			return nil, err
		}
		return &simulate.Captured{Source: in.captures}, nil
	}, nil
}

// captureCounts is what a capture held, for JSON.
type captureCounts struct {
	File      string            `json:"file"`
	Packets   uint64            `json:"packets"`
	Skipped   map[string]uint64 `json:"skipped,omitempty"`
	Backwards uint64            `json:"backwards"`
	Cut       bool              `json:"cut"`
	Damage    string            `json:"damage,omitempty"` // why it was not read further
}

func (in *trafficInput) counts() []captureCounts {
	if in.captures == nil {
		return nil
	}
	var out []captureCounts
	for i, st := range in.captures.Stats() {
		c := captureCounts{File: in.files[i], Packets: st.Packets, Backwards: st.Backwards, Cut: st.Cut, Damage: st.Damage}
		for reason, n := range st.Skipped {
			if c.Skipped == nil {
				c.Skipped = make(map[string]uint64)
			}
			c.Skipped[string(reason)] = n
		}
		out = append(out, c)
	}
	return out
}

// empty says so where no packet of the captures could be used.
func (in *trafficInput) empty() error {
	if in.captures == nil {
		return nil
	}
	for _, c := range in.counts() {
		if c.Packets > 0 {
			return nil
		}
	}
	return &HintError{errors.New("nothing was simulated: the captures hold no packet that connection tracking would see"),
		"capture IP packets of Ethernet, raw IP or Linux cooked devices, such as: tcpdump -i any -s 128 -w FILE"}
}

// report says what of the captures was not simulated.
func (in *trafficInput) report(w io.Writer) {
	for _, c := range in.counts() {
		var parts []string
		for reason, n := range c.Skipped {
			parts = append(parts, fmt.Sprintf("%d %s", n, reason))
		}
		slices.Sort(parts)
		if c.Backwards > 0 {
			parts = append(parts, fmt.Sprintf("%d bear an earlier time than the one before (taken at its time)", c.Backwards))
		}
		switch {
		case c.Damage != "":
			parts = append(parts, "it could not be read further: "+c.Damage)
		case c.Cut:
			parts = append(parts, "it breaks off in the middle of a packet")
		}
		if len(parts) > 0 {
			fmt.Fprintf(w, "%s: %d packets used; skipped or odd: %s\n", c.File, c.Packets, strings.Join(parts, "; "))
		}
	}
}

// together shows the mean progress of several runs.
func together(p *progress, doing string, in *trafficInput, n int) func(int, simulate.Progress) {
	var mu sync.Mutex
	done := make([]float64, n)
	return func(i int, at simulate.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if at.Share < 0 {
			at.Share = in.share()
		}
		if at.Share < 0 {
			p.show(fmt.Sprintf("%s: %.1f million packets, %s of traffic", doing, float64(at.Packets)/1e6, at.Passed.Round(1e9)), -1)
			return
		}
		done[i] = at.Share
		sum := 0.0
		for _, x := range done {
			sum += x
		}
		p.show(doing, sum/float64(n))
	}
}
