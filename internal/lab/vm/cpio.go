package vm

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// cpioWriter writes an archive in the "newc" format that the kernel unpacks
// as its first root file system (Documentation/driver-api/early-userspace/
// buffer-format.rst).
type cpioWriter struct {
	w    io.Writer
	ino  int
	off  int64
	dirs map[string]bool
	err  error
}

func newCpio(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{"": true, ".": true}}
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
	modeChar = 0o020000
)

func (c *cpioWriter) file(name string, perm fs.FileMode, data []byte) {
	c.parents(name)
	c.entry(name, modeFile|uint32(perm.Perm()), 0, 0, data)
}

func (c *cpioWriter) symlink(name, target string) {
	c.parents(name)
	c.entry(name, modeLink|0o777, 0, 0, []byte(target))
}

func (c *cpioWriter) device(name string, major, minor uint32) {
	c.parents(name)
	c.entry(name, modeChar|0o600, major, minor, nil)
}

func (c *cpioWriter) dir(name string) {
	name = strings.Trim(name, "/")
	if c.dirs[name] {
		return
	}
	c.parents(name)
	c.dirs[name] = true
	c.entry(name, modeDir|0o755, 0, 0, nil)
}

func (c *cpioWriter) parents(name string) { c.dir(path.Dir(strings.Trim(name, "/"))) }

func (c *cpioWriter) entry(name string, mode, major, minor uint32, data []byte) {
	name = strings.Trim(name, "/")
	c.ino++
	c.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c.ino, mode,
		0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.write(append([]byte(name), 0))
	c.pad()
	c.write(data)
	c.pad()
}

func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	return c.err
}

func (c *cpioWriter) printf(format string, args ...any) { c.write(fmt.Appendf(nil, format, args...)) }

func (c *cpioWriter) pad() {
	if n := c.off % 4; n != 0 {
		c.write(make([]byte, 4-n))
	}
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	var n int
	n, c.err = c.w.Write(b)
	c.off += int64(n)
}
