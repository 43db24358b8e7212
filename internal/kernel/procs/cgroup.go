package procs

import (
	"regexp"
	"strings"
)

var (
	hexID    = `([0-9a-f]{64})`
	runtimes = []struct {
		re   *regexp.Regexp
		name string
	}{
		{regexp.MustCompile(`/docker[-/]` + hexID), "docker"},
		{regexp.MustCompile(`cri-containerd[-:]` + hexID), "containerd"},
		{regexp.MustCompile(`crio-(?:conmon-)?` + hexID), "cri-o"},
		{regexp.MustCompile(`libpod-(?:conmon-)?` + hexID), "podman"},
		{regexp.MustCompile(`/kubepods[^\n]*/` + hexID), "container"},
		{regexp.MustCompile(`/lxc\.payload\.([^/\n]+)`), "lxc"},
		{regexp.MustCompile(`/lxc/([^/\n]+)`), "lxc"},
		{regexp.MustCompile(`machine-([^/\n]+?)\.scope`), "machine"},
		{regexp.MustCompile(`/nomad/[^\n]*?([0-9a-f-]{36})`), "nomad"},
	}
	podUID = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})`)
	unit   = regexp.MustCompile(`/([^/\n]+\.service)`)
)

// ParseCgroup finds container, pod or unit in the text of /proc/PID/cgroup,
// version 1 or 2: "docker 0123456789ab", "pod UID, containerd 0123456789ab",
// "unit nginx.service".
func ParseCgroup(text string) string {
	container := ""
	for _, r := range runtimes {
		if m := r.re.FindStringSubmatch(text); m != nil {
			container = r.name + " " + shorten(m[1])
			break
		}
	}
	if m := podUID.FindStringSubmatch(text); m != nil {
		pod := "pod " + strings.ReplaceAll(m[1], "_", "-")
		if container == "" {
			return pod
		}
		return pod + ", " + container
	}
	if container != "" {
		return container
	}
	if m := unit.FindAllStringSubmatch(text, -1); m != nil {
		return "unit " + unescape(m[len(m)-1][1])
	}
	return ""
}

func shorten(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return unescape(id)
}

// unescape undoes systemd's \x2d for a dash.
func unescape(s string) string { return strings.ReplaceAll(s, `\x2d`, "-") }
