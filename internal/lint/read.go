package lint

import (
	"bytes"
	"path"
	"regexp"
	"strings"
)

// kind is the syntax of a source.
type kind int

const (
	kindSysctl kind = iota
	kindModprobe
	kindModulesLoad
	kindShell
	kindYAML
	kindCron
)

// verb is what a line does.
type verb int

const (
	set       verb = iota // a sysctl
	param                 // a module parameter
	install               // a modprobe install hook
	load                  // a module at boot
	overwrite             // a file that is not only ours
	flush                 // the whole table
	notrack               // packets past tracking
	translate             // NAT
	reload                // sysctl -p
)

// act is one thing that a source does.
type act struct {
	verb       verb
	file       string
	line       int
	kind       kind
	key, value string // of a setting or a parameter
	text       string // the line, or the part of it that does it
}

// maxLines bounds what is read of a source.
const maxLines = 100_000

func kindOf(s Source) kind {
	base, dir := path.Base(s.Path), path.Base(path.Dir(s.Path))
	firstLine, _, _ := bytes.Cut(s.Data, []byte{'\n'})
	switch {
	case dir == "modprobe.d":
		return kindModprobe
	case dir == "modules-load.d" || base == "modules" && dir == "etc":
		return kindModulesLoad
	case base == "crontab" || dir == "crontabs" || dir == "cron" || strings.HasPrefix(dir, "cron."):
		return kindCron
	case bytes.HasPrefix(firstLine, []byte("#cloud-config")), strings.HasSuffix(base, ".yml"), strings.HasSuffix(base, ".yaml"), strings.HasSuffix(base, ".cfg"):
		return kindYAML
	case bytes.HasPrefix(firstLine, []byte("#!/")), strings.HasSuffix(base, ".sh"), base == "rc.local",
		strings.HasPrefix(base, "Dockerfile"), strings.HasSuffix(base, ".Dockerfile"), strings.HasSuffix(base, ".service"),
		strings.HasSuffix(base, ".rules"), strings.HasSuffix(base, ".nft"), base == "nftables.conf", base == "grub", base == "cmdline":
		return kindShell
	case strings.HasSuffix(base, ".modprobe"):
		return kindModprobe
	case strings.HasSuffix(base, ".conf"), strings.HasPrefix(base, "sysctl"):
		return kindSysctl
	}
	return kindShell
}

// read turns a source into what it does.
func read(s Source) []act {
	k := kindOf(s)
	if k == kindYAML {
		return readYAML(s)
	}
	r := &reader{file: s.Path, kind: k}
	n := 0
	for line := range strings.Lines(string(s.Data)) {
		if n++; n > maxLines {
			break
		}
		r.line(n, strings.TrimRight(line, "\r\n"))
	}
	return r.acts
}

type reader struct {
	file string
	kind kind
	acts []act
}

func (r *reader) add(line int, v verb, key, value, text string) {
	r.acts = append(r.acts, act{verb: v, file: r.file, line: line, kind: r.kind, key: key, value: value, text: strings.TrimSpace(text)})
}

var (
	assignment = regexp.MustCompile(`^\s*-?\s*(net[./][\w./*-]+)\s*=\s*(.*?)\s*$`)
	options    = regexp.MustCompile(`^\s*options\s+(nf_conntrack|ip_conntrack)\s+(.*)$`)
	hook       = regexp.MustCompile(`^\s*install\s+(nf_conntrack|ip_conntrack)\b`)
	module     = regexp.MustCompile(`^\s*(nf_conntrack|ip_conntrack)(_ipv[46])?\s*$`)
)

func (r *reader) line(n int, text string) {
	trimmed := strings.TrimSpace(text)
	if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' && r.kind == kindSysctl {
		return
	}
	switch r.kind {
	case kindModprobe:
		r.modprobe(n, text)
	case kindModulesLoad:
		if m := module.FindStringSubmatch(text); m != nil {
			r.add(n, load, m[1], "", text)
		}
	case kindSysctl:
		r.sysctl(n, text)
	default:
		r.shell(n, text)
	}
}

func (r *reader) sysctl(n int, text string) {
	if m := assignment.FindStringSubmatch(text); m != nil {
		r.add(n, set, dotted(m[1]), m[2], text)
	}
}

func (r *reader) modprobe(n int, text string) {
	if m := options.FindStringSubmatch(text); m != nil {
		for f := range strings.FieldsSeq(m[2]) {
			key, value, _ := strings.Cut(f, "=")
			r.add(n, param, m[1]+"."+key, value, text)
		}
	}
	if hook.MatchString(text) {
		r.add(n, install, "", "", text)
	}
}

// dotted is a setting's name with dots, whichever of both forms was used.
func dotted(key string) string {
	key = strings.TrimPrefix(key, "/proc/sys/")
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return strings.ReplaceAll(key, "/", ".")
	}
	return key
}

var (
	sysctlCommand = regexp.MustCompile(`\bsysctl\s+((?:-\w+\s+|--\w+\s+)*)([^;&|]*)`)
	word          = regexp.MustCompile(`["']?(net[./][\w./-]+)\s*=\s*["']?([^\s"']*)["']?`)
	bootWord      = regexp.MustCompile(`\bsysctl\.(net[./][\w./-]+)=(\S+)`)
	bootParam     = regexp.MustCompile(`(?:^|[\s"'=])(nf_conntrack|ip_conntrack)\.(\w+)=([^\s"']+)`)
	procWrite     = regexp.MustCompile(`\becho\s+(?:-n\s+)?["']?([^\s"'>]+)["']?\s*(?:>|\|\s*(?:sudo\s+)?tee(?:\s+-a)?)\s*["']?/proc/sys/(net/[\w/.-]+)`)
	paramWrite    = regexp.MustCompile(`\becho\s+(?:-n\s+)?["']?([^\s"'>]+)["']?\s*(?:>|\|\s*(?:sudo\s+)?tee)\s*["']?/sys/module/(nf_conntrack|ip_conntrack)/parameters/(\w+)`)
	modprobeRun   = regexp.MustCompile(`\b(?:modprobe|insmod)\s+(?:-\S+\s+)*(nf_conntrack|ip_conntrack)\s+([^;&|>]*=[^;&|>]*)`)
	modprobeLoad  = regexp.MustCompile(`\bmodprobe\s+(?:-\S+\s+)*(nf_conntrack|ip_conntrack)\b`)
	overwriteFile = regexp.MustCompile(`(?:^|[^>&\d])>\s*["']?(/etc/sysctl\.conf|/etc/ufw/sysctl\.conf)\b|\btee\s+["']?(/etc/sysctl\.conf|/etc/ufw/sysctl\.conf)\b`)
	flushRun      = regexp.MustCompile(`\bconntrack\s+(?:-\S+\s+\S+\s+)*(?:-F|--flush)\b`)
	notrackRule   = regexp.MustCompile(`-j\s+NOTRACK\b|--notrack\b|\bnotrack\b`)
	natRule       = regexp.MustCompile(`-j\s+(?:MASQUERADE|SNAT|DNAT|REDIRECT|NETMAP)\b|\bmasquerade\b|\b[sd]nat\s+(?:ip6?\s+)?to\b|--add-masquerade\b`)
	reloadRun     = regexp.MustCompile(`\bsysctl\s+(?:-e\s+)?(?:-p|--load)\s*(?:$|[;&|>])`)
)

// shell finds what a line of a script does, however it is wrapped: as a
// command, inside a here document, or quoted in an echo.
func (r *reader) shell(n int, text string) {
	if m := assignment.FindStringSubmatch(text); m != nil {
		r.add(n, set, dotted(m[1]), unquote(m[2]), text) // in a here document
		return
	}
	if m := options.FindStringSubmatch(text); m != nil || hook.MatchString(text) {
		r.modprobe(n, text)
		return
	}
	for _, m := range procWrite.FindAllStringSubmatch(text, -1) {
		r.add(n, set, dotted(m[2]), m[1], text)
	}
	for _, m := range paramWrite.FindAllStringSubmatch(text, -1) {
		r.add(n, param, m[2]+"."+m[3]+" at run time", m[1], text)
	}
	for _, m := range modprobeRun.FindAllStringSubmatch(text, -1) {
		r.modprobe(n, "options "+m[1]+" "+m[2])
	}
	if m := modprobeLoad.FindStringSubmatch(text); m != nil {
		r.add(n, load, m[1], "", text)
	}
	r.shellWords(n, text)
	r.shellDeeds(n, text)
}

func (r *reader) shellWords(n int, text string) {
	for _, m := range bootWord.FindAllStringSubmatch(text, -1) {
		r.add(n, set, dotted(m[1]), unquote(m[2]), text)
	}
	for _, m := range bootParam.FindAllStringSubmatch(text, -1) {
		r.add(n, param, m[1]+"."+m[2], m[3], text)
	}
	if bootWord.MatchString(text) {
		return
	}
	if sysctlCommand.MatchString(text) || strings.Contains(text, "echo") || strings.Contains(text, "printf") || strings.Contains(text, "sed ") {
		for _, m := range word.FindAllStringSubmatch(text, -1) {
			r.add(n, set, dotted(m[1]), strings.TrimSuffix(unquote(m[2]), `\n`), text)
		}
	}
}

func (r *reader) shellDeeds(n int, text string) {
	for _, d := range []struct {
		re *regexp.Regexp
		v  verb
	}{{overwriteFile, overwrite}, {flushRun, flush}, {notrackRule, notrack}, {natRule, translate}, {reloadRun, reload}} {
		if m := d.re.FindStringSubmatch(text); m != nil {
			r.add(n, d.v, strings.Join(m[1:], ""), "", text)
		}
	}
}

func unquote(s string) string { return strings.Trim(strings.TrimSpace(s), `"'`) }
