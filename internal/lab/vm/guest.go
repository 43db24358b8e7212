package vm

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	guestEnv     = "CTWARDEN_GUEST"
	guestLoadEnv = "CTWARDEN_GUEST_LOAD"
)

// InGuest reports whether this process runs in a guest made by this package.
func InGuest() bool { return os.Getenv(guestEnv) != "" }

// Main is what TestMain calls: on a machine it runs the tests, except those
// named TestGuest…, which are for guests; as init of a guest it sets the guest
// up, runs what was asked for, says how it ended and switches the guest off;
// started as modprobe by the guest's kernel it loads a module.
func Main(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "modprobe":
		os.Exit(modprobeMain(os.Args[1:]))
	case os.Getpid() == 1 && os.Getenv(guestEnv) == systemMode:
		fmt.Println("switch to the system:", switchRoot())
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case os.Getpid() == 1 && InGuest():
		guest(m)
	default:
		flag.Parse()
		if skip := flag.Lookup("test.skip"); skip != nil && skip.Value.String() == "" {
			_ = skip.Value.Set("^TestGuest")
		}
		code := m.Run()
		Cleanup()
		os.Exit(code)
	}
}

func guest(m *testing.M) {
	code := 1
	defer func() {
		if r := recover(); r != nil {
			fmt.Println("panic in the guest:", r)
		}
		fmt.Printf("\n%s%d\n", exitMarker, code)
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
	if err := setUp(); err != nil {
		fmt.Println("guest set-up:", err)
		return
	}
	code = m.Run()
}

func setUp() error {
	for _, fs := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := unix.Mount(fs.kind, fs.dir, fs.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", fs.dir, err)
		}
	}
	for _, dir := range []string{"/run/netns", "/run/lock", "/dev/shm"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for k, v := range map[string]string{"PATH": "/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root", "TMPDIR": "/tmp"} {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return err
	}
	load, err := decodeList(os.Getenv(guestLoadEnv))
	if err != nil {
		return err
	}
	for _, l := range load {
		name, params, _ := strings.Cut(l, " ")
		if err := LoadModule(name, params); err != nil {
			return err
		}
	}
	return nil
}

// LoadModule loads a module and what it depends on, in a guest. A module that
// is loaded already, or that this kernel has built in, is fine; one that the
// guest was not given is an error.
func LoadModule(name, params string) error {
	index, err := readIndex()
	if err != nil {
		return err
	}
	return load(index, moduleName(name), params, 0)
}

func readIndex() ([]guestModule, error) {
	data, err := os.ReadFile(guestIndex)
	if err != nil {
		return nil, err
	}
	var index []guestModule
	return index, json.Unmarshal(data, &index)
}

func load(index []guestModule, name, params string, depth int) error {
	i := slices.IndexFunc(index, func(m guestModule) bool { return m.Name == name })
	if i < 0 {
		if _, err := os.Stat("/sys/module/" + name); err == nil {
			return nil
		}
		return fmt.Errorf("module %q: %w", name, os.ErrNotExist)
	}
	if depth > 16 {
		return fmt.Errorf("module %q: dependencies go round in a circle", name)
	}
	for _, d := range index[i].Depends {
		if err := load(index, d, "", depth+1); err != nil {
			return err
		}
	}
	image, err := os.ReadFile(guestModules + "/" + name + ".ko")
	if err != nil {
		return err
	}
	if err := unix.InitModule(image, params); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load module %q: %w", name, err)
	}
	return nil
}

// modprobeMain is the guest's /sbin/modprobe, called by the kernel as
// "modprobe -q -- ALIAS" (kernel/module/kmod.c, call_modprobe).
func modprobeMain(args []string) int {
	index, err := readIndex()
	if err != nil {
		return 1
	}
	code := 0
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		for _, name := range byAlias(index, a) {
			if load(index, name, "", 0) != nil {
				code = 1
			}
		}
	}
	return code
}

func byAlias(index []guestModule, alias string) []string {
	var names []string
	for _, m := range index {
		if m.Name == moduleName(alias) || slices.ContainsFunc(m.Aliases, func(pattern string) bool {
			ok, err := filepath.Match(pattern, alias)
			return err == nil && ok
		}) {
			names = append(names, m.Name)
		}
	}
	return names
}

func encodeList(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(list, "\n")))
}

func decodeList(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("list of modules on the kernel command line: %w", err)
	}
	return strings.Split(string(b), "\n"), nil
}
