package procs

import (
	"context"
	"os"
	"strings"
	"testing"
)

func TestParseCgroup(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct{ text, want string }{
		{"0::/system.slice/nginx.service\n", "unit nginx.service"},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", "unit x.service"},
		{"0::/init.scope\n", ""},
		{"0::/\n", ""},
		{"", ""},
		{"0::/system.slice/docker-" + id + ".scope\n", "docker 0123456789ab"},
		{"12:pids:/docker/" + id + "\n0::/system.slice/containerd.service\n", "docker 0123456789ab"},
		{"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podaaaaaaaa_bbbb_cccc_dddd_eeeeeeeeeeee.slice/cri-containerd-" + id + ".scope\n",
			"pod aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee, containerd 0123456789ab"},
		{"0::/kubepods/besteffort/podaaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee/" + id + "\n",
			"pod aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee, container 0123456789ab"},
		{"0::/kubepods.slice/crio-" + id + ".scope\n", "cri-o 0123456789ab"},
		{"0::/machine.slice/libpod-" + id + ".scope/container\n", "podman 0123456789ab"},
		{"0::/lxc.payload.web\n", "lxc web"},
		{`0::/machine.slice/machine-qemu\x2d1\x2dvm.scope` + "\n", "machine qemu-1-vm"},
	} {
		if got := ParseCgroup(c.text); got != c.want {
			t.Errorf("ParseCgroup(%q) = %q, want %q", c.text, got, c.want)
		}
	}
}

func TestEachFindsThisProcess(t *testing.T) {
	seen := false
	err := FS{}.Each(context.Background(), func(p Process) bool {
		if p.Pid == os.Getpid() {
			seen = true
			if p.Comm == "" || p.NetnsInode == 0 {
				t.Errorf("own process is %+v", p)
			}
		}
		return !seen
	})
	if err != nil || !seen {
		t.Errorf("this process was not listed: %v", err)
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("0::/system.slice/docker-0123.scope\n")
	f.Fuzz(func(_ *testing.T, text string) { _ = ParseCgroup(text) })
}
