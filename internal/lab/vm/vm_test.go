package vm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestBootsEveryKernel(t *testing.T) {
	ForEach(t, func(t *testing.T, k Kernel) {
		k.Run(t, Options{Package: "./internal/lab/vm", Run: "^TestGuestTracks", Modules: NetfilterModules,
			Load: []string{"nf_conntrack enable_hooks=1"}, Programs: []string{"ip"}})
	})
}

func TestGuestTracks(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("ip link set lo up: %v: %s", err, out)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("running %s", bytes.TrimSpace(release))
}

func TestVirtualTime(t *testing.T) {
	k := Need(t, "6.1")
	start := time.Now()
	k.Run(t, Options{Package: "./internal/lab/vm", Run: "^TestGuestSleepsAnHour$", VirtualTime: true})
	t.Logf("an hour in the guest took %s", time.Since(start).Round(time.Second))
}

func TestGuestSleepsAnHour(t *testing.T) {
	start := time.Now()
	time.Sleep(time.Hour)
	if d := time.Since(start); d < time.Hour || d > time.Hour+time.Minute {
		t.Errorf("an hour lasted %s", d)
	}
}

func TestFailureIsReported(t *testing.T) {
	k := Need(t, "6.1")
	out, err := k.Boot(context.Background(), t.TempDir(), Options{Package: "./internal/lab/vm", Run: "^TestGuestFails$"})
	if err == nil {
		t.Fatalf("a failing guest passed:\n%s", out)
	}
	r := parseResults(out)
	if len(r) != 1 || r[0].verdict != "FAIL" || !strings.Contains(r[0].output, "on purpose") {
		t.Errorf("results %+v of\n%s", r, out)
	}
}

func TestGuestFails(t *testing.T) {
	t.Error("on purpose")
}
