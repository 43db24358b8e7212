package lab

import (
	"context"
	"sync"
	"testing"
)

// Job is a generator at work while the test does something else. It ends when
// it is stopped, or with the test.
type Job[T any] struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	result T
	err    error
}

// Go starts a generator:
//
//	flood := lab.Go(t, func(ctx context.Context) (lab.Sent, error) {
//		return p.Client.SYNFlood(ctx, target, p.Client.Spoof4, load)
//	})
//	…
//	sent := flood.Stop()
func Go[T any](t testing.TB, f func(context.Context) (T, error)) *Job[T] {
	ctx, cancel := context.WithCancel(context.Background())
	j := &Job[T]{t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(j.done)
		j.result, j.err = f(ctx)
	}()
	t.Cleanup(func() { j.Stop() })
	return j
}

// Stop ends the generator and returns what it counted. An error of the
// generator fails the test. Only the first call does anything.
func (j *Job[T]) Stop() T {
	j.t.Helper()
	j.once.Do(func() {
		j.cancel()
		<-j.done
		if j.err != nil {
			j.t.Errorf("lab: generator: %v", j.err)
		}
	})
	return j.result
}

// Wait lets the generator come to its own end and returns what it counted.
func (j *Job[T]) Wait() T {
	j.t.Helper()
	<-j.done
	return j.Stop()
}

// Done is closed when the generator has ended.
func (j *Job[T]) Done() <-chan struct{} { return j.done }
