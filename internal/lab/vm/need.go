package vm

import (
	"os"
	"os/exec"
	"testing"
)

// Need returns the newest kernel of a series, or ends the test: with a skip
// that says why, or, in CI, with a failure.
func Need(t *testing.T, series string) Kernel {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a kernel: not in short mode")
	}
	if InGuest() {
		t.Skip("starts a guest: not inside one")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		missing(t, series, err)
	}
	k, err := Find(t.Context(), series)
	if err != nil {
		missing(t, series, err)
	}
	return k
}

func missing(t *testing.T, series string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("no kernel %s to boot: %v", series, err)
	}
	t.Skipf("no kernel %s to boot: %v", series, err)
}

// ForEach runs f as a subtest on the newest kernel of every series.
func ForEach(t *testing.T, f func(t *testing.T, k Kernel)) {
	t.Helper()
	for _, s := range Series {
		t.Run(s, func(t *testing.T) { f(t, Need(t, s)) })
	}
}

// NeedSystem returns a kernel of a series with a whole Debian system for it, or
// ends the test as [Need] does.
func NeedSystem(t *testing.T, series string) Kernel {
	t.Helper()
	k := Need(t, series)
	for _, tool := range []string{"debootstrap", "mke2fs", "depmod"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, series, err)
		}
	}
	if _, err := k.systemImage(t.Context()); err != nil {
		missing(t, series, err)
	}
	return k
}
