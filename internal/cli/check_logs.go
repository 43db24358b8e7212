package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/logsrc"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// logAge is how far back a machine's own logs are read beside the machine
// itself: what is older tells nothing of today.
const logAge = 7 * 24 * time.Hour

// logReading is what came of the logs.
type logReading struct {
	report *klog.Report
	blind  []ct.Blind
	err    error
}

// startLogs reads the logs while the machine is observed: those named, or the
// machine's own.
func (c *checker) startLogs(ctx context.Context) <-chan logReading {
	done := make(chan logReading, 1)
	go func() { done <- c.readLogs(ctx) }()
	return done
}

func (c *checker) readLogs(ctx context.Context) logReading {
	now := c.env.Now()
	var r logReading
	opts := klog.Options{Location: time.Local, Now: now}
	if len(c.logs) == 0 {
		opts.Version = runningKernel()
	}
	to := klog.NewCollector(opts)
	if len(c.logs) == 0 {
		o := logsrc.Options{Now: now}
		if !c.logOnly {
			o.Since = now.Add(-logAge)
		}
		r.blind = logsrc.Machine(ctx, to, o)
	} else {
		r.err = logsrc.Named(ctx, to, c.logs, c.env.Stdin)
	}
	r.report = to.Report()
	return c.judgeLogs(r)
}

// judgeLogs decides what an error of a named log means: if another one could
// be read it is something not seen, and otherwise the end.
func (c *checker) judgeLogs(r logReading) logReading {
	if r.err == nil {
		return r
	}
	for _, s := range r.report.Sources {
		if s.Bytes > 0 {
			r.blind = append(r.blind, ct.Blind{What: "part of the logs", Why: r.err.Error(), How: "check the names, and the rights to read them"})
			r.err = nil
			return r
		}
	}
	r.err = &HintError{fmt.Errorf("cannot read the log: %w", r.err), "--log takes a file, packed or not, or - for standard input"}
	return r
}

// runningKernel is the kernel that wrote this machine's recent logs, zero if
// that cannot be told.
func runningKernel() ct.KernelVersion {
	release, err := procfs.FS{}.Release()
	if err != nil {
		return ct.KernelVersion{}
	}
	v, err := ct.ParseKernelVersion(release)
	if err != nil {
		return ct.KernelVersion{}
	}
	return v
}
