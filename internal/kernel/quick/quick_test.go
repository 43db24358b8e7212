package quick

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestReadAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var b [16]byte
	for at, want := range map[int64]string{0: "hello", 3: "lo", 5: "", 9: ""} {
		n, err := ReadAt(f, b[:], at)
		if err != nil || string(b[:n]) != want {
			t.Errorf("at %d: %q, %v", at, b[:n], err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAt(&File{f.f, ^uintptr(0)}, b[:], 0); err == nil {
		t.Error("read a file that is closed")
	}
}

func TestAlarm(t *testing.T) {
	a, err := NewAlarm(30 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	wait := func(least, most time.Duration) {
		t.Helper()
		begin := time.Now()
		if _, err := a.Wait(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < least || d > most {
			t.Errorf("waited %v, want %v to %v", d, least, most)
		}
	}
	a.Set(50 * time.Millisecond)
	wait(45*time.Millisecond, 5*time.Second)
	a.Set(time.Hour)
	a.Ring()
	wait(0, 5*time.Second)
	a.Set(time.Hour)
	time.AfterFunc(30*time.Millisecond, a.Ring)
	wait(25*time.Millisecond, 5*time.Second)
	// What was set anew is not rung by what came before.
	a.Ring()
	a.Set(50 * time.Millisecond)
	wait(45*time.Millisecond, 5*time.Second)
	// It goes on by itself, until somebody rings.
	a.Set(20 * time.Millisecond)
	wait(15*time.Millisecond, 5*time.Second)
	wait(15*time.Millisecond, 5*time.Second)
	wait(15*time.Millisecond, 5*time.Second)
	a.Ring()
	if rung, err := a.Wait(); !rung || err != nil {
		t.Errorf("rung %v, %v", rung, err)
	}
	a.Set(time.Millisecond)
	if rung, err := a.Wait(); rung || err != nil {
		t.Errorf("rung %v, %v", rung, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Wait(); err == nil {
		t.Error("waits for an alarm that is closed")
	}
}

// TestNoRingIsLost: whoever sets, looks and waits misses nothing.
func TestNoRingIsLost(t *testing.T) {
	a, err := NewAlarm(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var given atomic.Int64
	const all = 2000
	go func() {
		for range all {
			given.Add(1)
			a.Ring()
			time.Sleep(10 * time.Microsecond)
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			a.Set(time.Hour)
			if given.Load() == all {
				return
			}
			if _, err := a.Wait(); err != nil {
				return
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("one was missed")
	}
}
