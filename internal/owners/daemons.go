package owners

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/ctwarden/ctwarden/ct"
)

// ufwStage: ufw applies a sysctl file of its own when it starts, after
// sysctl.d. The file is named by IPT_SYSCTL in /etc/default/ufw.
func ufwStage(m *Machine) []Assignment {
	if shellVar(m, "/etc/ufw/ufw.conf", "ENABLED") != "yes" {
		return nil
	}
	file := shellVar(m, "/etc/default/ufw", "IPT_SYSCTL")
	if file == "" {
		return nil
	}
	return fileAssignments(m, file, StageFirewall, "ufw")
}

func fileAssignments(m *Machine, file string, stage Stage, owner string) []Assignment {
	data, err := m.Files.ReadFile(file)
	if err != nil {
		return nil
	}
	var out []Assignment
	for _, l := range parseSysctl(data) {
		if key, ours := canon(l.key); ours && !l.exclude {
			out = append(out, Assignment{Stage: stage, Owner: owner, File: file, Line: l.line, Written: l.key, Key: key,
				Value: l.value, Managed: managedBy(data)})
		}
	}
	return out
}

// shellVar reads NAME=value or NAME="value" of a file of shell variables; the
// last assignment counts.
func shellVar(m *Machine, file, name string) string {
	data, err := m.Files.ReadFile(file)
	if err != nil {
		return ""
	}
	value := ""
	for line := range strings.Lines(string(data)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && k == name {
			value = strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return value
}

// tunedStage reads the active TuneD profile and those it includes. A profile
// with a [sysctl] section makes TuneD apply the system's own files again after
// it, unless reapply_sysctl is off (plugin_sysctl.py). early says whether the
// system's lines have been heeded at boot, and set which keys others have set
// since: what changes nothing then is left out.
func tunedStage(m *Machine, early ct.Tri, set map[string]bool) []Assignment {
	data, err := m.Files.ReadFile("/etc/tuned/active_profile")
	if err != nil {
		return nil
	}
	p := tunedProfiles{m: m, seen: make(map[string]bool)}
	var out []Assignment
	for _, name := range strings.Fields(string(data)) {
		out = append(out, p.read(name)...)
	}
	if off := shellVar(m, "/etc/tuned/tuned-main.conf", "reapply_sysctl"); off == "0" || off == "false" || !p.sysctl {
		return out
	}
	for _, a := range out {
		set[a.Key] = true
	}
	var last []Assignment
	if !p.netFirst {
		i := slices.IndexFunc(out, func(a Assignment) bool { return a.Written == tunedHashsize })
		if i >= 0 {
			last = append(last, out[i])
			out = slices.Delete(out, i, i+1)
		}
	}
	for _, a := range tunedReapplies(m) {
		if early != ct.Yes || set[a.Key] {
			out = append(out, a)
		}
	}
	return append(out, last...)
}

// tunedHashsize is the option of the [net] section.
const tunedHashsize = "nf_conntrack_hashsize"

// tunedReapplies are the lines that TuneD's own reader of sysctl files takes:
// two directories and /etc/sysctl.conf, line after line, without patterns and
// without the "-" in front.
func tunedReapplies(m *Machine) []Assignment {
	files := confFiles(m.Files, []string{"/run/sysctl.d", "/etc/sysctl.d"}, ".conf")
	files = append(files, confFile{path: "/etc/sysctl.conf"})
	var out []Assignment
	for _, f := range files {
		data, err := m.Files.ReadFile(f.path)
		if err != nil || f.maskedBy != "" {
			continue
		}
		for _, l := range parseSysctl(data) {
			if key, ours := canon(l.key); ours && !l.exclude && !isGlob(l.key) && !strings.HasPrefix(l.text, "-") {
				out = append(out, Assignment{Stage: StageDaemon, Owner: "TuneD", File: f.path, Line: l.line, Written: l.key, Key: key,
					Value: l.value, Managed: managedBy(data), Why: "TuneD applies the system's sysctl files again after its profile (reapply_sysctl)"})
			}
		}
	}
	return out
}

// tunedProfiles reads profiles, each once.
type tunedProfiles struct {
	m      *Machine
	seen   map[string]bool
	sysctl bool // whether any has a [sysctl] section
	// netFirst says that [net] comes before it: units are applied in the order
	// in which they first appear.
	netFirst bool
}

func (p *tunedProfiles) read(name string) []Assignment {
	if p.seen[name] || strings.ContainsAny(name, "/\x00") || len(p.seen) > 32 {
		return nil
	}
	p.seen[name] = true
	for _, dir := range []string{"/etc/tuned/profiles", "/etc/tuned", "/usr/lib/tuned/profiles", "/usr/lib/tuned"} {
		file := path.Join(dir, name, "tuned.conf")
		if data, err := p.m.Files.ReadFile(file); err == nil {
			return p.parse(file, data)
		}
	}
	return nil
}

func (p *tunedProfiles) parse(file string, data []byte) []Assignment {
	var included, own []Assignment
	section := ""
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		s := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(s, "[") {
			section = strings.Trim(s, "[]")
			p.sysctl = p.sysctl || section == "sysctl"
			p.netFirst = p.netFirst || section == "net" && !p.sysctl
			continue
		}
		k, v, ok := strings.Cut(s, "=")
		if !ok || strings.HasPrefix(s, "#") || strings.HasPrefix(s, ";") {
			continue
		}
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		a := Assignment{Stage: StageDaemon, Owner: "TuneD", File: file, Line: n, Written: k, Value: v}
		switch section {
		case "main":
			if k == "include" {
				for _, name := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' }) {
					included = append(included, p.read(name)...)
				}
			}
		case "sysctl":
			var ours bool
			a.AtLeast = strings.HasPrefix(v, ">")
			a.Value = strings.TrimLeft(v, "><")
			if a.Key, ours = canon(k); ours {
				own = append(own, a)
			}
		case "net":
			if k == tunedHashsize {
				a.Key = bucketsKey
				a.Why = "not applied again if the module is loaded after TuneD started"
				own = append(own, a)
			}
		}
	}
	return append(included, own...)
}

// proxyConntrack is the conntrack part of a KubeProxyConfiguration.
type proxyConntrack struct {
	MaxPerCore            *int64 `yaml:"maxPerCore"`
	Min                   *int64 `yaml:"min"`
	TCPEstablishedTimeout string `yaml:"tcpEstablishedTimeout"`
	TCPCloseWaitTimeout   string `yaml:"tcpCloseWaitTimeout"`
	TCPBeLiberal          bool   `yaml:"tcpBeLiberal"`
	UDPTimeout            string `yaml:"udpTimeout"`
	UDPStreamTimeout      string `yaml:"udpStreamTimeout"`
}

// proxyConfig is a KubeProxyConfiguration; from v1alpha2 on the conntrack part
// stands below "linux".
type proxyConfig struct {
	Conntrack proxyConntrack `yaml:"conntrack"`
	Linux     struct {
		Conntrack *proxyConntrack `yaml:"conntrack"`
	} `yaml:"linux"`
}

// Defaults of kube-proxy, unchanged since 1.2.
const (
	proxyMaxPerCore = 32768
	proxyMin        = 131072
	proxyEstab      = 86400
	proxyCloseWait  = 3600
)

// kubeProxyStage computes what a running kube-proxy sets when it starts:
// max = max(per core × cores, minimum), raised only; buckets to a quarter of
// max if lower; the two TCP timeouts, raised only. It acts at its start, it
// does not loop.
func kubeProxyStage(m *Machine, p Process) []Assignment {
	c, source := proxySettings(p)
	perCore, least := int64(proxyMaxPerCore), int64(proxyMin)
	estab, closeWait := int64(proxyEstab), int64(proxyCloseWait)
	var udp, stream int64
	setInt(&perCore, c.MaxPerCore)
	setInt(&least, c.Min)
	setDuration(&estab, c.TCPEstablishedTimeout)
	setDuration(&closeWait, c.TCPCloseWaitTimeout)
	setDuration(&udp, c.UDPTimeout)
	setDuration(&stream, c.UDPStreamTimeout)
	var out []Assignment
	add := func(key string, v int64, why string) {
		out = append(out, Assignment{Stage: StageDaemon, Owner: "kube-proxy", File: source, Written: key, Key: prefix + key,
			Value: strconv.FormatInt(v, 10), AtLeast: true, Why: why})
	}
	if perCore > 0 && perCore < 1<<40 {
		limit := max(perCore*int64(max(m.CPUs, 1)), least)
		add("max", limit, fmt.Sprintf("max(%d × %d cores, %d), raised at its start if lower", perCore, max(m.CPUs, 1), least))
		add("buckets", limit/4, "a quarter of max, raised if lower")
	}
	for _, t := range []struct {
		key     string
		seconds int64
	}{{"tcp_timeout_established", estab}, {"tcp_timeout_close_wait", closeWait}, {"udp_timeout", udp}, {"udp_timeout_stream", stream}} {
		if t.seconds > 0 {
			add(t.key, t.seconds, "raised at its start if lower; old releases set it outright")
		}
	}
	if c.TCPBeLiberal {
		add("tcp_be_liberal", 1, "set at its start")
	}
	return out
}

// proxySettings reads flags, or the configuration file, which makes kube-proxy
// ignore the flags beside it.
func proxySettings(p Process) (c proxyConntrack, source string) {
	flags := parseFlags(p.Args)
	source = fmt.Sprintf("kube-proxy[%d]", p.Pid)
	file := flags["config"]
	if file == "" {
		return proxyConntrack{
			MaxPerCore: flagInt(flags["conntrack-max-per-core"]), Min: flagInt(flags["conntrack-min"]),
			TCPEstablishedTimeout: flags["conntrack-tcp-timeout-established"],
			TCPCloseWaitTimeout:   flags["conntrack-tcp-timeout-close-wait"],
			TCPBeLiberal:          flags["conntrack-tcp-be-liberal"] == "true",
			UDPTimeout:            flags["conntrack-udp-timeout"],
			UDPStreamTimeout:      flags["conntrack-udp-timeout-stream"],
		}, source
	}
	cfg, err := readProxyConfig(p, file)
	if err != nil {
		return proxyConntrack{}, source + " with " + file + " (not readable, defaults assumed)"
	}
	if cfg.Linux.Conntrack != nil {
		cfg.Conntrack = *cfg.Linux.Conntrack
	}
	return cfg.Conntrack, source + " with " + file
}

func readProxyConfig(p Process, file string) (proxyConfig, error) {
	var cfg proxyConfig
	if p.Files == nil {
		return cfg, fmt.Errorf("no view of the files of process %d", p.Pid)
	}
	data, err := p.Files.ReadFile(file)
	if err != nil {
		return cfg, err
	}
	return cfg, yaml.Unmarshal(data, &cfg)
}

// parseFlags reads --name=value, --name value and --name.
func parseFlags(args []string) map[string]string {
	flags := make(map[string]string)
	for i, a := range args {
		name, ok := strings.CutPrefix(a, "-")
		if !ok {
			continue
		}
		name = strings.TrimPrefix(name, "-")
		if k, v, ok := strings.Cut(name, "="); ok {
			flags[k] = v
			continue
		}
		flags[name] = "true"
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			flags[name] = args[i+1]
		}
	}
	return flags
}

func setInt(dst *int64, v *int64) {
	if v != nil {
		*dst = *v
	}
}

func flagInt(s string) *int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}
