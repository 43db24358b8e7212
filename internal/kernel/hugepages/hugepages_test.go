package hugepages

import (
	"os"
	"strings"
	"testing"
)

func TestAdviseChangesNothingElse(t *testing.T) {
	for _, n := range []int{0, 1, 4096, least - 1, least, 64 << 20} {
		b := make([]byte, n)
		Advise(b)
		for i := range b {
			if b[i] != 0 {
				t.Fatalf("%d bytes: number %d is %d", n, i, b[i])
			}
			b[i] = 1
		}
	}
}

func TestAdviseGetsHugePages(t *testing.T) {
	mode, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil || strings.Contains(string(mode), "[never]") {
		t.Skip("this kernel offers no huge pages")
	}
	b := make([]byte, 64<<20)
	Advise(b)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(maps), " hg") {
		t.Error("no piece of memory is marked for huge pages")
	}
	if b[4096] != 1 {
		t.Error("the memory is not what it was")
	}
}
