package owners

import (
	"fmt"
	"path"
	"strings"
	"time"
)

func setDuration(dst *int64, s string) {
	if d, err := time.ParseDuration(s); err == nil {
		*dst = int64(d / time.Second)
	}
}

// known are programs that own connection-tracking state or values.
var known = []struct{ process, name, does string }{
	{"kube-proxy", "kube-proxy", "raises max, buckets and two TCP timeouts when it starts; deletes entries of removed endpoints"},
	{"dockerd", "Docker", "needs connection tracking for published ports and masquerading; never untrack its traffic"},
	{"containerd", "containerd", "runs containers whose namespaces have tables of their own under the one global max"},
	{"firewalld", "firewalld", "reloads its rules; where its modprobe hook is installed, which Debian leaves out, conntrack settings are applied again when the module is loaded"},
	{"tuned", "TuneD", "applies the settings of its profile when it starts"},
	{"conntrackd", "conntrackd", "replicates entries, deletions too, to its peer: whatever is evicted here is evicted there"},
	{"ovs-vswitchd", "Open vSwitch", "tracks in zones of its own without hooks; its zones are not ours to touch"},
	{"cilium-agent", "Cilium", "keeps a connection table of its own in BPF maps; nf_conntrack may see only part of the traffic"},
	{"calico-node", "Calico", "uses zones and marks of its own; in BPF mode keeps a table of its own"},
	{"antrea-agent", "Antrea", "tracks in OVS zones of its own"},
	{"keepalived", "keepalived", "with IPVS and conntrack=1 its services depend on entries"},
	{"puppet", "Puppet", "may rewrite the files it manages"},
	{"chef-client", "Chef", "may rewrite the files it manages"},
}

func actors(m *Machine) []Actor {
	var out []Actor
	for _, k := range known {
		for _, p := range m.Processes {
			if p.Name == k.process || runs(p, k.process) {
				out = append(out, Actor{Name: k.name, Seen: fmt.Sprintf("process %d, %s", p.Pid, k.process), Does: k.does})
				break
			}
		}
	}
	return out
}

// runs reports whether a process is the program, or an interpreter that runs
// its script.
func runs(p Process, program string) bool {
	for _, a := range p.Args[:min(3, len(p.Args))] {
		if path.Base(a) == program {
			return true
		}
	}
	return false
}

func isKubeProxy(p Process) bool {
	return p.Name == "kube-proxy" || runs(p, "kube-proxy")
}

// commandLineStage reads sysctl.KEY=VALUE of the kernel command line, which
// the kernel writes once before init starts (5.8 and later, do_sysctl_args).
func commandLineStage(m *Machine) []Assignment {
	var out []Assignment
	for _, w := range strings.Fields(m.CommandLine) {
		rest, ok := strings.CutPrefix(w, "sysctl.")
		if !ok {
			rest, ok = strings.CutPrefix(w, "sysctl/")
		}
		k, v, eq := strings.Cut(rest, "=")
		if !ok || !eq {
			continue
		}
		if key, ours := canon(k); ours {
			out = append(out, Assignment{Stage: StageCommandLine, Owner: "kernel command line", File: "/proc/cmdline",
				Written: k, Key: key, Value: v})
		}
	}
	return out
}

// Knows reports whether a process of this name may own settings. The kernel
// cuts names after 15 bytes.
func Knows(comm string) bool {
	for _, k := range known {
		if comm == k.process || len(comm) == 15 && strings.HasPrefix(k.process, comm) {
			return true
		}
	}
	// Some run as an interpreter's script or under a wrapper's name.
	return comm == "hyperkube" || comm == "python3" || comm == "python" || comm == "firewalld"
}
