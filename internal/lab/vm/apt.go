package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"
)

// ErrNoMirror means that this machine has no Debian mirror configured, or that
// the mirror cannot be reached and nothing is cached.
var ErrNoMirror = errors.New("no debian mirror to fetch kernels from")

// Series are the kernels the laboratory boots, by the suite that carries them.
// The newest version of a suite, security updates included, is taken.
var Series = []string{"5.10", "6.1", "6.12", "7"}

var seriesSuites = map[string][]string{
	"5.10": {"bullseye", "bullseye-security"},
	"6.1":  {"bookworm", "bookworm-security"},
	"6.12": {"bookworm-backports", "trixie", "trixie-security"},
	"7":    {"trixie-backports"},
}

const (
	keyring  = "/usr/share/keyrings/debian-archive-keyring.gpg"
	indexAge = 24 * time.Hour
)

// Kernel is one Debian kernel unpacked in the cache.
type Kernel struct {
	Series  string // "6.1"
	Release string // "6.1.0-56-cloud-amd64", as uname prints it
	Image   string // the vmlinuz file
	Modules string // the directory of its modules
}

// Cache returns the directory in which kernels are kept between runs:
// CTWARDEN_LAB_CACHE, or ctwarden-lab in the user's cache directory.
func Cache() (string, error) {
	if dir := os.Getenv("CTWARDEN_LAB_CACHE"); dir != "" {
		return dir, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/var/cache"
	}
	return filepath.Join(base, "ctwarden-lab"), nil
}

// Find returns the newest kernel of a series, from the cache if it was fetched
// within a day, otherwise from the mirror. Where the mirror cannot be reached
// a cached kernel of any age will do.
func Find(ctx context.Context, series string) (Kernel, error) {
	cache, err := Cache()
	if err != nil {
		return Kernel{}, err
	}
	unlock, err := lockFile(filepath.Join(cache, "lock"))
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	cached, fresh := fromCache(cache, series)
	if fresh {
		return cached, nil
	}
	k, err := fetch(ctx, cache, series)
	if err != nil && cached.Release != "" {
		return cached, nil
	}
	return k, err
}

func fromCache(cache, series string) (k Kernel, fresh bool) {
	link := filepath.Join(cache, "series-"+series)
	release, err := os.ReadFile(link)
	if err != nil {
		return Kernel{}, false
	}
	k, err = locate(filepath.Join(cache, string(release)), series, string(release))
	if err != nil {
		return Kernel{}, false
	}
	st, err := os.Stat(link)
	return k, err == nil && time.Since(st.ModTime()) < indexAge
}

func fetch(ctx context.Context, cache, series string) (Kernel, error) {
	suites, ok := seriesSuites[series]
	if !ok {
		return Kernel{}, fmt.Errorf("kernel series %q is none of %s", series, strings.Join(Series, ", "))
	}
	a, err := newApt(filepath.Join(cache, "apt-"+series), suites)
	if err != nil {
		return Kernel{}, err
	}
	if err := a.run(ctx, "apt-get", "-q", "update"); err != nil {
		return Kernel{}, fmt.Errorf("%w: %w", ErrNoMirror, err)
	}
	release, packages, err := a.newestKernel(ctx)
	if err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(cache, release)
	if _, err := locate(dir, series, release); err != nil {
		if err := a.unpack(ctx, packages, dir); err != nil {
			return Kernel{}, err
		}
	}
	k, err := locate(dir, series, release)
	if err != nil {
		return Kernel{}, err
	}
	return k, os.WriteFile(filepath.Join(cache, "series-"+series), []byte(release), 0o644)
}

// locate finds image and modules in an unpacked tree: boot/vmlinuz-RELEASE and
// lib/modules, or from 7.x on both in usr/lib/modules.
func locate(dir, series, release string) (Kernel, error) {
	for _, base := range []string{"lib/modules", "usr/lib/modules"} {
		k := Kernel{Series: series, Release: release, Modules: filepath.Join(dir, base, release)}
		if !isDir(k.Modules) {
			continue
		}
		for _, image := range []string{filepath.Join(dir, "boot", "vmlinuz-"+release), filepath.Join(k.Modules, "vmlinuz")} {
			if _, err := os.Stat(image); err == nil {
				k.Image = image
				return k, nil
			}
		}
	}
	return Kernel{}, fmt.Errorf("kernel %s in %s lacks its image or its modules", release, dir)
}

// apt is a private view of the mirror: its own lists and cache, so that
// nothing of the machine's package management is touched.
type apt struct {
	dir  string
	opts []string
}

func newApt(dir string, suites []string) (*apt, error) {
	mirror, err := configuredMirror()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("%w: install debian-archive-keyring: %w", ErrNoMirror, err)
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	var list strings.Builder
	for _, s := range suites {
		uri := mirror
		if strings.HasSuffix(s, "-security") {
			uri = strings.TrimSuffix(mirror, "/") + "-security"
		}
		fmt.Fprintf(&list, "deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, uri, s)
	}
	sources := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(sources, []byte(list.String()), 0o644); err != nil {
		return nil, err
	}
	a := &apt{dir: dir}
	for _, o := range []string{
		"Dir::State=" + filepath.Join(dir, "state"), "Dir::State::status=/dev/null",
		"Dir::Cache=" + filepath.Join(dir, "cache"), "Dir::Etc::sourcelist=" + sources,
		"Dir::Etc::sourceparts=/dev/null", "Dir::Etc::preferencesparts=/dev/null",
		"Acquire::Languages=none", "Acquire::Retries=3", "APT::Sandbox::User=root",
		"Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	} {
		a.opts = append(a.opts, "-o", o)
	}
	return a, nil
}

func (a *apt) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, append(append([]string{}, a.opts...), args...)...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

func (a *apt) run(ctx context.Context, name string, args ...string) error {
	out, err := a.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[len(args)-1], err, lastLines(string(out), 4))
	}
	return nil
}

var (
	dependsImage = regexp.MustCompile(`\blinux-image-(\S+-cloud-amd64)\b`)
	dependsPart  = regexp.MustCompile(`\b(linux-(?:binary|modules)-\S+-cloud-amd64)\b`)
)

// newestKernel follows the meta package to the kernel it stands for. From 7.x
// on the image package is empty and depends on one with the binary and one
// with the modules.
func (a *apt) newestKernel(ctx context.Context) (release string, packages []string, err error) {
	meta, err := a.command(ctx, "apt-cache", "show", "--no-all-versions", "linux-image-cloud-amd64").Output()
	if err != nil {
		return "", nil, fmt.Errorf("look up linux-image-cloud-amd64: %w", err)
	}
	m := dependsImage.FindStringSubmatch(dependsLine(string(meta)))
	if m == nil {
		return "", nil, errors.New("package linux-image-cloud-amd64 names no kernel")
	}
	release = m[1]
	image := "linux-image-" + release
	info, err := a.command(ctx, "apt-cache", "show", "--no-all-versions", image).Output()
	if err != nil {
		return "", nil, fmt.Errorf("look up %s: %w", image, err)
	}
	packages = []string{image}
	for _, m := range dependsPart.FindAllStringSubmatch(dependsLine(string(info)), -1) {
		packages = append(packages, m[1])
	}
	return release, packages, nil
}

func dependsLine(show string) string {
	for line := range strings.Lines(show) {
		if strings.HasPrefix(line, "Depends:") {
			return line
		}
	}
	return ""
}

func (a *apt) unpack(ctx context.Context, packages []string, dir string) error {
	tmp, err := os.MkdirTemp(a.dir, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	get := a.command(ctx, "apt-get", append([]string{"-q", "download"}, packages...)...)
	get.Dir = tmp
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("download %s: %w: %s", strings.Join(packages, " "), err, lastLines(string(out), 4))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("download of %s left no package", strings.Join(packages, " "))
	}
	sort.Strings(debs)
	tree := filepath.Join(tmp, "tree")
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, tree).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, lastLines(string(out), 4))
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tree, dir)
}

// configuredMirror returns the first Debian archive in the machine's sources.
func configuredMirror() (string, error) {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	files = append([]string{"/etc/apt/sources.list"}, files...)
	for _, f := range files {
		if uri := mirrorIn(f); uri != "" {
			return uri, nil
		}
	}
	return "", fmt.Errorf("%w: /etc/apt names no archive whose path ends in /debian", ErrNoMirror)
}

var archiveURI = regexp.MustCompile(`\bhttps?://\S+/debian/?(?:\s|$)`)

func mirrorIn(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(line, "#") {
			continue
		}
		if m := archiveURI.FindString(line); m != "" && !strings.Contains(m, "snapshot") {
			return strings.TrimSuffix(strings.TrimSpace(m), "/")
		}
	}
	return ""
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
