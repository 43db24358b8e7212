package owners

import (
	"bufio"
	"bytes"
	"path"
	"regexp"
	"strings"
)

var (
	shellSysctl = regexp.MustCompile(`\bsysctl\b[^;&|\n]*?\s['"]?((?:net[./])[A-Za-z0-9_./-]*conntrack[A-Za-z0-9_./-]*)\s*=\s*['"]?(-?[0-9]+)`)
	shellEcho   = regexp.MustCompile(`\b(?:echo|printf)\s+(?:-n\s+)?['"]?(-?[0-9]+)(?:\\n)?['"]?\s*(?:\d?>|\|\s*(?:sudo\s+)?tee)\s*['"]?(/proc/sys/net/[^\s'";&|]*conntrack[^\s'";&|]*|/sys/module/nf_conntrack/parameters/hashsize)`)
)

// shellAssignments finds settings that a line of shell writes.
func shellAssignments(line string, stage Stage, owner, file string, number int) []Assignment {
	var out []Assignment
	add := func(written, value string) {
		key, ours := canon(written)
		if strings.HasSuffix(written, "/parameters/hashsize") {
			key, ours = bucketsKey, true
		}
		if ours {
			out = append(out, Assignment{Stage: stage, Owner: owner, File: file, Line: number, Written: written, Key: key, Value: value})
		}
	}
	for _, m := range shellSysctl.FindAllStringSubmatch(line, -1) {
		add(m[1], m[2])
	}
	for _, m := range shellEcho.FindAllStringSubmatch(line, -1) {
		add(strings.TrimPrefix(m[2], "/proc/sys/"), m[1])
	}
	return out
}

func scriptAssignments(m *Machine, file string, stage Stage, owner string) []Assignment {
	data, err := m.Files.ReadFile(file)
	if err != nil || !bytes.Contains(data, []byte("conntrack")) {
		return nil
	}
	var out []Assignment
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		if s := strings.TrimSpace(sc.Text()); s != "" && s[0] != '#' {
			out = append(out, shellAssignments(s, stage, owner, file, n)...)
		}
	}
	return out
}

// localStage covers rc.local and its relatives.
func localStage(m *Machine) []Assignment {
	var out []Assignment
	for _, f := range []string{"/etc/rc.local", "/etc/rc.d/rc.local", "/etc/init.d/boot.local", "/etc/local.d/conntrack.start"} {
		if f == "/etc/rc.d/rc.local" {
			if real, err := m.Files.Resolve("/etc/rc.local"); err == nil && real == f {
				continue
			}
		}
		out = append(out, scriptAssignments(m, f, StageLocal, "rc.local")...)
	}
	return out
}

// cronStage covers the system's crontabs and cron directories.
func cronStage(m *Machine) []Assignment {
	out := scriptAssignments(m, "/etc/crontab", StageLater, "cron")
	for _, dir := range []string{"/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly",
		"/var/spool/cron/crontabs", "/var/spool/cron"} {
		names, err := m.Files.List(dir)
		if err != nil {
			continue
		}
		for _, n := range names {
			out = append(out, scriptAssignments(m, path.Join(dir, n), StageLater, "cron")...)
		}
	}
	for i := range out {
		out[i].Effect, out[i].Why = Sometimes, "whenever cron runs it"
	}
	return out
}
