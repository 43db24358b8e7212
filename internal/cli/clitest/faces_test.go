package clitest

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// timeouts reads every timeout of the namespace.
func timeouts(h *lab.Host) map[string]string {
	m := map[string]string{}
	known := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	for k := range ct.NumTimeouts {
		if _, ok := known.Get(k); ok {
			m[tune.TimeoutSetting(k)] = h.Sysctl(tune.TimeoutSetting(k))
		}
	}
	return m
}

// TestFacesDoTheSame: what a plan prints for a shell, for sysctl.d and for
// Ansible brings about what apply does.
func TestFacesDoTheSame(t *testing.T) {
	lab.Require(t, "ansible-playbook", "sysctl", "unshare")
	lab.SharedLimits(t)
	h := lab.NewHost(t, "faces")
	h.Track()
	b := newBench(t, h)
	stock := timeouts(h)
	planned := func(face string) string {
		out, err := b.command("plan", "--observe", "0", "--peak-new", "50000/s", "-o", face).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	saved := filepath.Join(b.dir, "saved.json")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(saved, planned("json"))
	b.mustRun("apply", saved, "--yes", "--trial", "5m")
	want := timeouts(h)
	if maps.Equal(want, stock) {
		t.Fatal("the plan changes nothing: the test shows nothing")
	}
	b.mustRun("revert")
	play := filepath.Join(b.dir, "play.yml")
	write(play, "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.import_tasks: tasks.yml\n")
	ansible := "mount -t tmpfs none /etc/sysctl.d && mkdir -p /etc/modules-load.d && mount -t tmpfs none /etc/modules-load.d && ANSIBLE_NOCOLOR=1 HOME=" + b.dir +
		" ansible-playbook -i localhost, -c local "
	for face, tt := range map[string]struct{ file, check, run string }{
		"shell":   {"plan.sh", "sh -n $FILE", "sh $FILE"},
		"sysctl":  {"plan.conf", "", "sysctl -p $FILE"},
		"ansible": {"tasks.yml", ansible + "--syntax-check " + play, ansible + play},
	} {
		t.Run(face, func(t *testing.T) {
			if got := timeouts(h); !maps.Equal(got, stock) {
				t.Fatalf("not at the beginning: %v", got)
			}
			file := filepath.Join(b.dir, tt.file)
			write(file, planned(face))
			for _, script := range []string{tt.check, tt.run} {
				cmd := exec.Command("ip", "netns", "exec", h.Name, "unshare", "--mount", "sh", "-c", strings.ReplaceAll(script, "$FILE", file))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", script, err, out)
				}
			}
			if got := timeouts(h); !maps.Equal(got, want) {
				t.Errorf("got %v, apply gives %v", got, want)
			}
			for key, v := range stock {
				h.SetSysctl(key, v)
			}
		})
	}
}
