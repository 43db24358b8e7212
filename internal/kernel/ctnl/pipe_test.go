package ctnl_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestTwoThreadsReadTheSame compares a reading by two threads with one in
// turns.
func TestTwoThreadsReadTheSame(t *testing.T) {
	_, c := newTable(t)
	lab.SharedLimits(t)
	create(t, c, flows(100_000)...)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	want, a := dump(t, c, ctnl.Query{Serial: true})
	got, b := dump(t, c, ctnl.Query{})
	if a.Received != 100_000 || b.Received != a.Received || len(got) != len(want) {
		t.Fatalf("%d and %d entries of 100,000", a.Received, b.Received)
	}
	for i := range got {
		got[i].TimeoutSeconds = want[i].TimeoutSeconds
		if got[i] != want[i] {
			t.Fatalf("entry %d: %+v, in turns %+v", i, got[i], want[i])
		}
	}
}

// TestTwoThreadsEnd leaves readings by two threads early, in every way, and
// uses the connection again at once.
func TestTwoThreadsEnd(t *testing.T) {
	_, c := newTable(t)
	lab.SharedLimits(t)
	create(t, c, flows(100_000)...)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	goroutines := runtime.NumGoroutine()
	for _, at := range []int{1, 10_000, 99_999} {
		for _, end := range []error{ctnl.ErrStop, io.ErrClosedPipe, context.Canceled} {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			_, err := c.Dump(ctx, ctnl.Query{}, func(*ct.Flow) error {
				switch n++; {
				case n != at:
				case errors.Is(end, context.Canceled):
					cancel()
				default:
					return end
				}
				return nil
			})
			cancel()
			if at < 99_999 && !errors.Is(end, ctnl.ErrStop) && !errors.Is(err, end) || errors.Is(end, ctnl.ErrStop) && err != nil {
				t.Errorf("left at %d with %v: %v", at, end, err)
			}
			if all, _ := dump(t, c, ctnl.Query{}); len(all) != 100_000 {
				t.Errorf("left at %d with %v: %d entries at the next reading", at, end, len(all))
			}
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
}
