package ct

import (
	"fmt"
	"strconv"
	"strings"
)

// KernelVersion is the version of a Linux kernel, without the distribution's
// suffix. Stable and vendor kernels carry backports, so it bounds what to
// expect and proves nothing.
type KernelVersion struct {
	Major, Minor, Patch int
}

// ParseKernelVersion reads the release that uname prints, "6.1.0-50-cloud-amd64".
func ParseKernelVersion(release string) (KernelVersion, error) {
	var v [3]int
	rest := release
	for i := range v {
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		x, err := strconv.Atoi(rest[:n])
		if err != nil {
			if i < 2 {
				return KernelVersion{}, fmt.Errorf("kernel release %q has no version number", release)
			}
			break
		}
		v[i] = x
		rest = rest[n:]
		if !strings.HasPrefix(rest, ".") {
			if i == 0 {
				return KernelVersion{}, fmt.Errorf("kernel release %q has no minor version", release)
			}
			break
		}
		rest = rest[1:]
	}
	return KernelVersion{v[0], v[1], v[2]}, nil
}

// AtLeast reports whether the version is major.minor or later.
func (v KernelVersion) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// IsZero reports whether the version is unknown.
func (v KernelVersion) IsZero() bool { return v == KernelVersion{} }

// String prints "6.18.44".
func (v KernelVersion) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}
