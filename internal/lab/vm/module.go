package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Module is one kernel module and what it says of itself in .modinfo.
type Module struct {
	Name    string // with underscores, as in /proc/modules
	Depends []string
	Aliases []string
	Image   []byte // the uncompressed object
}

// indexModules maps the names of all modules below dir to their files.
func indexModules(dir string) (map[string]string, error) {
	index := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := filepath.Base(path)
		if i := strings.Index(base, ".ko"); i > 0 && !d.IsDir() {
			index[moduleName(base[:i])] = path
		}
		return nil
	})
	return index, err
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// resolveModules returns the named modules and all they need, dependencies
// first. A name that the kernel does not have as a module is passed over: it
// may be built in, or belong to another version.
func resolveModules(dir string, names []string) ([]Module, error) {
	index, err := indexModules(dir)
	if err != nil {
		return nil, fmt.Errorf("index modules: %w", err)
	}
	var out []Module
	seen := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		path, ok := index[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		m, err := readModule(name, path)
		if err != nil {
			return err
		}
		for _, d := range m.Depends {
			if err := add(d); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readModule(name, path string) (Module, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Module{}, err
	}
	image, err := decompress(path, raw)
	if err != nil {
		return Module{}, fmt.Errorf("decompress %s: %w", path, err)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return Module{}, fmt.Errorf("read %s: %w", path, err)
	}
	m := Module{Name: name, Image: image}
	sec := f.Section(".modinfo")
	if sec == nil {
		return Module{}, fmt.Errorf("read %s: no .modinfo section", path)
	}
	info, err := sec.Data()
	if err != nil {
		return Module{}, fmt.Errorf("read %s: %w", path, err)
	}
	for _, kv := range strings.Split(string(info), "\x00") {
		key, val, _ := strings.Cut(kv, "=")
		switch key {
		case "depends":
			for _, d := range strings.Split(val, ",") {
				if d != "" {
					m.Depends = append(m.Depends, moduleName(d))
				}
			}
		case "alias":
			m.Aliases = append(m.Aliases, val)
		}
	}
	return m, nil
}

func decompress(path string, raw []byte) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".xz":
		r, err := xz.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case ".zst":
		r, err := zstd.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	case ".gz":
		r, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	return raw, nil
}
