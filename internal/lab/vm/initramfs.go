package vm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Places in the guest.
const (
	guestModules  = "/lib/ctw-modules"
	guestIndex    = guestModules + "/index.json"
	guestPrograms = "/bin"
)

// guestModule is one line of the index that the guest's modprobe reads.
type guestModule struct {
	Name    string   `json:"name"`
	Depends []string `json:"depends,omitempty"`
	Aliases []string `json:"aliases,omitempty"`
}

// writeInitramfs packs the test binary as /init, the modules, the host's
// programs with the libraries they need, and the package's testdata.
func writeInitramfs(out string, binary string, mods []Module, o *Options) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	c := newCpio(w)
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "run/netns", "run/lock", "etc", "root", "sbin", "bin",
		"usr/sbin", "usr/bin", "var/lib", "var/log", "var/run", "lib", "lib64", "usr/lib"} {
		c.dir(d)
	}
	c.device("dev/console", 5, 1)
	c.device("dev/null", 1, 3)
	init, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	c.file("init", 0o755, init)
	c.symlink("sbin/modprobe", "/init")
	c.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	c.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	c.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost guest\n::1 localhost\n"))
	if err := addModules(c, mods); err != nil {
		return err
	}
	if err := addPrograms(c, o.Programs); err != nil {
		return err
	}
	for guest, host := range o.Files {
		if err := addTree(c, guest, host); err != nil {
			return err
		}
	}
	if dir := filepath.Join(o.packageDir, "testdata"); isDir(dir) {
		if err := addTree(c, "testdata", dir); err != nil {
			return err
		}
	}
	if err := c.close(); err != nil {
		return err
	}
	return w.Flush()
}

func addModules(c *cpioWriter, mods []Module) error {
	index := make([]guestModule, 0, len(mods))
	for _, m := range mods {
		index = append(index, guestModule{m.Name, m.Depends, m.Aliases})
		c.file(guestModules+"/"+m.Name+".ko", 0o644, m.Image)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	c.file(guestIndex, 0o644, data)
	return nil
}

// addPrograms copies programs of this machine and every library that ldd
// names, each under its own path, and links the programs into /bin.
func addPrograms(c *cpioWriter, programs []string) error {
	done := make(map[string]bool)
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("program for the guest: %w", err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c.file(guestPrograms+"/"+filepath.Base(name), 0o755, data)
		for _, lib := range libraries(path) {
			if done[lib] {
				continue
			}
			done[lib] = true
			data, err := os.ReadFile(lib)
			if err != nil {
				return err
			}
			c.file(lib, 0o755, data)
		}
	}
	return nil
}

var lddPath = regexp.MustCompile(`(?m)(/\S+) \(0x`)

func libraries(path string) []string {
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil // a static program
	}
	var libs []string
	for _, m := range lddPath.FindAllSubmatch(bytes.TrimSpace(out), -1) {
		libs = append(libs, string(m[1]))
	}
	return libs
}

func addTree(c *cpioWriter, guest, host string) error {
	return filepath.WalkDir(host, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, host), "/")
		name := filepath.Join(guest, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			c.dir(name)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			c.symlink(name, target)
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			c.file(name, info.Mode(), data)
		}
		return nil
	})
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
