package guardd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unitFile = "../../packaging/systemd/ctwarden-guard.service"

// TestUnitFile has systemd look at the unit, where systemd is.
func TestUnitFile(t *testing.T) {
	b, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{"Type=notify", "WatchdogSec=", "ExecStopPost=-/usr/bin/ctwarden guard cleanup", "CAP_NET_ADMIN"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, "\nProtectKernelTunables=yes") {
		t.Error("ProtectKernelTunables would block every write")
	}
	if strings.Contains(text, "CAP_SYS_ADMIN\n") {
		t.Error("the own namespace needs no CAP_SYS_ADMIN")
	}
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd is not here to look at it")
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "ctwarden-guard.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(text, "/usr/bin/ctwarden", self)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), "ctwarden-guard") {
		t.Errorf("%v\n%s", err, out)
	}
}
