package recorded

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
)

// sosreport fills in what sos has as the output of commands, where the files
// themselves are missing.
func (s *stage) sosreport() error {
	return errors.Join(s.sysctls(), s.uname(), s.uptime(), s.table(), s.counters(), s.processes(), s.init())
}

// sysctls writes the settings of "sysctl -a".
func (s *stage) sysctls() error {
	for line := range s.output("kernel/sysctl_-a") {
		key, value, ok := strings.Cut(line, " = ")
		if !ok || !wanted(key) {
			continue
		}
		if err := s.fill(path.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")), value); err != nil {
			return err
		}
	}
	return nil
}

// uname writes the machine's name and release.
func (s *stage) uname() error {
	for line := range s.output("kernel/uname_-a") {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "Linux" {
			return errors.Join(s.fill("/proc/sys/kernel/hostname", f[1]), s.fill("/proc/sys/kernel/osrelease", f[2]))
		}
	}
	return nil
}

// uptime writes the uptime that the boot time of /proc/stat and the time of the
// record give.
func (s *stage) uptime() error {
	boot, ok := BootTime(s.from.Root)
	at, _, known := TakenAt(s.from.Root)
	if !ok || !known || at.Before(boot) {
		return nil
	}
	return s.fill("/proc/uptime", fmt.Sprintf("%.2f 0.00", at.Sub(boot).Seconds()))
}

// said is what conntrack -L says at its end on its standard error, which sos
// records in the midst of the entries, wherever that was.
var said = regexp.MustCompile(`conntrack v[0-9.]+ \(conntrack-tools\): [0-9]+ flow entries have been shown\.\n`)

// table writes the entries that "conntrack -L -o extended" printed, whose lines
// are those of /proc/net/nf_conntrack, for kernels without that file.
func (s *stage) table() error {
	data, err := s.from.ReadFile("/sos_commands/conntrack/conntrack_-L_-o_extended")
	if err != nil && !errors.Is(err, rootfs.ErrTooLarge) {
		return nil // sos has no such output
	}
	var b bytes.Buffer
	for line := range bytes.Lines(said.ReplaceAll(data, nil)) {
		whole := bytes.HasSuffix(line, []byte("\n")) || err == nil
		if whole && (bytes.HasPrefix(line, []byte("ipv4 ")) || bytes.HasPrefix(line, []byte("ipv6 "))) {
			b.Write(bytes.TrimRight(line, "\n"))
			b.WriteByte('\n')
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return s.fill("/proc/net/nf_conntrack", strings.TrimSuffix(b.String(), "\n"))
}

// counters writes what "conntrack -S" printed, name=value for each CPU, as the
// kernel's own file has it: names in a header, values in hexadecimal.
func (s *stage) counters() error {
	names := []string{"found", "invalid", "insert", "insert_failed", "drop", "early_drop", "search_restart", "clash_resolve", "chaintoolong"}
	columns := "entries found invalid insert insert_failed drop early_drop search_restart clashres chainlength"
	count, err := s.from.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		count = []byte("0")
	}
	entries, _ := strconv.ParseUint(strings.TrimSpace(string(count)), 10, 32)
	lines := []string{columns}
	for line := range s.output("conntrack/conntrack_-S") {
		values := make(map[string]uint64)
		for _, f := range strings.Fields(line) {
			name, v, _ := strings.Cut(f, "=")
			values[name], _ = strconv.ParseUint(v, 10, 32)
		}
		if _, ok := values["drop"]; !ok {
			continue
		}
		row := fmt.Sprintf("%08x", entries)
		for _, n := range names {
			row += fmt.Sprintf(" %08x", values[n])
		}
		lines = append(lines, row)
	}
	if len(lines) == 1 {
		return nil
	}
	return s.fill("/proc/net/stat/nf_conntrack", strings.Join(lines, "\n"))
}

const maxProcesses = 20_000

// processes writes names and command lines from the output of ps.
func (s *stage) processes() error {
	n := 0
	for line := range s.output("process/ps_auxwwwm", "process/ps_auxwww") {
		f := strings.Fields(line)
		if len(f) < 11 || strings.Trim(f[1], "0123456789") != "" || strings.HasPrefix(f[10], "[") {
			continue // the header, a thread, a kernel thread
		}
		if n++; n > maxProcesses {
			return nil
		}
		dir := path.Join("/proc", f[1])
		comm := path.Base(strings.TrimSuffix(f[10], ":"))
		err := errors.Join(s.fill(path.Join(dir, "comm"), comm[:min(15, len(comm))]),
			s.fillRaw(path.Join(dir, "cmdline"), strings.Join(f[10:], "\x00")+"\x00"))
		if err != nil {
			return err
		}
	}
	return nil
}

// init marks a machine that systemd booted, whose program sos does not copy.
func (s *stage) init() error {
	for _, name := range []string{"/etc/systemd/system.conf", "/usr/lib/systemd/system.conf", "/sos_commands/systemd"} {
		if s.from.Exists(name) {
			return os.MkdirAll(filepath.Join(s.to, "run/systemd/system"), 0o700)
		}
	}
	return nil
}

// output calls yield for each line of the first of some outputs that is there.
func (s *stage) output(names ...string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, name := range names {
			data, err := s.from.ReadFile("/sos_commands/" + name)
			if err != nil && !errors.Is(err, rootfs.ErrTooLarge) {
				continue
			}
			sc := bufio.NewScanner(bytes.NewReader(data))
			sc.Buffer(nil, rootfs.MaxFile+1)
			for sc.Scan() {
				if !yield(strings.TrimSpace(sc.Text())) {
					return
				}
			}
			return
		}
	}
}

// BootTime is when a recorded machine booted, by its /proc/stat.
func BootTime(root string) (at time.Time, ok bool) {
	data, err := rootfs.Tree{Root: root}.ReadFile("/proc/stat")
	if err != nil {
		return at, false
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Unix(n, 0), err == nil && n > 0
		}
	}
	return at, false
}

// TakenAt is when sos made its report, by the output of date, and the zone of
// the machine's clock, in which logs without a zone are.
func TakenAt(root string) (at time.Time, zone *time.Location, ok bool) {
	for _, dir := range []string{"date", "general"} {
		local, found := readDate(root, dir, "date")
		utc, exact := readDate(root, dir, "date_--utc")
		switch {
		case exact && found:
			return utc, time.FixedZone("", int(local.Sub(utc).Round(15*time.Minute)/time.Second)), true
		case exact:
			return utc, time.UTC, true
		case found:
			return local, time.UTC, true
		}
	}
	return at, nil, false
}

// readDate reads what date printed, without heed to its zone.
func readDate(root, dir, name string) (at time.Time, ok bool) {
	data, err := rootfs.Tree{Root: root}.ReadFile(path.Join("/sos_commands", dir, name))
	if err != nil {
		return at, false
	}
	f := strings.Fields(string(data))
	switch {
	case len(f) == 6: // Wed Nov 25 22:55:59 UTC 2026
		at, err = time.Parse("Jan 2 15:04:05 2006", strings.Join([]string{f[1], f[2], f[3], f[5]}, " "))
	case len(f) == 7: // Wed Nov 25 10:55:59 PM UTC 2026
		at, err = time.Parse("Jan 2 03:04:05 PM 2006", strings.Join([]string{f[1], f[2], f[3], f[4], f[6]}, " "))
	default:
		return at, false
	}
	return at, err == nil
}
