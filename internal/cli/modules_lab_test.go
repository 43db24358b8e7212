package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// TestModulesOnOtherKernels boots machines without connection tracking and looks
// at them with every command that only reads.
func TestModulesOnOtherKernels(t *testing.T) {
	vm.ForEach(t, func(t *testing.T, k vm.Kernel) {
		if os.Getenv("CTWARDEN_LONG") == "" && k.Series != "6.1" {
			t.Skip("long: make kernels")
		}
		k.Run(t, vm.Options{Package: "./internal/cli", Run: "^TestGuestLoadsNoModule$",
			Modules: vm.NetfilterModules, Programs: []string{"ip"}, Timeout: 5 * time.Minute})
	})
}

func TestGuestLoadsNoModule(t *testing.T) {
	loaded := func() string {
		data, err := os.ReadFile("/proc/modules")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := loaded()
	if strings.Contains(before, "conntrack") {
		t.Fatalf("connection tracking is loaded already: %s", before)
	}
	archive := filepath.Join(t.TempDir(), "guest.tar.zst")
	for _, line := range []string{"check --observe 1s", "check --full --observe 0 --json", "check --netns all --observe 0", "check --npd",
		"collect --observe 0 -o " + archive, "check --from " + archive, "explain insert_failed", "plan", "lint", "notrack", "status", "list", "top --once"} {
		code, stdout, stderr := runCommand(strings.Fields(line)...)
		if strings.HasPrefix(line, "check") && !strings.Contains(stdout, "no connection tracking") && !strings.Contains(stdout, "tracks no") && !strings.Contains(stdout, "tracking-inactive") {
			t.Errorf("%s: exit code %d\n%s%s", line, code, stdout, stderr)
		}
		if after := loaded(); after != before {
			t.Fatalf("%s: the modules were\n%sand are\n%s", line, before, after)
		}
	}
}
