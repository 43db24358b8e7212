package owners

import (
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// everywhere is a tree in which every file holds the same text.
type everywhere string

func (e everywhere) ReadFile(string) ([]byte, error) { return []byte(e), nil }
func (everywhere) List(string) ([]string, error) {
	return []string{"a.conf", "a.rules", "tuned.conf"}, nil
}
func (everywhere) Resolve(name string) (string, error) { return name, nil }
func (everywhere) Exists(string) bool                  { return true }

// FuzzFiles feeds one text to every reader of configuration; none may panic,
// and whatever wins must be a number.
func FuzzFiles(f *testing.F) {
	for _, s := range []string{
		"net.netfilter.nf_conntrack_max = 5\n", "-net.*=1\n-x\n\\\n=", "options nf_conntrack hashsize=0x10 \\\n",
		"install nf_conntrack sysctl --pattern '[' --system", "[main]\ninclude=x,y\n[sysctl]\nnet.nf_conntrack_max=>3",
		"linux:\n  conntrack: {min: 3}", `SUBSYSTEM=="module", KERNEL=="nf_c*|x", RUN+="systemd-sysctl --prefix=net"`,
		"echo 5 > /proc/sys/net/nf_conntrack_max", "ENABLED=yes\nIPT_SYSCTL=/f",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tree := everywhere(text)
		r := Analyze(Machine{Files: tree, BuiltIn: ct.No, CommandLine: text, CPUs: 1 << 30, Init: InitSystemd,
			Live:      map[string]string{maxKey: "1", bucketsKey: "1"},
			Processes: []Process{{Pid: 1, Name: "kube-proxy", Args: []string{"kube-proxy", "--config=/f", text}, Files: tree}}})
		for _, s := range r.Settings {
			if s.Winner >= len(s.Assignments) || s.Winner >= 0 && s.Assignments[s.Winner].Effect != Wins {
				t.Errorf("winner %d of %+v", s.Winner, s)
			}
		}
		_ = r.Describe()
	})
}
